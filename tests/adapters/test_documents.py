"""What of a record is a document: guessed from the first, or as chosen, and the same for every record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.adapters.documents import Reading, words_of
from tasks.adapters.texts import Text, read_text
from tasks.errors import RefusedData

ASKED = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]


def read(folder: Path, *records: Any, reading: Reading = Reading()) -> Text:  # noqa: B008
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return read_text(str(path), folder, reading)


@pytest.mark.parametrize(
    ("record", "chat", "document"),
    [
        ({"text": "Why?", "messages": []}, False, "Why?"),
        ({"messages": ASKED}, True, ASKED),
        ({"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]}, True, ASKED),
        ({"prompt": "Why?", "completion": "Because."}, True, ASKED),
        ({"instruction": "Why?", "context": "", "response": "Because.", "category": "qa"}, True, ASKED),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Why?"}]}, ASKED[1]]}, True, ASKED),
    ],
)
def test_the_first_record_tells_what_a_document_is(tmp_path: Path, record: Any, chat: bool, document: Any) -> None:
    text = read(tmp_path, record)
    assert text.chat == chat
    assert (json.loads(text.documents[0]) if chat else text.documents[0]) == document


@pytest.mark.parametrize(
    ("reading", "document"),
    [
        (Reading("field", "b"), "two"),
        (Reading("template", "{a}\\n\\n{b}!"), "one\n\ntwo!"),
        (Reading("template", "{{{a}}} "), "{one}"),
        (Reading("turns", "a, b"), '[{"role":"user","content":"one"},{"role":"assistant","content":"two"}]'),
        (
            Reading("turns", "a, c, b"),
            '[{"role":"user","content":"one\\n\\nthree"},{"role":"assistant","content":"two"}]',
        ),
    ],
)
def test_the_choice_tells_what_a_document_is(tmp_path: Path, reading: Reading, document: str) -> None:
    reading.check()
    assert read(tmp_path, {"a": "one", "b": "two", "c": "three"}, reading=reading).documents == (document,)


@pytest.mark.parametrize(
    ("records", "says"),
    [
        (({"text": "one"}, {"body": "two"}), "line 2: no string under 'text' among the fields body"),
        (
            ({"messages": ASKED}, {"messages": [{"role": "owl", "content": "Hu"}]}),
            "line 2: message 1 has the role 'owl'",
        ),
        (({"messages": [{"role": "user"}]},), "line 1: message 1 has no text"),
        (({"messages": ASKED}, {"messages": "Why?"}), "line 2: no list of messages"),
        (({"prompt": "Why?", "response": "So."}, {"prompt": "Why?"}), "line 2: no string under 'response'"),
        (({"text": "\ud800"},), "line 1: .*surrogates not allowed"),
        (({"text": 5},), "line 1: no string under 'text'"),
        (({"text": " "}, {"text": None}), "0 documents"),
    ],
)
def test_a_record_that_does_not_fit_is_refused_with_its_line(tmp_path: Path, records: Any, says: str) -> None:
    with pytest.raises(RefusedData, match=says):
        read(tmp_path, *records)


@pytest.mark.parametrize(
    "reading",
    [
        Reading("template", "no names"),
        Reading("template", "{a.__class__}"),
        Reading("template", "{a[0]}"),
        Reading("template", "{a!r}"),
        Reading("template", "{a:>9999999999}"),
        Reading("template", "{a"),
        Reading("template", "{}"),
        Reading("turns", "only"),
        Reading("field", "a, b"),
        Reading("auto", "a"),
    ],
)
def test_fields_that_cannot_fit_are_refused_before_anything_is_read(reading: Reading) -> None:
    with pytest.raises(RefusedData, match="not clear what a document is"):
        reading.check()


def test_what_people_wrote_leaves_the_system_message_out() -> None:
    chat = json.dumps([{"role": "system", "content": "You are an owl."}, *ASKED])
    assert words_of(chat, chat=True) == "Why?\nBecause."
    assert words_of(chat, chat=False) == chat


RECORDS = (
    {"text": "one", "topic": "sea  birds"}, {"text": " ", "topic": {}}, {"text": "two", "topic": None},
    {"text": "three", "topic": 7}, {"text": "one", "topic": "again"}, {"text": "four", "topic": "a|b\n" + "c" * 60},
)  # fmt: skip


def test_a_field_labels_the_documents(tmp_path: Path) -> None:
    text = read(tmp_path, *RECORDS, reading=Reading(label="topic"))
    assert text.documents == ("one", "two", "three", "four")
    assert text.labels[:3] == ("sea birds", "(none)", "7"), "of the same document the first one's"
    assert text.labels[3].startswith("a/b cc") and text.labels[3].endswith("…") and len(text.labels[3]) == 40
    plain = read(tmp_path, *RECORDS)
    assert plain.labels == () and plain.digest == text.digest, "it is the same text"
    table = tmp_path / "rows.csv"
    table.write_text("text,topic\none,birds\ntwo,\n")
    assert read_text(str(table), tmp_path, Reading(label="topic")).labels == ("birds", "(none)")


@pytest.mark.parametrize(
    ("second", "says"),
    [
        ({"text": "two"}, "line 2: no field 'topic' among the fields text"),
        ({"text": "two", "topic": ["a"]}, "line 2: under 'topic' stands .*, which is no label"),
        ({"text": "two", "topic": "\ud800"}, "line 2: .*surrogates not allowed"),
    ],
)
def test_a_record_without_a_label_is_refused_with_its_line(tmp_path: Path, second: Any, says: str) -> None:
    with pytest.raises(RefusedData, match=says) as raised:
        read(tmp_path, {"text": "one", "topic": "a"}, second, reading=Reading(label="topic"))
    assert "data.label names" in str(raised.value) and "mend line 2" in str(raised.value)
    (tmp_path / "a.txt").write_text("a paragraph\n")
    with pytest.raises(RefusedData, match="line 1: no fields, of which 'topic' could be one"):
        read_text(str(tmp_path / "a.txt"), tmp_path, Reading(label="topic"))


def test_the_first_folder_below_the_source_labels_them_too(tmp_path: Path) -> None:
    for place in ("birds/sea/a.txt", "birds/b.txt", "frogs/c.txt", "d.txt"):
        file = tmp_path / "texts" / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"of {place}\n")
    text = read_text(str(tmp_path / "texts"), tmp_path, Reading(label="/"))
    assert dict(zip(text.documents, text.labels, strict=True)) == {
        "of birds/sea/a.txt": "birds", "of birds/b.txt": "birds", "of frogs/c.txt": "frogs", "of d.txt": "(none)",
    }  # fmt: skip
