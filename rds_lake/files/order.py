"""Which files make up a table, and in which order. Pure.

A table is what its files make of it in the order in which they landed, whatever the order in which they are handled.
Files are loaded as they come; when one turns out to be older than others that are loaded already, the plan says what
has to be done so that the table is the same as if it had come in time.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


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
        """`append` or `truncate`."""

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
    """

    empty_first: bool
    apply: tuple[str, ...]
    superseded: tuple[str, ...]


def plan_load(new: Sequence[Dated], loaded: Collection[Dated], *, keyed: bool) -> LoadPlan:
    """What has to be done so that new files take their places among those that are loaded.

    Args:
        new: the files to load.
        loaded: those that are loaded and landed after the first of the new ones.
        keyed: whether a row takes the place of an older one of its key, so that the order of appends matters.
    """
    fresh = {file.file_id for file in new}
    files = sorted([*new, *loaded], key=lambda file: file.order)
    last = max((at for at, file in enumerate(files) if file.action == "truncate"), default=None)
    superseded = tuple(file.file_id for file in files[:last] if file.file_id in fresh) if last is not None else ()
    rest = files[last:] if last is not None else files
    empty_first = last is not None and rest[0].file_id in fresh
    if empty_first:
        return LoadPlan(True, tuple(file.file_id for file in rest), superseded)
    coming = [at for at, file in enumerate(rest) if file.file_id in fresh]
    if not coming:
        return LoadPlan(False, (), superseded)
    if keyed:
        return LoadPlan(False, tuple(file.file_id for file in rest[coming[0] :]), superseded)
    return LoadPlan(False, tuple(rest[at].file_id for at in coming), superseded)


def repeats(appended: Sequence[Dated], loaded: Sequence[Dated], truncates: Sequence[Dated]) -> dict[str, str]:
    """The appended files that hold the bytes of an earlier one of the same name, with that one's id.

    A truncate between the two has taken the earlier one's rows away: then the later one is none.

    Args:
        appended: new files, in their order.
        loaded: appended files that are loaded.
        truncates: what replaced the whole content, new and loaded.
    """
    first: dict[tuple[str, str, int], str] = {}
    repeated = {}
    for file in [*loaded, *appended]:
        since = sum(truncate.order < file.order for truncate in truncates)
        held = first.setdefault((file.name, file.content, since), file.file_id)
        if held != file.file_id:
            repeated[file.file_id] = held
    fresh = {file.file_id for file in appended}
    return {file_id: held for file_id, held in repeated.items() if file_id in fresh}
