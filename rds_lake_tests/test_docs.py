"""The documentation keeps up with the code: commands, variables, YAML keys, manifest fields, links and examples."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

import jsonschema
import pytest
import typer.main
import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from rds_lake import settings
from rds_lake.audit_log.record import NAMES, SORT
from rds_lake.cli import app
from rds_lake.extract.types import Column
from rds_lake.files.check import FILE, RAW, REASONS
from rds_lake.files.options import CsvOptions
from rds_lake.files.schema import LINE, TableSchema, read_schema
from rds_lake.files.spec import Cleaning, DropZoneSpec, FileFeedSpec
from rds_lake.lake.agreement import agreed_from_json, agreed_to_json
from rds_lake.lake.batch import new_batch_id
from rds_lake.lake.manifest import File, Manifest
from rds_lake.quality.rules import compile_rules
from rds_lake.quality.split import DISCARDED_FIELDS
from rds_lake.spec import Rule, TableSpec

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
README, TABLES, MANIFEST, FILES = (
    ROOT / name for name in ("README.md", "docs/tables.md", "docs/manifest.md", "docs/files.md")
)
COMPONENT = "type: rds_lake.components.TablePipeline"
RECEIVERS: dict[str, type[BaseModel]] = {"DropZone": DropZoneSpec, "FileFeed": FileFeedSpec}
GROUP = typer.main.get_command(app)
COMMANDS = {
    f"{name} {word}".strip(): found
    for name, command in GROUP.commands.items()  # type: ignore[attr-defined]
    for word, found in getattr(command, "commands", {"": command}).items()
}
RULES = {get_args(kind.model_fields["rule"].annotation)[0]: kind for kind in get_args(get_args(Rule)[0])}


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def table_rows(markdown: str) -> dict[str, list[str]]:
    """The rows of all Markdown tables whose first cell is one word in backticks: that word, and the other cells."""
    rows = {}
    for line in markdown.splitlines():
        found = re.match(r"\| `([^`]+)` \|(.*)\|$", line)
        if found:
            rows[found.group(1)] = [cell.strip().strip("`") for cell in found.group(2).split("|")]
    return rows


def section(markdown: str, heading: str) -> str:
    """What stands below a heading, up to the next one of the same or a higher level."""
    level = heading.index(" ")
    body = markdown.split(f"\n{heading}\n", 1)[1]
    return re.split(rf"^#{{1,{level}}} ", body, maxsplit=1, flags=re.MULTILINE)[0]


def blocks(language: str, page: Path | None = None) -> list[tuple[Path, str]]:
    found = re.compile(rf"^```{language}\n(.*?)^```$", re.DOTALL | re.MULTILINE)
    return [(page, block) for page in ([page] if page else PAGES) for block in found.findall(text(page))]


def default_of(field: Any) -> str:
    """A model field's default, as the documentation writes it."""
    value = field.default_factory() if field.default_factory else field.default
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, BaseModel):
        return "see below"
    if value is None:
        return "none"
    if isinstance(value, tuple) and value:
        return ", ".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value or "empty")


def models_in(annotation: Any) -> Iterator[tuple[str, type[BaseModel]]]:
    """The models of a field's type, each with what stands between the field's name and their keys."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield ".", annotation
    elif get_origin(annotation) is dict:
        yield ".<name>.", get_args(annotation)[1]
    elif isinstance(annotation, UnionType):
        for part in get_args(annotation):
            yield from models_in(part)


def yaml_keys(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every key that a model's YAML may have, with its default; rules are documented apart."""
    for name, field in model.model_fields.items():
        key = prefix + (field.alias or name)
        yield key, default_of(field)
        for between, inner in models_in(field.annotation):
            yield from yaml_keys(inner, key + between)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_readme_names_every_command_with_its_options(name):
    row = next((line for line in text(README).splitlines() if line.startswith(f"| `rds-lake {name}")), "")
    assert row, f"no row for rds-lake {name}"
    for parameter in COMMANDS[name].params:
        if parameter.param_type_name == "option" and parameter.name != "help":
            words = [*parameter.opts, *parameter.secondary_opts]
            assert any(word in row for word in words), f"{words} of rds-lake {name} are not documented"


def test_docs_name_no_command_that_is_not_there():
    named = {word for page in PAGES for word in re.findall(r"`(?:\.venv/bin/)?rds-lake ([a-z]+)", text(page))}
    assert named == {name.split()[0] for name in COMMANDS}


def test_readme_names_every_make_target_that_it_uses():
    targets = set(re.findall(r"^(\w+):.*## ", text(ROOT / "Makefile"), re.MULTILINE))
    used = set(re.findall(r"`make (\w+)", text(README)))
    assert {"demo", "test"} <= used <= targets


@pytest.mark.parametrize("variable", sorted(settings.VARIABLES))
def test_readme_lists_every_variable_with_its_default(variable):
    default, *_ = table_rows(section(text(README), "## Configuration"))[variable]
    if variable in settings.DEFAULTS:
        assert default == settings.DEFAULTS[variable]


def test_docs_name_no_variable_that_is_not_there():
    named = {word for page in PAGES for word in re.findall(r"\bRDS_LAKE_[A-Z_]+\b", text(page))}
    assert named == set(settings.VARIABLES)


def test_every_yaml_key_is_documented_with_its_default():
    documented = {key: cells[1] for key, cells in table_rows(section(text(TABLES), "## Keys")).items()}
    assert documented == dict(yaml_keys(TableSpec))


@pytest.mark.parametrize("kind", sorted(RULES))
def test_every_rule_is_documented_with_its_keys_and_defaults(kind):
    documented = {key: cells[1] for key, cells in table_rows(section(text(TABLES), f"### `{kind}`")).items()}
    assert documented == dict(yaml_keys(RULES[kind]))


def test_implied_rules_are_documented():
    implied = table_rows(section(text(TABLES), "### Rules that are implied"))
    with_key, without = TableSpec(table="t", key=("id",)), TableSpec(table="t")
    made = [*compile_rules(with_key, ("id",), source_unique=False).rules]
    made += compile_rules(without, ("id",), source_unique=False).rules
    labels = {rule.label.replace("_id", "_<key>") for rule in made}
    wide = [Column(f"c{number}", "longtext") for number in range(70)]
    fits = compile_rules(with_key, (), source_unique=True, carried=wide).rules[1:]
    labels |= {rule.label.replace("fits_c0", "fits_<column>") for rule in (fits[0], fits[-1])}
    assert labels == set(implied)


def test_what_a_discarded_row_carries_is_documented():
    documented = table_rows(section(text(TABLES), "## Rules"))
    assert {field.name for field in DISCARDED_FIELDS} <= set(documented)


def test_every_manifest_field_is_documented():
    manifest = Manifest(
        "t", "staging", "p", "b", (File("k", 1, 1, "s"),), (Column("c", "int", as_="string"),), "1-a", "f"
    )
    stored = json.loads(manifest.to_json("lake"))
    assert set(table_rows(section(text(MANIFEST), "## Fields"))) == set(json_fields(stored))


def json_fields(value: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, inner in value.items():
        children = inner[0] if isinstance(inner, list) else inner
        path = f"{prefix}{name}" + ("[]" if isinstance(inner, list) else "")
        if name != "meta":  # its fields say what it is
            yield prefix + name
        if isinstance(children, dict):
            yield from json_fields(children, path + ".")


def test_the_manifest_example_is_one():
    example = blocks("json", MANIFEST)[0][1]
    manifest = Manifest.from_json(example.encode(), "lake", "the example")
    assert manifest.rows == json.loads(example)["rows"]
    assert json.loads(manifest.to_json("lake")) == json.loads(example)
    for batch in (manifest.batch, str(manifest.parent), new_batch_id()):
        assert re.fullmatch(r"\d{8}T\d{6}-[0-9a-f]{8}", batch), batch


def test_the_example_of_an_agreed_schema_is_one() -> None:
    example = blocks("json", MANIFEST)[1][1]
    agreed = agreed_from_json(example.encode(), "the example")
    assert json.loads(agreed_to_json(agreed)) == json.loads(example)
    documented = set(table_rows(section(text(MANIFEST), "## The agreed schema")))
    assert set(json.loads(example)) <= documented


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", text(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_resolve(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", text(page)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}"


def test_yaml_examples_validate():
    examples = [(page, block) for page, block in blocks("yaml") if block.startswith(COMPONENT)]
    assert {page for page, _ in examples} >= {README, TABLES}
    for _, block in examples:
        TableSpec.model_validate(yaml.safe_load(block)["attributes"])


@pytest.mark.parametrize(
    ("model", "heading"), [(DropZoneSpec, "### Keys of a drop zone"), (FileFeedSpec, "### Keys of a feed")]
)
def test_every_key_of_drop_zones_and_feeds_is_documented_with_its_default(model, heading):
    documented = {key: cells[1] for key, cells in table_rows(section(text(FILES), heading)).items()}
    apart = ("csv.", "columns.", "clean.", "tables.<name>.csv.")
    assert documented == {key: value for key, value in yaml_keys(model) if not key.startswith(apart)}


def test_every_key_that_they_share_is_documented_with_its_default():
    reading = table_rows(section(text(FILES), "## Reading text"))
    assert {key: reading[key][1] for key, _ in yaml_keys(CsvOptions)} == dict(yaml_keys(CsvOptions))
    cleaning = table_rows(section(text(FILES), "### Cleaning"))
    assert {key: cells[1] for key, cells in cleaning.items()} == dict(yaml_keys(Cleaning))


def test_the_examples_of_drop_zones_and_feeds_have_every_key():
    for name, model in RECEIVERS.items():
        [block] = [block for _, block in blocks("yaml") if block.startswith(f"type: rds_lake.components.{name}\n")]
        attributes = yaml.safe_load(block)["attributes"]
        model.model_validate(attributes)
        assert set(attributes) == {key for key, _ in yaml_keys(model) if "." not in key}


def test_the_json_schema_of_schema_files_is_that_of_the_model_and_their_example_keeps_it():
    shipped = json.loads(text(ROOT / "docs/table-schema.json"))
    assert shipped == TableSchema.model_json_schema()
    [example] = [block for page, block in blocks("json") if page == FILES]
    jsonschema.validate(json.loads(example), shipped)
    assert read_schema(example.encode(), "the example").allowed_operations == ("truncate", "schema")


def test_every_attribute_of_the_audit_log_is_documented():
    named = set(re.findall(r"`([A-Z][A-Za-z0-9]+)`", section(text(FILES), "## The audit log")))
    assert {*NAMES.values(), SORT} <= named


def test_what_a_discarded_row_of_a_file_carries_is_documented():
    assert {FILE, LINE, REASONS, RAW} <= set(table_rows(section(text(FILES), "## Reading text")))


def test_the_full_example_has_every_key_and_every_rule():
    block = next(block for page, block in blocks("yaml") if page == TABLES and block.startswith(COMPONENT))
    attributes = yaml.safe_load(block)["attributes"]
    assert {rule["rule"] for rule in attributes["rules"]} == set(RULES)
    assert set(attributes) == {key for key, _ in yaml_keys(TableSpec) if "." not in key}


def test_python_examples_are_python():
    for page, block in blocks("python"):
        compile(block, str(page), "exec")


def test_every_test_that_the_guarantees_name_is_there() -> None:
    tests = "\n".join(text(page) for page in (ROOT / "rds_lake_tests").rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", text(ROOT / "docs/guarantees.md")))
    assert len(named) > 8
    assert [name for name in sorted(named) if f"def {name}(" not in tests] == []
