"""What makes a command start quickly changes nothing else."""

import subprocess
import sys

import pytest
from botocore.utils import parse_timestamp

from rds_lake.resources import services

WITHOUT_PANDAS = """
import sys
from rds_lake import startup
startup.leave_pandas_out()
import pyarrow as pa, pyarrow.compute as pc
pc.less(pa.array([1, None, 3]), 2)
pa.table({"a": pa.array(["x"], pa.string())})
assert "pandas" not in sys.modules
assert pa.table({"a": [1, 2]}).to_pandas()["a"].sum() == 3
"""


def test_pyarrow_does_without_pandas_until_somebody_asks_for_it() -> None:
    subprocess.run([sys.executable, "-c", WITHOUT_PANDAS], check=True, timeout=60)


@pytest.mark.parametrize(
    "told",
    [
        *("2026-11-28T09:00:00.000Z", "2026-11-28T09:00:00.123Z", "2026-11-28T09:00:00Z"),
        *("2026-11-28T09:00:00+02:00", "Sat, 28 Nov 2026 09:00:00 GMT", "1700000000", 1700000000, 1700000000.5),
    ],
)
def test_a_time_in_an_answer_of_aws_is_read_as_botocore_reads_it(told: str | float) -> None:
    found, theirs = services._moment(told), parse_timestamp(told)
    assert found == theirs
    assert found.utcoffset() is not None
