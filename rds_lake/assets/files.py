"""The assets of dropped files: one per table of a drop zone, three per feed, all made by one step per run.

The step handles the files that its run was asked for, or all that wait when it was asked for none (somebody pressed
"Materialise"). Each file that is taken is one materialisation, each that is refused one observation, and a check of
its asset says so.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

import dagster as dg
from dagster import AssetExecutionContext, MetadataValue
from pydantic import Field

from rds_lake.assets.common import WAREHOUSE_POOL, Fact, failures
from rds_lake.audit_log.log import AuditLog
from rds_lake.audit_log.record import Record
from rds_lake.errors import RdsLakeError
from rds_lake.files.feed import SOURCE
from rds_lake.files.listing import Cursor, sweep
from rds_lake.files.machine import WAIT, Machine, Receiver, version_of
from rds_lake.files.schema import MISSING_COLUMN
from rds_lake.files.settle import reported
from rds_lake.files.spec import DropZoneSpec, FileFeedSpec
from rds_lake.files.work import Result
from rds_lake.resources.files import FilesResource, ReceiverSpec

RECEIVER_METADATA = "rds_lake/receiver"
"""Metadata of an asset that holds the YAML of its drop zone or feed."""

EVERYTHING = 1_000_000
"""More pages, and more files, than one run lists."""

FILE_ID = "file id"
"""The metadata that says which file an event is of."""

ACCEPTED = "every_file_accepted"

Handled = tuple[Record, Result]


class FilesConfig(dg.Config):
    """What a run is for.

    Attributes:
        claimed: the files that a sensor has claimed for this run, each as JSON; all that wait when there is none.
    """

    claimed: list[str] = Field(default_factory=list, description="Files that were claimed for it, as JSON.")


def claim_text(record: Record) -> str:
    """A claimed file as a run's configuration holds it."""
    facts = {name: value for name, value in asdict(record).items() if value is not None}
    return json.dumps({k: v.isoformat() if isinstance(v, datetime) else v for k, v in facts.items()})


def claim_of(text: str) -> Record:
    """A claimed file of a run's configuration."""
    facts: dict[str, Any] = json.loads(text)
    moments = {name: datetime.fromisoformat(facts[name]) for name in facts if name.endswith(("_at", "_until"))}
    return Record(**{**facts, **moments})


def job_name(spec: ReceiverSpec) -> str:
    """The job that handles files of a drop zone or feed."""
    return f"{spec.name}_files"


def op_name(spec: ReceiverSpec) -> str:
    """The step of that job; it must be called otherwise than the job."""
    return f"handle_{spec.name}_files"


def run_config(spec: ReceiverSpec, claimed: Sequence[Record]) -> dict[str, Any]:
    """The configuration of a run for some claimed files."""
    return {"ops": {op_name(spec): {"config": {"claimed": [claim_text(record) for record in claimed]}}}}


def claim_waiting(receiver: Receiver, log: AuditLog) -> list[Record]:
    """Claim all that is there and not claimed."""
    return sweep(receiver, log, Cursor(), pages=EVERYTHING, most=EVERYTHING).claimed


def receiver_assets(spec: ReceiverSpec) -> dg.AssetsDefinition:
    """The assets of a drop zone or a feed."""
    shape = _ZoneShape(spec) if isinstance(spec, DropZoneSpec) else _FeedShape(spec)

    @dg.multi_asset(
        name=op_name(spec),
        specs=shape.specs(),
        check_specs=shape.check_specs(),
        pool=WAREHOUSE_POOL,
        can_subset=True,  # a run has no result for a check of a table that it had no file for
    )
    def handle_files(context: AssetExecutionContext, config: FilesConfig, files: FilesResource) -> Iterator[Any]:
        trouble: RdsLakeError | None = None
        with failures():
            log = files.audit_log()
            receiver = files.receiver(spec, context.log.info)
            handled = list(_handled_before(context, log, receiver))
            claimed = [claim_of(text) for text in config.claimed] or claim_waiting(receiver, log)
            context.log.info(f"{len(claimed):,} files")
            # A step that was not asked for its files by name has to find them again when it is tried again.
            wait = WAIT if config.claimed else timedelta(0)
            try:
                for record, result in Machine(receiver, log, context.run.run_id, context.log.info, wait).run(claimed):
                    _say(context.log, record, result)
                    for event in shape.events(record, result):
                        context.log_event(event)
                    handled.append((record, result))
            except RdsLakeError as error:
                trouble = error
        yield from shape.check_results(handled)
        if trouble is not None:
            with failures():
                raise trouble

    return handle_files


def _handled_before(context: AssetExecutionContext, log: AuditLog, receiver: Receiver) -> Iterator[Handled]:
    """The files that earlier attempts of this step have brought to their end: the checks are of the whole run."""
    if not context.retry_number:
        return
    wanted = {dg.DagsterEventType.ASSET_MATERIALIZATION, dg.DagsterEventType.ASSET_OBSERVATION}
    entries = context.instance.all_logs(context.run.run_id, of_type=wanted)
    events = [entry.asset_materialization or entry.asset_observation for entry in entries]
    ids = dict.fromkeys(str(event.metadata[FILE_ID].value) for event in events if event and FILE_ID in event.metadata)
    for record in log.find_all(list(ids)).values():
        place = receiver.place(record.key or "")
        if place and (result := reported(receiver.store, place, version_of(record))):
            yield record, result


def _say(log: Any, record: Record, result: Result) -> None:  # noqa: ANN401 - Dagster's logger
    if result.status == "completed":
        log.info(f"{record.file_name}: {result.rows_loaded or 0:,} rows into {record.table}")
    else:
        log.warning(f"{record.file_name} was {result.status}: {result.error}")


def facts_of(record: Record, result: Result) -> dict[str, Fact]:
    """What the UI shows of a file; its numbers are plotted over time."""
    known: dict[str, Fact] = {
        "file": record.file_name,
        "status": result.status,
        "action": record.action,
        "version": record.version_id or record.etag or "",
        FILE_ID: record.file_id,
        "landed at": MetadataValue.timestamp(record.landed_at),
        "bytes": record.size or 0,
        "rows read": result.rows_read,
        "rows loaded": result.rows_loaded,
        "rows discarded": result.rows_discarded,
        "note" if result.status == "completed" else "error": result.error,
        "lies at": record.moved_to,
        "report": record.report,
        "discarded": result.details.get("discarded"),
    }
    if result.details.get("reasons"):
        known["reasons"] = MetadataValue.json(result.details["reasons"])
    if result.details.get("cleaned"):
        known["cleaned"] = MetadataValue.json(result.details["cleaned"])
    if result.rows_read:
        known["discard rate"] = (result.rows_discarded or 0) / result.rows_read
    return {name: value for name, value in known.items() if value is not None}


def _event(key: dg.AssetKey, record: Record, result: Result) -> dg.AssetMaterialization | dg.AssetObservation:
    facts = facts_of(record, result)
    if result.status == "completed":
        return dg.AssetMaterialization(key, description=record.file_name, metadata=facts)
    facts.pop("rows loaded", None)  # the table's plot is of what was loaded
    return dg.AssetObservation(key, description=f"{record.file_name} was {result.status}", metadata=facts)


def _refused(handled: Sequence[Handled]) -> list[Handled]:
    return [(record, result) for record, result in handled if result.status != "completed"]


def _accepted(key: dg.AssetKey, handled: Sequence[Handled]) -> dg.AssetCheckResult:
    refused = _refused(handled)
    told = "\n".join(f"- `{record.file_name}`: {result.error}" for record, result in refused[:20])
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=ACCEPTED,
        passed=not refused,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{len(refused):,} of {len(handled):,} files were refused",
        metadata={"files": len(handled), "refused": len(refused), "why": MetadataValue.md(told or "none")},
    )


def _accepted_spec(key: dg.AssetKey) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(ACCEPTED, asset=key, description="Every file of the run could be taken.")


class _ZoneShape:
    """A drop zone's assets: one per declared table."""

    def __init__(self, spec: DropZoneSpec) -> None:
        self._spec = spec
        self._keys = {f"{spec.database}.{table}": dg.AssetKey([spec.database, table]) for table in spec.tables}
        self._zone = dg.AssetKey([spec.database, "drop_zone"])

    def specs(self) -> list[dg.AssetSpec]:
        """The assets; that of the zone itself stands for files of tables that the YAML does not name."""
        spec = self._spec
        common: dict[str, Any] = {"group_name": spec.name, "owners": list(spec.owners), "skippable": True}
        bucket = spec.bucket or "(RDS_LAKE_DROP_BUCKET)"
        zone = dg.AssetSpec(
            self._zone,
            description=f"Files below `s3://{bucket}/{spec.database}/<append|truncate|schema>/<table>/`, as far as no "
            f"asset of their own is declared for their table.\n\n{spec.description}",
            metadata={RECEIVER_METADATA: MetadataValue.json({"zone": spec.model_dump(by_alias=True)})},
            kinds={"s3"},
            **common,
        )
        return [zone, *(self._table(table, bucket, common) for table in spec.tables)]

    def _table(self, table: str, bucket: str, common: Mapping[str, Any]) -> dg.AssetSpec:
        spec = self._spec
        return dg.AssetSpec(
            self._keys[f"{spec.database}.{table}"],
            description=f"{spec.tables[table].description}\n\nThe table `{spec.schema_name}.{table}` in Redshift, made "
            f"of the files below `s3://{bucket}/{spec.database}/`. A materialisation is one file.",
            metadata={"dagster/table_name": f"{spec.schema_name}.{table}"},
            kinds={"s3", "redshift"},
            **common,
        )

    def check_specs(self) -> list[dg.AssetCheckSpec]:
        """A check per asset."""
        return [_accepted_spec(key) for key in (self._zone, *self._keys.values())]

    def events(self, record: Record, result: Result) -> list[dg.AssetMaterialization | dg.AssetObservation]:
        """What is recorded of a file."""
        return [_event(self._keys.get(record.table, self._zone), record, result)]

    def check_results(self, handled: Sequence[Handled]) -> Iterator[dg.AssetCheckResult]:
        """The checks' results."""
        for key in (self._zone, *self._keys.values()):
            if own := [item for item in handled if self._keys.get(item[0].table, self._zone) == key]:
                yield _accepted(key, own)


class _FeedShape:
    """A feed's assets: source, cleaned, and the table in PostgreSQL."""

    def __init__(self, spec: FileFeedSpec) -> None:
        self._spec = spec
        self._source, self._cleaned, self._rds = (
            dg.AssetKey(f"{spec.feed}_{stage}") for stage in ("source", "cleaned", "rds")
        )

    def specs(self) -> list[dg.AssetSpec]:
        """The assets."""
        spec = self._spec
        common: dict[str, Any] = {"group_name": spec.name, "owners": list(spec.owners), "skippable": True}
        folder = f"s3://{spec.bucket or '(RDS_LAKE_DROP_BUCKET)'}/{spec.root}"
        target = f"{spec.target.db_schema}.{spec.target.table}"
        columns = dg.TableSchema(
            columns=[
                dg.TableColumn(
                    column.name,
                    column.type,
                    description=column.description or None,
                    constraints=dg.TableColumnConstraints(nullable=column.nullable),
                )
                for column in spec.columns
            ]
        )
        return [
            dg.AssetSpec(
                self._source,
                description=f"{spec.description}\n\nThe files in `{folder}{SOURCE}`, as they came.",
                metadata={
                    RECEIVER_METADATA: MetadataValue.json({"feed": spec.model_dump(by_alias=True)}),
                    "dagster/column_schema": columns,
                },
                kinds={"s3", "csv"},
                **common,
            ),
            dg.AssetSpec(
                self._cleaned,
                deps=[self._source],
                description="Their rows after the check; where a value was replaced, `_raw` keeps the old one.",
                metadata={"dagster/column_schema": columns},
                kinds={"s3", "parquet", "duckdb"},
                **common,
            ),
            dg.AssetSpec(
                self._rds,
                deps=[self._cleaned],
                description=f"The table `{target}` in PostgreSQL on RDS, one row per {', '.join(spec.key)}.",
                metadata={"dagster/table_name": target, "dagster/column_schema": columns},
                kinds={"postgres"},
                **common,
            ),
        ]

    def check_specs(self) -> list[dg.AssetCheckSpec]:
        """The integrity checks of the source."""
        integrity = [
            dg.AssetCheckSpec(name, asset=self._source, description=description)
            for name, description in self._integrity()
        ]
        return [_accepted_spec(self._source), *integrity]

    def _integrity(self) -> Iterator[tuple[str, str]]:
        yield "required_columns", "Every file has the columns that need a value."
        yield "rows_fit", "Every row can be carried; the others lie in discarded/ with their reasons."
        for rule in self._spec.clean:
            if rule.missing:
                yield f"{rule.column}_present", f"Every row has a {rule.column}; else it becomes {rule.value}."
            if rule.invalid:
                yield f"{rule.column}_valid", f"Every {rule.column} is valid; else it becomes {rule.value}."

    def events(self, record: Record, result: Result) -> list[dg.AssetMaterialization | dg.AssetObservation]:
        """What is recorded of a file."""
        if result.status != "completed":
            return [_event(self._source, record, result)]
        return [_event(key, record, result) for key in (self._source, self._cleaned, self._rds)]

    def check_results(self, handled: Sequence[Handled]) -> Iterator[dg.AssetCheckResult]:
        """The checks' results, over all files of the run."""
        if not handled:
            return
        yield _accepted(self._source, handled)
        lacking = [record.file_name for record, result in handled if result.details.get("code") == MISSING_COLUMN]
        yield self._counted("required_columns", len(lacking), lacking, dg.AssetCheckSeverity.ERROR)
        yield self._rows("rows_fit", handled, lambda result: result.rows_discarded or 0)
        for rule in self._spec.clean:
            for wanted, name, was in (
                (rule.missing, f"{rule.column}_present", f"{rule.column} was missing"),
                (rule.invalid, f"{rule.column}_valid", f"{rule.column} was invalid"),
            ):
                if wanted:
                    yield self._rows(name, handled, _cleaned(was))

    def _rows(self, name: str, handled: Sequence[Handled], count: Callable[[Result], int]) -> dg.AssetCheckResult:
        counts = {record.file_name: count(result) for record, result in handled}
        files = [f"{file}: {rows:,}" for file, rows in counts.items() if rows]
        return self._counted(name, sum(counts.values()), files, dg.AssetCheckSeverity.WARN)

    def _counted(
        self, name: str, count: int, files: Sequence[str], severity: dg.AssetCheckSeverity
    ) -> dg.AssetCheckResult:
        return dg.AssetCheckResult(
            asset_key=self._source,
            check_name=name,
            passed=not count,
            severity=severity,
            metadata={
                "count": count,
                "files": MetadataValue.md("\n".join(f"- {file}" for file in files[:20]) or "none"),
            },
        )


def _cleaned(reason: str) -> Callable[[Result], int]:
    return lambda result: int(result.details.get("cleaned", {}).get(reason, 0))
