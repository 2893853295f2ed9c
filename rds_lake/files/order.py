"""Which files make up a table, and in which order. Pure.

A table is what its files make of it in the order in which they landed, whatever the order in which they are handled.
Files are loaded as they come; when one turns out to be older than others that are loaded already, the plan says what
has to be done so that the table is the same as if it had come in time.

A table without keys has the rows of equal appended files (the same name, the same bytes) once between two truncates.
Which of them brings the rows depends on which came first; the others are repeats, and are remembered, for a truncate
that comes late may land between them.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from rds_lake.files.statements import REPEATED


class Dated(Protocol):
    """A file of a table, loaded or not."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def content(self) -> str:
        """The digest of its bytes."""

    @property
    def file_id(self) -> str:
        """The version."""

    @property
    def action(self) -> str:
        """`append` or `truncate`; of a loaded one also `repeated`, an append whose rows another one has brought."""

    @property
    def order(self) -> tuple[datetime, str]:
        """Its place among all files."""


@dataclass(frozen=True)
class LoadPlan:
    """What a load has to do.

    Attributes:
        empty_first: whether all rows of the table go.
        apply: the files whose rows come in, in this order; some of them a second time.
        superseded: new files without any effect: a truncate that landed after them is loaded already.
        repeated: new files whose rows do not come in, and for each the file whose rows stand for them.
        revived: files among `apply` that were repeats: a truncate has landed between them and what they repeated.
    """

    empty_first: bool
    apply: tuple[str, ...]
    superseded: tuple[str, ...]
    repeated: Mapping[str, str]
    revived: tuple[str, ...]


def plan_load(new: Sequence[Dated], loaded: Collection[Dated], *, keyed: bool) -> LoadPlan:
    """What has to be done so that new files take their places among those that are loaded.

    Args:
        new: the files to load.
        loaded: those that are loaded and landed after the first of the new ones; of a table without keys also appends
            that are equal to new ones, whenever they landed, and if there are such, all truncates.
        keyed: whether a row takes the place of an older one of its key, so that the order of appends matters.
    """
    fresh = {file.file_id for file in new}
    files = sorted([*new, *loaded], key=lambda file: file.order)
    last = max((at for at, file in enumerate(files) if file.action == "truncate"), default=None)
    superseded = tuple(file.file_id for file in files[:last] if file.file_id in fresh) if last is not None else ()
    rest = files[last:] if last is not None else files
    empty_first = last is not None and rest[0].file_id in fresh
    if not empty_first:  # what the repeats repeat stays where it is
        rest = [file for file in rest if file.action != REPEATED]
    same = {} if keyed else _same(rest, fresh)
    bring = [file for file in rest if file.file_id not in same]
    repeated = {file_id: other for file_id, other in same.items() if file_id in fresh}
    if empty_first:
        revived = tuple(file.file_id for file in bring if file.action == REPEATED)
        return LoadPlan(True, tuple(file.file_id for file in bring), superseded, repeated, revived)
    coming = [at for at, file in enumerate(bring) if file.file_id in fresh]
    if keyed and coming:
        coming = list(range(coming[0], len(bring)))
    return LoadPlan(False, tuple(bring[at].file_id for at in coming), superseded, repeated, ())


def _same(files: Sequence[Dated], fresh: Collection[str]) -> dict[str, str]:
    """Of files with no truncate between them those whose rows another one brings, and that one.

    That is the one whose rows are in already; then a new one, whose record can still say so; then a former repeat.
    """

    def rank(file: Dated) -> tuple[bool, bool, tuple[datetime, str]]:
        is_new = file.file_id in fresh
        return is_new or file.action == REPEATED, not is_new, file.order

    first: dict[tuple[str, str], str] = {}
    same = {}
    for file in sorted((file for file in files if file.action != "truncate"), key=rank):
        held = first.setdefault((file.name, file.content), file.file_id)
        if held != file.file_id:
            same[file.file_id] = held
    return same


def stands_for(repeat: Dated, appends: Collection[Dated], truncates: Collection[Dated]) -> str | None:
    """The id of the loaded file whose rows stand for those of a repeat, None when there is none.

    Args:
        repeat: the repeat.
        appends: loaded appends of its content.
        truncates: those that are loaded.
    """

    def since(file: Dated) -> int:
        return sum(truncate.order < file.order for truncate in truncates)

    return next((one.file_id for one in appends if one.name == repeat.name and since(one) == since(repeat)), None)
