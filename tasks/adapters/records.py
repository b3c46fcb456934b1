"""Files → records: text, JSON lines, JSON, CSV, TSV and Parquet, plain or gzipped, each record with the place it has.

A file is read once, line by line (Parquet: by batches of rows), and nothing of it is trusted: what is not UTF-8, not in
its format, or cut off is refused with the line, and where it helps with the byte.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tasks.errors import RefusedData

FORMATS = (".parquet", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt")
ACCEPTED = ".txt, .jsonl, .json, .csv, .tsv (each also .gz) or .parquet"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_CSV_FIELD = 1 << 30  # characters; the csv module's own limit of 131,072 is shorter than many documents
_ROWS = 1024


class Record(NamedTuple):
    """One record. ``where``: a line or row number in words; ``value``: a paragraph's text, or what JSON holds."""

    where: str
    value: Any


def format_of(name: str) -> str | None:
    """The suffix that decides how the file ``name`` is read, without ``.gz``; none where it is no text file of ours."""
    plain = name.lower().removesuffix(".gz")
    found = next((suffix for suffix in FORMATS if plain.endswith(suffix)), None)
    return None if found == ".parquet" and name.lower().endswith(".gz") else found


def read_records(path: Path, name: str = "") -> Iterator[Record]:
    """Every record of ``path``, which is called ``name`` in messages.

    Raises:
        RefusedData: not UTF-8, not in its format, or cut off; with the line.
    """
    name = name or path.name
    kind = format_of(name)
    if kind == ".parquet":
        yield from _parquet(path, name)
        return
    if kind is None:
        raise malformed(name, "the suffix", "no format that can be read", ACCEPTED)
    with gzip.open(path) if name.lower().endswith(".gz") else path.open("rb") as raw:
        yield from _READERS[kind](raw, name)


def malformed(name: str, where: str, observed: str, limit: str, remedy: str = "") -> RefusedData:
    """The refusal of one file, with the place in it."""
    return RefusedData(
        f"{name} cannot be read",
        observed=f"{where}: {observed}",
        limit=limit,
        remedy=remedy or f"mend {where} and run again",
    )


def decoded_lines(raw: Iterable[bytes], name: str) -> Iterator[tuple[int, str]]:
    """(number, text with its line end) of each line, from 1; a byte order mark is tolerated on the first line only."""
    number, lines = 0, iter(raw)
    while True:
        try:
            line = next(lines, None)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise malformed(
                name, f"after line {number}", f"the gzip stream is damaged or cut off ({error})", "a whole gzip file",
                "copy the file again; gzip -t shows whether it is whole",
            ) from error  # fmt: skip
        if line is None:
            return
        number += 1
        try:
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            said = "utf-16" if number == 1 and line[:2] in _UTF16 else "latin1"
            raise RefusedData(
                f"{name} is not UTF-8",
                observed=f"byte 0x{line[error.start]:02x} in line {number}, byte {error.start + 1} of that line",
                limit="UTF-8 throughout",
                remedy=f"convert the file, for example with iconv -f {said} -t utf-8",
            ) from error


def _paragraphs(raw: Iterable[bytes], name: str) -> Iterator[Record]:
    begun, lines = 0, list[str]()
    for number, line in decoded_lines(raw, name):
        if line.strip():
            begun = begun or number
            lines.append(line.rstrip("\r\n"))
        elif lines:
            yield Record(f"line {begun}", "\n".join(lines))
            begun, lines = 0, []
    if lines:
        yield Record(f"line {begun}", "\n".join(lines))


def _json_lines(raw: Iterable[bytes], name: str) -> Iterator[Record]:
    for number, line in decoded_lines(raw, name):
        if line.strip():
            yield Record(f"line {number}", _json(line, name, f"line {number}", "one JSON object a line"))


def _json_file(raw: Iterable[bytes], name: str) -> Iterator[Record]:
    """An array of records; or JSON lines under the suffix ``.json``, as many data sets have them."""
    lines = decoded_lines(raw, name)
    first = next(((number, line) for number, line in lines if line.strip()), None)
    if first is None:
        return
    if not first[1].lstrip().startswith("["):
        for number, line in (first, *lines):
            if line.strip():
                yield Record(f"line {number}", _json(line, name, f"line {number}", "one JSON object a line"))
        return
    text = "\n" * (first[0] - 1) + first[1] + "".join(line for _, line in lines)
    for index, value in enumerate(_json(text, name, "", "an array of JSON objects"), start=1):
        yield Record(f"item {index}", value)


def _json(text: str, name: str, where: str, limit: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = where or f"line {error.lineno}"
        raise malformed(name, where, f"no JSON: {error.msg} at character {error.colno}", limit) from error
    except RecursionError as error:
        raise malformed(name, where or "the file", "no JSON: nested too deep", limit) from error


def _separated(separator: str) -> Callable[[Iterable[bytes], str], Iterator[Record]]:
    def read(raw: Iterable[bytes], name: str) -> Iterator[Record]:
        csv.field_size_limit(_CSV_FIELD)
        rows = csv.reader((line for _, line in decoded_lines(raw, name)), delimiter=separator, strict=True)
        head: list[str] | None = None
        try:
            for row in rows:
                if not row:
                    continue
                if head is None:
                    head = _header(row, name, rows.line_num)
                elif len(row) != len(head):
                    observed = f"{len(row)} columns, the header has {len(head)}"
                    raise malformed(name, f"line {rows.line_num}", observed, "as many columns in each row")
                else:
                    yield Record(f"line {rows.line_num}", dict(zip(head, row, strict=True)))
        except csv.Error as error:
            raise malformed(name, f"line {rows.line_num}", str(error), "quoted as RFC 4180 says") from error

    return read


def _header(row: list[str], name: str, number: int) -> list[str]:
    if len(set(row)) != len(row) or not all(row):
        raise malformed(name, f"line {number}", f"header {row}", "a header whose names are all there and all different")
    return row


def _parquet(path: Path, name: str) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_ROWS):
                for value in batch.to_pylist():
                    row += 1
                    yield Record(f"row {row}", value)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise malformed(
            name, f"after row {row}", f"no whole Parquet file: {said}", "a Parquet file", "copy the file again"
        ) from error


_READERS: dict[str, Callable[[Iterable[bytes], str], Iterator[Record]]] = {
    ".txt": _paragraphs,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json_file,
    ".csv": _separated(","),
    ".tsv": _separated("\t"),
}
