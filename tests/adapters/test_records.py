"""Files are read record by record, and what is wrong in one is refused with its line."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.adapters.records import format_of, read_records
from tasks.errors import RefusedData

TEXT = st.text(st.characters(codec="utf-8"), max_size=40)
CELL = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)
VALUES = st.dictionaries(TEXT, TEXT | st.integers() | st.none() | st.lists(TEXT, max_size=3), max_size=4)
EVERY = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def values_of(path: Path) -> list[Any]:
    return [record.value for record in read_records(path)]


@EVERY
@given(values=st.lists(VALUES, max_size=6), packed=st.booleans(), bare=st.booleans())
def test_json_lines_come_back_as_they_were_written(tmp_path: Path, values: list[Any], packed: bool, bare: bool) -> None:
    body = "".join(json.dumps(value, ensure_ascii=not bare) + "\n" for value in values).encode()
    path = tmp_path / ("a.jsonl.gz" if packed else "a.jsonl")
    path.write_bytes(gzip.compress(body) if packed else body)
    assert values_of(path) == values


@EVERY
@given(rows=st.lists(st.tuples(CELL, CELL), min_size=1, max_size=6), suffix=st.sampled_from([".csv", ".tsv"]))
def test_csv_comes_back_with_quotes_and_line_breaks(tmp_path: Path, rows: list[tuple[str, str]], suffix: str) -> None:
    said = io.StringIO(newline="")
    writer = csv.writer(said, delimiter="," if suffix == ".csv" else "\t", quoting=csv.QUOTE_ALL)
    writer.writerows([("a", "b"), *rows])
    path = tmp_path / f"a{suffix}"
    path.write_bytes(said.getvalue().encode())
    assert values_of(path) == [{"a": a, "b": b} for a, b in rows]


@EVERY
@given(rows=st.lists(st.fixed_dictionaries({"text": TEXT | st.none(), "n": st.integers(0, 9)}), max_size=6))
def test_parquet_comes_back(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    schema = pa.schema([("text", pa.string()), ("n", pa.int64())])
    pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "a.parquet")
    assert values_of(tmp_path / "a.parquet") == rows


@EVERY
@given(body=st.binary(max_size=200), suffix=st.sampled_from([".txt", ".jsonl", ".json", ".csv", ".tsv", ".parquet"]))
def test_any_bytes_are_read_or_refused_and_nothing_else(tmp_path: Path, body: bytes, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(body)
    try:
        values_of(path)
    except RefusedData as refused:
        assert refused.remedy and ("line" in str(refused.observed) or "row" in str(refused.observed))


def test_a_json_file_is_an_array_or_lines(tmp_path: Path) -> None:
    (tmp_path / "array.json").write_text('\n[{"text": "one"},\n {"text": "two"}]')
    (tmp_path / "lines.json").write_text('{"text": "one"}\n{"text": "two"}\n')
    assert values_of(tmp_path / "array.json") == values_of(tmp_path / "lines.json")


def test_a_record_says_where_it_stands(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\none\ntwo\n\n\nthree\n")
    (tmp_path / "a.jsonl").write_text("\n{}\n")
    assert [record.where for record in read_records(tmp_path / "a.txt")] == ["line 2", "line 6"]
    assert [record.where for record in read_records(tmp_path / "a.jsonl")] == ["line 2"]


@pytest.mark.parametrize(
    ("name", "body", "says"),
    [
        ("a.jsonl", b'{"a": 1}\n{"b": "caf\xe9"}\n', "byte 0xe9 in line 2, byte 11 of that line"),
        ("a.jsonl", b'{"a": 1}\n{"a": 1,}\n', "line 2: no JSON.* at character 9"),
        ("a.json", b'[{"a": 1},\n{"a": }]', "line 2: no JSON"),
        ("a.jsonl", b"[" * 100_000 + b"\n", "line 1: no JSON: nested too deep"),
        ("a.csv", b"a,b\n1,2\n1,2,3\n", "line 3: 3 columns, the header has 2"),
        ("a.csv", b"a,a\n1,2\n", "line 1: header"),
        ("a.csv", b'a,b\n1,"2"x\n', "line 2: "),
        ("a.txt", "ein Bär\n".encode("utf-16"), "iconv -f utf-16"),
        ("a.parquet", b"PAR1 no such thing", "no whole Parquet file"),
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 9999, mtime=0)[:60], "damaged or cut off"),
        ("a.jsonl.gz", b'{"a": 1}\n', "after line 0: the gzip stream is damaged"),
        ("a.pdf", b"%PDF", "no format that can be read"),
    ],
)
def test_what_is_wrong_is_refused_with_its_place(tmp_path: Path, name: str, body: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(body)
    with pytest.raises(RefusedData, match=says):
        values_of(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.JSONL", ".jsonl"), ("a.json.gz", ".json"), ("a.parquet", ".parquet"), ("a.parquet.gz", None), ("a.zip", None)],
)
def test_the_suffix_decides(name: str, kind: str | None) -> None:
    assert format_of(name) == kind
