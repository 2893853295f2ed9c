"""What makes a command start quickly changes nothing else."""

import subprocess
import sys

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
