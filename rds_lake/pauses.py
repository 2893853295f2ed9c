"""How long to wait before something is tried again."""

import random


def pause(attempt: int, first: float, longest: float = float("inf")) -> float:
    """Seconds: twice as many each time, or up to a half less, so that two that have met do not meet again.

    Args:
        attempt: how many attempts have failed.
        first: the most after the first one.
        longest: the most.
    """
    return min(first * 2.0 ** (attempt - 1), longest) * random.uniform(0.5, 1)  # noqa: S311 - nothing secret
