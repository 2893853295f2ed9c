"""Which partitions of a table an audit looks at. Pure."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from rds_lake.lake.keys import WHOLE_TABLE
from rds_lake.partitions import Partitioning, Window, floor, following
from rds_lake.spec import TableSpec
from rds_lake.verify import cut

_LAST = datetime(9999, 12, 31)  # noqa: DTZ001 - wall-clock time, as the cursor's


@dataclass(frozen=True)
class Scope:
    """Which partitions are looked at.

    Attributes:
        spec: the table's YAML.
        window: the window of the cursor that holds them; None for all.
        only: only these of them; None for all.
    """

    spec: TableSpec
    window: Window | None
    only: frozenset[str] | None

    @classmethod
    def of(
        cls, spec: TableSpec, since: datetime | None, until: datetime | None, only: Collection[str] | None
    ) -> "Scope":
        """The partitions of a window, or some, or all."""
        partitioning = spec.partitioning
        window = None
        if partitioning is not None:
            chosen = sorted(only) if only else []
            if chosen:
                window = partitioning.span(chosen[0], chosen[-1])
            elif since or until:
                window = _whole(partitioning, since, until)
        return cls(spec, window, frozenset(only) if only else None)

    def has(self, partition: str) -> bool:
        """Whether a partition is looked at."""
        if self.only is not None:
            return partition in self.only
        if self.spec.partitioning is None:
            return partition == WHOLE_TABLE
        if not self._is_key(partition):
            return False
        lower = self.spec.partitioning.window(partition).lower
        return self.window is None or self.window.lower <= lower < self.window.upper

    def _is_key(self, partition: str) -> bool:
        if self.spec.partitioning is None:
            return partition == WHOLE_TABLE
        try:
            self.spec.partitioning.window(partition)
        except ValueError:
            return False
        return True

    def strangers(self, partitions: Collection[str]) -> list[str]:
        """Those that are no partitions of the table as it is declared now."""
        return sorted(partition for partition in partitions if not self._is_key(partition))

    @property
    def has_first(self) -> bool:
        """Whether the first partition is looked at, which may hold the rows without a cursor value."""
        home = cut.home_of_null(self.spec)
        return home is not None and self.has(home)


def _whole(partitioning: Partitioning, since: datetime | None, until: datetime | None) -> Window:
    """The window of all partitions that hold `since` or come later, and begin before `until`: never a part of one."""
    lower = floor(since, partitioning.unit) if since else partitioning.start
    upper = min(until or _LAST, _LAST)
    begins = floor(upper, partitioning.unit)
    return Window(
        max(lower, partitioning.start), upper if upper in {begins, _LAST} else following(begins, partitioning.unit)
    )
