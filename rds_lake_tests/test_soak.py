"""A short soak in every run of the tests; `soak.py` runs a long one."""

from collections.abc import Callable
from pathlib import Path

import pytest
from figures import FIGURES
from soak import Soak

from rds_lake.local import stack as local_stack

pytestmark = [pytest.mark.stack, pytest.mark.slow]


def test_after_half_a_minute_of_writes_and_kills_no_row_is_lost_or_doubled(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    home = tmp_path / "home"
    try:
        figures = Soak(local_stack.up(home, ui=False).environ, tmp_path, seed=7).run(30)
    finally:
        local_stack.down(home)
    record_property(FIGURES, "soak: " + ", ".join(f"{name} {value}" for name, value in vars(figures).items()))
    assert (figures.lost, figures.doubled, figures.failures) == (0, 0, []), str(figures)
    assert "no difference" in figures.verified.lower()
    assert min(figures.inserted, figures.updated, figures.deleted, figures.kills) > 0, str(figures)
