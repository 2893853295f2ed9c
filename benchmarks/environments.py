"""The environments of the peers: one folder with a Python for each, installed when it is first asked for."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.contenders import CannotError
from benchmarks.scene import Scene, say

REQUIREMENTS = {
    "naive": ("pandas==3.1.1", "sqlalchemy==2.1.9", "pymysql==1.2.4", "pyarrow==26.0.1", "boto3"),
    "connectorx": ("connectorx==0.4.6", "pyarrow==26.0.1"),
    "polars": ("polars==2.1.0", "connectorx==0.4.6", "pyarrow==26.0.1", "boto3"),
    "duckdb": ("duckdb==1.5.5", "duckdb-extension-mysql==1.5.5"),
    "dlt": (
        "dlt[sql_database,filesystem,parquet,s3,postgres]==1.31.0",
        *("pymysql==1.2.4", "connectorx==0.4.6", "pandas==3.1.1"),
    ),
    "sling": ("sling-linux-amd64==1.4.11",),  # later ones fetch their program from elsewhere
    "ingestr": ("ingestr==1.1.0",),  # the same
    "spark": ("pyspark==4.1.2",),
    "plot": ("matplotlib==3.11.2",),
}
"""What is installed, pinned, so that a ratio means the same tomorrow. None of it is a dependency of the product."""


def python(scene: Scene, name: str) -> Path:
    """The Python of an environment.

    Raises:
        CannotError: it cannot be installed here.
    """
    folder = scene.folder / "envs" / name
    program, stamp = folder / "bin" / "python", folder / "installed.txt"
    wanted = "\n".join(REQUIREMENTS[name])
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != wanted:
        say(f"  installing {', '.join(REQUIREMENTS[name])}")
        _install(scene, folder, REQUIREMENTS[name])
        stamp.write_text(wanted, encoding="utf-8")
    return program


def release(name: str, package: str) -> str:
    """A package with its pinned version, as the report names it: `dlt 1.31.0`."""
    [pin] = [each for each in REQUIREMENTS[name] if each.split("==")[0].split("[")[0] == package]
    return f"{package} {pin.split('==')[1]}"


def mariadb_jar(scene: Scene) -> Path:
    """MariaDB's JDBC driver, out of Debian's package, which needs no root for that.

    Raises:
        CannotError: it is not to be had here.
    """
    folder = scene.folder / "envs" / "jdbc"
    folder.mkdir(parents=True, exist_ok=True)
    text = f"cd {folder} && apt-get download -qq libmariadb-java && dpkg-deb -x libmariadb-java_*.deb ."
    jar = folder / "usr/share/java/mariadb-java-client.jar"
    if not jar.is_file() and (said := _run(scene, [["sh", "-c", text]])):
        raise CannotError(f"MariaDB's JDBC driver cannot be had: {said}")
    return jar.resolve()


def _install(scene: Scene, folder: Path, requirements: Sequence[str]) -> None:
    """With uv where it works, else with pip."""
    uv, program = Path(sys.executable).parent / "uv", str(folder / "bin" / "python")
    ways = [
        [
            [str(uv), "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)],
            [str(uv), "pip", "install", "--quiet", "--compile-bytecode", "--python", program, *requirements],
        ],
        [
            [sys.executable, "-m", "venv", "--clear", str(folder)],
            [program, "-m", "pip", "install", "--quiet", *requirements],
        ],
    ]
    said = ""
    for commands in ways:
        said = _run(scene, commands)
        if not said:
            return
    raise CannotError(f"it cannot be installed: {said}")


def _run(scene: Scene, commands: Sequence[Sequence[str]]) -> str:
    """Run some commands; the last words of the first that fails, else nothing."""
    environ = {**scene.environ, "UV_NATIVE_TLS": "1"}
    for command in commands:
        try:
            done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        except OSError as error:
            return str(error)
        if done.returncode:
            return (done.stderr.strip() or "it said nothing").splitlines()[-1][:300]
    return ""
