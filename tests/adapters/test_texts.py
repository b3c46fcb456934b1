"""Texts: what is read, what is refused, and with which line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.adapters.texts import check_text_source, read_text
from tasks.errors import RefusedData

DOWNLOADS = Path(__file__).parents[2] / ".slimline" / "downloads"


def test_paragraphs_of_a_text_file_are_documents_and_duplicates_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes("\ufeffFirst line,\nsecond line.\n\n \n\nDrei Bären\r\n\r\nFirst line,\nsecond line.\n".encode())
    text = read_text(str(path), tmp_path)
    assert text.documents == ("First line,\nsecond line.", "Drei Bären")
    assert text.name == "mine.txt"


def test_the_digest_is_of_the_documents_not_of_the_place(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    (tmp_path / "b.jsonl").write_text('{"text": "one"}\n\n{"text": "two", "id": 7}\n')
    (tmp_path / "c.txt").write_text("one\n\ntwo!\n")
    a, b, c = (read_text(str(tmp_path / name), tmp_path) for name in ("a.txt", "b.jsonl", "c.txt"))
    assert a.digest == b.digest
    assert a.digest != c.digest


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("latin.txt", b"fine\nstill fine\ncaf\xe9\n", "byte 0xe9 in line 3"),
        ("broken.jsonl", b'{"text": "one"}\n{"text": \n', "line 2: no JSON"),
        ("other.jsonl", b'{"text": "one"}\n\n{"body": "two"}\n', "line 3: no string under 'text'"),
        ("list.jsonl", b"[1]\n", "line 1: no string under 'text'"),
        ("blank.txt", b"\n  \n\n", "0 documents"),
        ("blank.jsonl", b'{"text": "  "}\n', "0 documents"),
    ],
)
def test_bad_text_is_refused_with_its_line(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RefusedData, match=says):
        read_text(str(tmp_path / name), tmp_path)


@pytest.mark.parametrize("source", ["wikipedia", "nowhere.txt", "book.pdf", ""])
def test_unknown_sources_are_refused_before_any_work(source: str) -> None:
    with pytest.raises(RefusedData, match="wiki-leads, python-docs"):
        check_text_source(source)


def test_an_empty_file_is_refused_by_the_cheap_check(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    with pytest.raises(RefusedData, match="0 bytes"):
        check_text_source(str(tmp_path / "empty.txt"))


def test_python_docs_need_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    text = read_text("python-docs", tmp_path)
    assert len(text.documents) > 50
    assert sum(map(len, text.documents)) > 300_000
    assert text.licence == "PSF-2.0"
    assert list(tmp_path.iterdir()) == []


def test_wiki_leads_are_ten_thousand_introductions() -> None:
    text = read_text("wiki-leads", DOWNLOADS)
    assert 9_900 < len(text.documents) <= 10_033
    assert len(set(text.documents)) == len(text.documents)
    assert any(document.startswith("2001: A Space Odyssey is a 1968") for document in text.documents)
    assert "CC BY-SA 4.0" in text.licence
