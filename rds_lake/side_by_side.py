"""The same work for many items, several at once, within a budget that they share."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Condition
from typing import TypeVar

CONCURRENCY = 8
"""Requests under way at once where many objects are handled: they wait for S3, not for the processor."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(
    work: Callable[[Item], Result], items: Iterable[Item], cost: Callable[[Item], int] | None = None, budget: int = 0
) -> list[Result]:
    """Do the same for many items, several at once, results in order; the first error ends it.

    Args:
        work: what is done.
        items: for what.
        cost: what an item takes while it is worked on, such as bytes of memory.
        budget: what all that are worked on may take together; an item that costs more is worked on alone.
    """
    todo = list(items)
    if len(todo) < 2:
        return [work(item) for item in todo]
    room = _Room(budget)
    # No more threads than can work at once: each keeps some of the memory that it has used.
    most = max(1, min(CONCURRENCY, budget // max(1, min(map(cost, todo))))) if cost else CONCURRENCY

    def within_budget(item: Item) -> Result:
        with room.taken(cost(item) if cost else 0):
            return work(item)

    with ThreadPoolExecutor(most) as pool:
        return list(pool.map(within_budget, todo))


class _Room:
    """A budget that several threads share."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._used = 0
        self._changed = Condition()

    @contextmanager
    def taken(self, cost: int) -> Iterator[None]:
        """Wait until there is room, and take it for as long as the block runs."""
        with self._changed:
            self._changed.wait_for(lambda: not self._used or self._used + cost <= self._budget)
            self._used += cost
        try:
            yield
        finally:
            with self._changed:
                self._used -= cost
                self._changed.notify_all()
