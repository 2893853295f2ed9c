"""Asset checks: what each found, in one line. They read the batches again, apart from the code that wrote them.

A check looks at the partitions of its run; run alone, at all of them. Blocking ones keep staging's dependants (the
archive and the warehouse) from going on.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg
from dagster import AssetCheckExecutionContext, AssetCheckResult, AssetCheckSeverity, AssetCheckSpec, MetadataValue

from rds_lake.assets.audited import record_blocked
from rds_lake.assets.common import failures, run_partitions
from rds_lake.extract.reader import NULLED
from rds_lake.extract.snapshot import open_snapshot
from rds_lake.lake.keys import TableKeys
from rds_lake.lake.manifest import Manifest, Manifests, unaccounted
from rds_lake.lake.store import ObjectStore
from rds_lake.plan import lookup_values
from rds_lake.quality.fits import is_fit
from rds_lake.quality.inspect import Report, RuleReport, inspect
from rds_lake.resources.services import AuditResource, LakeResource, RdsResource, WarehouseResource
from rds_lake.spec import Stage, TableSpec
from rds_lake.verify.audit import Audit, TableVerdict
from rds_lake.warehouse import ledger
from rds_lake.warehouse.statements import Target
from rds_lake.wording import counted

SHOWN = 20
"""Partitions that a failing check names."""

FITS_CHECK = "fits_warehouse"
"""The check of landed rows that reports what the warehouse cannot hold."""

VERIFIED = "verified"
"""The check that audits source, lake and warehouse: dear, so it runs when it is asked for, and with no sync."""


def table_checks(spec: TableSpec) -> list[dg.AssetChecksDefinition]:
    """All checks of a table."""
    return [
        _raw_check(spec),
        _rules_check(spec, "landing"),
        _rules_check(spec, "staging"),
        _accounted_check(spec),
        _schema_check(spec),
        *([_carried_check(spec)] if any(column.as_ == "null" for column in spec.columns.values()) else []),
        _in_step_check(spec),
        _verified_check(spec),
    ]


def _raw_check(spec: TableSpec) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=spec.asset("raw"),
        name="in_a_partition",
        description="Every row of the source has a cursor inside a partition; a row without would never be landed.",
    )
    def in_a_partition(rds: RdsResource) -> AssetCheckResult:
        with failures(), open_snapshot(rds.source(), spec) as snapshot:
            before, without = snapshot.rows_outside()
            future = snapshot.rows_in_future()
        return raw_result(spec, before, without, future)

    return in_a_partition


def raw_result(spec: TableSpec, before: int, without: int, future: int = 0) -> AssetCheckResult:
    """What the check of the source says.

    Args:
        spec: the table's YAML.
        before: rows older than the first partition.
        without: rows without a cursor value that the YAML leaves out: a warning, because it says so on purpose.
        future: rows far above the fence: a warning, because they will come, if late.
    """
    found = []
    column, zone = (spec.cursor.column, spec.cursor.timezone) if spec.cursor else ("", "")
    if before:
        start = spec.partitions.start if spec.partitions else None
        found.append(
            f"{counted(before, 'row is', 'rows are')} older than partitions.start ({start}), so in no partition. "
            f"Set an earlier start in defs/{spec.table}/defs.yaml; a zero date (0000-00-00) is older than any start, "
            f"correct {column} at the source where there is one."
        )
    if without:
        found.append(
            f"{counted(without, 'row has', 'rows have')} no {column}: left out, as cursor.nulls says (exclude). "
            f"Fill {column} at the source, or set cursor.nulls to include in defs/{spec.table}/defs.yaml."
        )
    if future:
        found.append(
            f"{counted(future, 'row has its', 'rows have their')} {column} more than a day ahead of the source's clock "
            f"and {'waits' if future == 1 else 'wait'} for it: a date that stands for 'never', "
            f"a wrong clock, another time zone than {zone}, or another cursor.epoch."
        )
    return AssetCheckResult(
        passed=not found,
        severity=AssetCheckSeverity.ERROR if before else AssetCheckSeverity.WARN,
        description=" ".join(found) or "every row lies in a partition",
        metadata={
            "rows before the first partition": before,
            "rows without a cursor": without,
            "rows in the future": future,
        },
    )


def _rules_check(spec: TableSpec, stage: Stage) -> dg.AssetChecksDefinition:
    """One scan, one check per declared rule that looks at a row alone; on staging the key's uniqueness as well."""
    blocking = stage == "staging"
    severity = AssetCheckSeverity.ERROR if blocking else AssetCheckSeverity.WARN
    doing = "blocks the load" if blocking else "reports what the split will discard"
    labels = [rule.label for rule in spec.rules if rule.rule != "unique"]
    asset = spec.asset(stage)
    specs = [
        AssetCheckSpec(label, asset=asset, description=f"Every row keeps the rule {label}; {doing}.", blocking=blocking)
        for label in labels
    ]
    if blocking:
        text = "No key" if spec.key else "No whole row"
        specs.append(
            AssetCheckSpec("unique_key", asset=asset, description=f"{text} stands twice in a partition.", blocking=True)
        )
    else:
        specs.append(AssetCheckSpec(FITS_CHECK, asset=asset, description=f"Redshift can hold every row; {doing}."))

    @dg.multi_asset_check(name=f"{asset}_rules", specs=specs, can_subset=True)
    def rules(
        context: AssetCheckExecutionContext, rds: RdsResource, lake: LakeResource, audit: AuditResource
    ) -> Iterator[AssetCheckResult]:
        with failures():
            store = lake.store()
            manifests = current(context.run.tags, store, spec, stage)
            found = inspect(store, spec, lookup_values(rds.source(), spec), list(manifests.values()), keys=blocking)
        results = [_result(key.name, spec, asset, found, severity) for key in sorted(context.selected_asset_check_keys)]
        if blocking:
            record_blocked(context, audit, spec, [str(each.check_name) for each in results if not each.passed])
        yield from results

    return rules


def _result(name: str, spec: TableSpec, asset: str, found: Report, severity: AssetCheckSeverity) -> AssetCheckResult:
    """The result of one of a stage's checks."""
    if name == "unique_key":
        return _unique_result(spec, asset, found)
    if name == FITS_CHECK:
        return fits_result(asset, found)
    report = next((item for item in found.rules if item.label == name), RuleReport(name, 0))
    return _rule_result(asset, found.rows, report, severity)


def current(tags: Mapping[str, str], store: ObjectStore, spec: TableSpec, stage: Stage) -> dict[str, Manifest]:
    """The current batches of a run's partitions, or of all partitions for a run that names none."""
    manifests = Manifests(store, TableKeys.of(spec))
    partitions = run_partitions(tags, spec.partitioning)
    if partitions is None:
        partitions = sorted(manifests.partitions(stage))
    return {key: item.manifest for key, item in manifests.read_all(stage, partitions).items()}


def _rule_result(asset: str, rows: int, report: RuleReport, severity: AssetCheckSeverity) -> AssetCheckResult:
    found = f"all {rows:,} rows keep {report.label}"
    facts: dict[str, Any] = {"rows": rows, "rows that break it": report.broken}
    if report.broken:
        worst = ", ".join(f"{_shown(value)} ({count:,})" for value, count in report.values[:3])
        more = ", ..." if len(report.values) > 3 else ""
        found = f"{report.broken:,} of {rows:,} rows break {report.label}" + (f": {worst}{more}" if worst else "")
        facts["distinct bad values shown"] = len(report.values)
        if report.values:
            records = [dg.TableRecord({"value": _shown(value), "rows": count}) for value, count in report.values]
            facts["bad values"] = MetadataValue.table(records)
        if report.keys:
            facts["some keys"] = MetadataValue.json(list(report.keys))
    return AssetCheckResult(
        passed=not report.broken,
        asset_key=asset,
        check_name=report.label,
        severity=severity,
        description=found,
        metadata=facts,
    )


def _shown(value: str | None) -> str:
    return "NULL" if value is None else f"'{value}'"


def fits_result(asset: str, found: Report) -> AssetCheckResult:
    """What the check says that looks for rows which the warehouse cannot hold."""
    broken = {report.label: report.broken for report in found.rules if is_fit(report.label) and report.broken}
    keys = [key for report in found.rules if report.label in broken for key in report.keys]
    parts = ", ".join(f"{label} ({count:,})" for label, count in broken.items())
    text = f"rows that Redshift cannot hold break {parts}; the split discards them" if broken else ""
    return AssetCheckResult(
        passed=not broken,
        asset_key=asset,
        check_name=FITS_CHECK,
        severity=AssetCheckSeverity.WARN,
        description=text or f"Redshift can hold all {found.rows:,} rows",
        metadata={"rows": found.rows, **broken, **({"some keys": MetadataValue.json(keys[:SHOWN])} if keys else {})},
    )


def _unique_result(spec: TableSpec, asset: str, found: Report) -> AssetCheckResult:
    what = ", ".join(spec.key) or "whole row"
    text = f"{found.repeated_keys:,} values of {what} stand more than once" if found.repeated_keys else ""
    return AssetCheckResult(
        passed=not found.repeated_keys,
        asset_key=asset,
        check_name="unique_key",
        description=text or f"{what} is unique in all {found.rows:,} rows",
        metadata={"rows": found.rows, "repeated": found.repeated_keys},
    )


def _accounted_check(spec: TableSpec) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=spec.asset("staging"),
        additional_deps=[spec.asset("discarded"), spec.asset("landing")],
        name="accounted_for",
        description="Every landed row is either staged or discarded: landed = staged + discarded, for each partition.",
        blocking=True,
    )
    def accounted_for(
        context: AssetCheckExecutionContext, lake: LakeResource, audit: AuditResource
    ) -> AssetCheckResult:
        with failures():
            store = lake.store()
            stages: tuple[Stage, ...] = ("landing", "staging", "discarded")
            landed, staged, discarded = (current(context.run.tags, store, spec, stage) for stage in stages)
        result = accounted_result(landed, staged, discarded)
        record_blocked(context, audit, spec, [] if result.passed else ["accounted_for"])
        return result

    return accounted_for


def accounted_result(
    landed: Mapping[str, Manifest], staged: Mapping[str, Manifest], discarded: Mapping[str, Manifest]
) -> AssetCheckResult:
    """Whether the batches of three stages add up, partition by partition, and were made from one another."""
    bad = unaccounted(landed, staged, discarded)
    totals = [sum(item.rows for item in stage.values()) for stage in (landed, staged, discarded)]
    found = (
        f"{totals[0]:,} landed = {totals[1]:,} staged + {totals[2]:,} discarded in {counted(len(landed), 'partition')}"
    )
    if bad:
        found = f"{len(bad):,} of {len(landed):,} partitions do not add up, the first is {bad[0]}. Materialise staging."
    return AssetCheckResult(
        passed=not bad,
        description=found,
        metadata={
            "landed": totals[0],
            "staged": totals[1],
            "discarded": totals[2],
            "partitions": len(landed),
            "partitions that do not add up": MetadataValue.json(bad[:SHOWN]),
        },
    )


def _schema_check(spec: TableSpec) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=spec.asset("landing"),
        name="schema_as_declared",
        description="The landed columns are those that the YAML declares, with the types that it gives.",
    )
    def schema_as_declared(context: AssetCheckExecutionContext, lake: LakeResource) -> AssetCheckResult:
        with failures():
            landed = current(context.run.tags, lake.store(), spec, "landing")
        return schema_result(spec, list(landed.values()))

    return schema_as_declared


def schema_result(spec: TableSpec, landed: Sequence[Manifest]) -> AssetCheckResult:
    """Whether landed batches have the declared columns."""
    differences: set[str] = set()
    for manifest in landed:
        present = {column.name: column.type for column in manifest.columns}
        for name, declared in spec.columns.items():
            if declared.as_ == "exclude":
                continue
            if name not in present:
                differences.add(f"{name} is declared and not there")
            elif declared.type and not _same_type(declared.type, present[name]):
                differences.add(f"{name} is {present[name]}, declared is {declared.type}")
    extra = sorted({c.name for m in landed for c in m.columns} - set(spec.columns)) if spec.columns else []
    found = "; ".join(sorted(differences)) or f"{len(spec.columns):,} declared columns are as declared"
    return AssetCheckResult(
        passed=not differences,
        severity=AssetCheckSeverity.ERROR,
        description=found + (f"; not declared: {', '.join(extra)}" if extra else ""),
        metadata={"differences": MetadataValue.json(sorted(differences)), "not declared": MetadataValue.json(extra)},
    )


def _carried_check(spec: TableSpec) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=spec.asset("landing"),
        name="carried_whole",
        description="No value became NULL because it cannot be carried whole (columns with 'as: null').",
    )
    def carried_whole(context: AssetCheckExecutionContext, lake: LakeResource) -> AssetCheckResult:
        with failures():
            landed = current(context.run.tags, lake.store(), spec, "landing")
        return carried_result(landed)

    return carried_whole


def carried_result(landed: Mapping[str, Manifest]) -> AssetCheckResult:
    """Whether landed batches hold NULL where the source holds a value."""
    counts: Counter[str] = Counter()
    for manifest in landed.values():
        counts.update({name.removeprefix(NULLED): count for name, count in manifest.details.items()})
    parts = ", ".join(f"{column} ({count:,})" for column, count in sorted(counts.items()))
    rows = sum(manifest.rows for manifest in landed.values())
    nulled = counted(
        counts.total(), "value could not be carried whole and is NULL", "values could not be carried whole and are NULL"
    )
    return AssetCheckResult(
        passed=not counts,
        severity=AssetCheckSeverity.WARN,
        description=f"{nulled}: {parts}" if counts else f"every value of {counted(rows, 'row')} is carried whole",
        metadata={"rows": rows, "values made NULL": counts.total(), **counts},
    )


def _same_type(declared: str, present: str) -> bool:
    """Types are equal with or without the display width that older servers add to integers."""
    plain = [re.sub(r"int\(\d+\)", "int", text.lower()).replace(" ", "") for text in (declared, present)]
    return plain[0] == plain[1]


def _in_step_check(spec: TableSpec) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=spec.asset("warehouse"),
        additional_deps=[spec.asset("staging")],
        name="in_step",
        description="The ledger names the current staging batch of each partition, and the table holds its rows.",
    )
    def in_step(
        context: AssetCheckExecutionContext, lake: LakeResource, warehouse: WarehouseResource
    ) -> AssetCheckResult:
        with failures():
            staged = current(context.run.tags, lake.store(), spec, "staging")
            loaded: dict[str, ledger.Entry] = {}
            rows: dict[str, int] = {}
            if staged:
                target = Target(spec, next(iter(staged.values())).columns)
                with warehouse.warehouse().connect() as session:
                    loaded = ledger.read(session, spec.table)
                    rows = ledger.count_target(session, target, list(staged)) if loaded else {}
        return in_step_result(staged, loaded, rows)

    return in_step


def in_step_result(
    staged: Mapping[str, Manifest], loaded: Mapping[str, ledger.Entry], rows: Mapping[str, int]
) -> AssetCheckResult:
    """Whether ledger and target agree with staging.

    Args:
        staged: the current staging batches.
        loaded: the ledger's entries.
        rows: the target's rows in each partition's window.
    """
    bad = {
        key: f"staged {batch.rows} rows as {batch.batch}, holds {rows.get(key, 0)} rows"
        + (f" of {loaded[key].batch}" if key in loaded else ", never loaded")
        for key, batch in staged.items()
        if key not in loaded or loaded[key].batch != batch.batch or rows.get(key) != loaded[key].loaded
    }
    superseded = sum(batch.rows - rows.get(key, 0) for key, batch in staged.items() if key not in bad)
    held = sum(rows.get(key, 0) for key in staged)
    found = f"{counted(held, 'row')} in {counted(len(staged), 'partition')}, as staged"
    if superseded:
        found += f"; {superseded:,} staged rows have a newer version in another partition"
    if bad:
        found = f"{len(bad):,} of {len(staged):,} partitions differ, the first is {min(bad)}: {bad[min(bad)]}"
    return AssetCheckResult(
        passed=not bad,
        description=found,
        metadata={
            "rows": held,
            "partitions": len(staged),
            "superseded": superseded,
            "differences": MetadataValue.json(dict(list(bad.items())[:SHOWN])),
        },
    )


def _verified_check(spec: TableSpec) -> dg.AssetChecksDefinition:
    never = dg.AutomationCondition.newly_requested() & ~dg.AutomationCondition.newly_requested()

    @dg.asset_check(
        asset=spec.asset("warehouse"),
        name=VERIFIED,
        description="Source, lake and warehouse hold the same rows, each counted again in its own SQL, as "
        "'rds-lake verify' does. It reads everything: it runs when it is asked for.",
        # A check with a condition of its own is not taken along when automation asks for its asset.
        automation_condition=never.with_label("when asked for"),
    )
    def verified(
        context: AssetCheckExecutionContext, rds: RdsResource, lake: LakeResource, warehouse: WarehouseResource
    ) -> AssetCheckResult:
        only = run_partitions(context.run.tags, spec.partitioning)
        with failures():
            audit = Audit(rds.source(), lake.store(), lake.catalog(), warehouse.warehouse(), context.log.info)
            found = audit.table(spec, only=only)
        return verified_result(found)

    return verified


def verified_result(found: TableVerdict) -> AssetCheckResult:
    """What an audit says as a check."""
    bad = [verdict for verdict in found.partitions if verdict.status == "DIFFERS"]
    behind = found.count("behind") + found.count("moving")
    text = f"no difference in {counted(len(found.partitions), 'partition')}"
    text += f", {counted(behind, 'is', 'are')} behind" if behind else ""
    if found.differs:
        first = found.faults[0] if found.faults else f"{bad[0].partition}: {bad[0].faults[0]}"
        text = f"{len(bad):,} of {counted(len(found.partitions), 'partition')} differ: {first}"
    return AssetCheckResult(
        passed=not found.differs,
        severity=AssetCheckSeverity.ERROR,
        description=text,
        metadata={
            "partitions": len(found.partitions),
            "behind": behind,
            "rows at the source": found.total("source"),
            "rows in the warehouse": found.total("warehouse"),
            "differences": MetadataValue.json({item.partition: list(item.faults) for item in bad[:SHOWN]}),
            "rows that differ": MetadataValue.json([line for item in bad for line in item.differences.lines][:SHOWN]),
            "notes": MetadataValue.json(list(found.notes)),
        },
    )
