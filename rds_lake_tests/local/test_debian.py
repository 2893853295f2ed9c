"""The private MariaDB: what happens when two stacks unpack it at the same time."""

import pytest

from rds_lake.local.debian import put_in_place


def unpacked(root, runs=True):
    program = root / "usr/sbin/mariadbd"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\nexit {0 if runs else 1}\n")
    program.chmod(0o755)
    return root


def test_the_slower_of_two_takes_the_server_of_the_quicker(tmp_path):
    target = tmp_path / "mariadb"
    put_in_place(unpacked(tmp_path / "quick"), target)
    (target / "quicker").touch()
    put_in_place(unpacked(tmp_path / "slow"), target)
    assert (target / "quicker").exists()


def test_a_folder_in_the_way_that_holds_no_working_server_is_an_error(tmp_path):
    target = unpacked(tmp_path / "mariadb", runs=False)
    with pytest.raises(OSError, match="not empty"):
        put_in_place(unpacked(tmp_path / "new"), target)
