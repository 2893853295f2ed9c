"""The reader against a real server: every type beside the reference reader, huge values, and servers that break off."""

import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from private_server import Server, server
from reference import reference_rows
from rooms import table_spec

from rds_lake.errors import ConfigError, TransientError
from rds_lake.extract import stream
from rds_lake.extract.snapshot import open_snapshot
from rds_lake.extract.source import Source, query

pytestmark = pytest.mark.stack

PACKET = 64 * 1024 * 1024

WIDE = {
    "id": ("BIGINT UNSIGNED PRIMARY KEY", "18446744073709551615 - seq"),
    "i8": ("TINYINT", "CAST(seq % 256 AS SIGNED) - 128"),
    "u8": ("TINYINT UNSIGNED", "NULLIF(seq % 256, 3)"),
    "flag": ("TINYINT(1)", "seq % 3"),
    "i16": ("SMALLINT", "CAST(seq * 7 % 65536 AS SIGNED) - 32768"),
    "i24": ("MEDIUMINT", "CAST(seq * 7919 % 16777216 AS SIGNED) - 8388608"),
    "u24": ("MEDIUMINT UNSIGNED", "NULLIF(seq, 5)"),
    "i32": ("INT", "CAST(seq * 1431655 AS SIGNED) - 2147483648"),
    "u32": ("INT UNSIGNED", "4294967295 - seq"),
    "i64": ("BIGINT", "-9223372036854775807 + CAST(seq AS SIGNED)"),
    "single": ("FLOAT", "seq / 3"),
    "double_": ("DOUBLE", "NULLIF(seq, 7) / 7e100"),
    "money": ("DECIMAL(10,2)", "CAST(seq AS SIGNED) / 7 - 100"),
    "wide": ("DECIMAL(38,10)", "IF(seq % 5, seq * 1234567890123456789.0123456789, NULL)"),
    "widest": ("DECIMAL(65,30)", "seq * 1.000000000000000000000000000001"),
    "day": ("DATE", "'1000-01-01' + INTERVAL seq * 1500 DAY"),
    "at": ("DATETIME", "IF(seq % 3, '2020-01-01' + INTERVAL seq * 43200 SECOND, NULL)"),
    "at3": ("DATETIME(3)", "'1000-01-01' + INTERVAL seq * 1001 MICROSECOND"),
    "at6": ("DATETIME(6)", "'9999-12-31' + INTERVAL seq * 1001 MICROSECOND"),
    "instant": ("TIMESTAMP(6) NULL", "'2020-01-01' + INTERVAL seq MICROSECOND"),
    "length": ("TIME(6)", "SEC_TO_TIME(CAST(seq AS SIGNED) * 2000 - 2000000.000001)"),
    "year_": ("YEAR", "IF(seq % 200, 1901 + seq % 200, 0)"),
    "text_": ("VARCHAR(300)", "IF(seq % 4, REPEAT('é', seq % 300), NULL)"),
    "latin": ("VARCHAR(50) CHARACTER SET latin1", "CONCAT('ü€', seq)"),
    "cyrillic": ("VARCHAR(50) CHARACTER SET cp1251", "CONCAT('ж', seq)"),
    "long_": ("LONGTEXT", "IF(seq % 7, REPEAT(CHAR(seq % 100 + 32), seq * 67), NULL)"),
    "json_": ("JSON", "IF(seq % 4, CONCAT('{\"a\": ', seq, '}'), NULL)"),
    "enum_": ("ENUM('red','green','')", "1 + seq % 3"),
    "set_": ("SET('a','b','c')", "seq % 8"),
    "bits": ("BIT(12)", "NULLIF(seq % 4096, 9)"),
    "raw": ("BINARY(16)", "UNHEX(MD5(seq))"),
    "blob_": ("BLOB", "IF(seq % 3, REPEAT(UNHEX(MD5(seq)), seq % 40), NULL)"),
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server(tmp_path_factory.mktemp("shop"), f"--max-allowed-packet={PACKET}") as made:
        columns = ", ".join(f"{name} {kind}" for name, (kind, _) in WIDE.items())
        made.sql(
            "SET sql_mode = ''",
            f"CREATE TABLE wide ({columns}) CHARACTER SET utf8mb4",
            f"INSERT INTO wide SELECT {', '.join(value for _, value in WIDE.values())} FROM seq_1_to_2000",
            "CREATE TABLE long_rows (id INT PRIMARY KEY, v LONGTEXT)",
            "INSERT INTO long_rows SELECT seq, REPEAT('x', 1000) FROM seq_1_to_60000",
        )
        yield made


@pytest.mark.parametrize("size", [stream.BLOCK_BYTES, 10_000, 1])
def test_every_type_is_read_as_the_reference_reader_reads_it(shop, monkeypatch, size):
    monkeypatch.setattr(stream, "BLOCK_BYTES", size)  # so that rows lie across the ends of blocks
    with open_snapshot(shop.source, table_spec("wide", key=["id"])) as snapshot:
        rows = [row for batch in snapshot.rows() for row in zip(*(c.to_pylist() for c in batch.columns), strict=True)]
        assert rows == reference_rows(snapshot)
    assert len(rows) == 2000
    assert len(rows[0]) == len(WIDE)


def test_a_compressed_connection_brings_the_same_rows(shop):
    source = Source(replace(shop.url, options=(("compress", "true"),)))
    with open_snapshot(source, table_spec("wide", key=["id"])) as snapshot:
        assert query(snapshot.connection, "SHOW SESSION STATUS LIKE 'Compression'") == [("Compression", "ON")]
        rows = [row for batch in snapshot.rows() for row in zip(*(c.to_pylist() for c in batch.columns), strict=True)]
        [(_, sent)] = query(snapshot.connection, "SHOW SESSION STATUS LIKE 'Bytes_sent'")
        assert rows == reference_rows(snapshot)
    with open_snapshot(shop.source, table_spec("wide", key=["id"])) as snapshot:
        assert sum(batch.num_rows for batch in snapshot.rows()) == len(rows) == 2000
        [(_, plain)] = query(snapshot.connection, "SHOW SESSION STATUS LIKE 'Bytes_sent'")
    assert int(sent) * 3 < int(plain)


def test_an_option_of_the_address_that_is_no_word_for_it_is_named(shop):
    with (
        pytest.raises(ConfigError, match="compress=zlib"),
        Source(replace(shop.url, options=(("compress", "zlib"),))).connect(),
    ):
        pass


def test_values_of_16_mib_and_more_arrive_whole_between_others(shop):
    # A packet takes 16,777,215 bytes; around that a row has two packets, the second one empty or short.
    sizes = [1, 2**24 - 30, *range(2**24 - 14, 2**24 - 4), 2**24, 40_000_000, 3]
    with shop.connect(init_command="SET SESSION net_write_timeout = 600") as connection, connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS huge")
        cursor.execute("CREATE TABLE huge (id INT PRIMARY KEY, v LONGBLOB, w VARCHAR(5))")
        for number, size in enumerate(sizes):
            cursor.execute(f"INSERT INTO huge VALUES ({number}, REPEAT(CHAR({65 + number}), {size}), 'end')")
    with open_snapshot(shop.source, table_spec("huge", key=["id"])) as snapshot:
        found = [row for batch in snapshot.rows() for row in zip(*(c.to_pylist() for c in batch.columns), strict=True)]
    assert [(number, len(value), end) for number, value, end in found] == [
        (number, size, "end") for number, size in enumerate(sizes)
    ]
    assert all(value == bytes([65 + number]) * len(value) for number, value, _ in found)


def read_until(shop: Server, interrupt: Callable[[int], None], counted: list[int]) -> None:
    """Read rows, and do something with the connection's number after the first ones."""
    with open_snapshot(shop.source, table_spec("long_rows", key=["id"])) as snapshot:
        number = snapshot.connection.thread_id()
        for batch in snapshot.rows():
            if not counted:
                interrupt(number)
            counted.append(batch.num_rows)


@pytest.mark.parametrize(
    ("end", "words"), [("QUERY", "interrupted"), ("CONNECTION", "Lost connection|interrupted|killed")]
)
def test_a_server_that_breaks_off_among_the_rows_is_an_error_and_not_the_end(shop, monkeypatch, end, words):
    monkeypatch.setattr(stream, "BLOCK_BYTES", 1)
    counted: list[int] = []
    with pytest.raises(TransientError, match=re.compile(words, re.IGNORECASE)):
        read_until(shop, lambda number: shop.sql(f"KILL {end} {number}"), counted)
    assert 0 < sum(counted) < 60_000


def test_a_reader_that_is_given_up_leaves_no_thread_behind(shop):
    def give_up(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read_until(shop, give_up, [])
    assert "reader" not in [thread.name for thread in threading.enumerate()]
    counted: list[int] = []
    read_until(shop, lambda _: None, counted)
    assert sum(counted) == 60_000
