"""YAML with comments: entries in, text out. PyYAML quotes the names and values; the comments are ours."""

import io
import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

COMPONENT = "rds_lake.components.TablePipeline"


class _Dumper(yaml.SafeDumper):
    """Everything in flow style, in the given order, and a text with line breaks or the like escaped: never folded."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """A text as a YAML scalar."""
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


_Dumper.add_representer(str, _Dumper.represent_text)


@dataclass(frozen=True)
class Entry:
    """One key of the YAML with its value (other entries, or whatever YAML can say) and the comments above it."""

    key: str
    value: Any
    notes: tuple[str, ...] = ()


def whole_file(head: str, entries: Sequence[Entry]) -> str:
    """A defs.yaml with these attributes, below a comment."""
    body = textwrap.indent("\n".join(_render(entries)), "  ")
    return f"{_comment(head)}\n{line('type', COMPONENT)}\n\nattributes:\n{body}\n"


def _render(entries: Sequence[Entry]) -> Iterator[str]:
    for entry in entries:
        yield from map(_comment, entry.notes)
        if isinstance(entry.value, tuple):
            yield f"{entry.key}:"
            yield from (textwrap.indent(line(column.key, column.value), "  ") for column in entry.value)
        elif entry.value is not None:
            yield line(entry.key, entry.value)


def line(key: str, value: Any) -> str:  # noqa: ANN401 - whatever YAML can say
    """One key with its value, all on one line; the library quotes what has to be quoted."""
    dumper = _Dumper(io.StringIO(), default_flow_style=True, sort_keys=False)
    node = dumper.represent_data({key: value})
    node.flow_style = False  # type: ignore[attr-defined]
    text: str = yaml.serialize(node, Dumper=yaml.SafeDumper, allow_unicode=True, width=math.inf)
    return text.rstrip("\n")


def _comment(text: str) -> str:
    """A comment of one line; what YAML does not let stand in a text is left out."""
    return "# " + one_line(text)


def one_line(text: str) -> str:
    """A text on one line, without what YAML does not let stand in one."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())
