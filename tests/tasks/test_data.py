"""Texts among the tasks: who reads what, what enters a key, and what stops before any work."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.context import TaskRunContext
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings

from tasks.adapters.store import Store
from tasks.adapters.tokens import read_account, read_dataset
from tasks.caching import StageKey
from tasks.contracts import DatasetRef, ModelRef, identity
from tasks.data_card import data_card
from tasks.data_contracts import DataText
from tasks.errors import ArtifactDamaged, RefusedData
from tasks.fetch import describe, fetch, import_source, read_data, require_apart
from tasks.recipes import DataChoice, ModelChoice
from tasks.settings import settings
from tasks.text_sources import check_source_of, kind_of, text_again
from tests.adapters.test_hub_data import write_copies

SMALL = {"block_tokens": 32, "calibration_blocks": 3, "training_blocks": 3, "evaluation_blocks": 3}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("SLIMLINE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    (tmp_path / "results").mkdir()
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path / "results"}):
        yield tmp_path


def imported() -> ModelRef:
    return describe.fn(import_source.fn(ModelChoice(source="tiny")))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the seeded model in it, made once."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLIMLINE_HOME", str(home))
        imported()
    return home


@pytest.fixture
def model(home: Path, store: Path) -> ModelRef:
    shutil.copytree(store, home / "home")
    return imported()


def lines(path: Path, texts: list[str]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def texts(begin: str = "bear", count: int = 60, words: int = 12) -> list[str]:
    return [" ".join(f"{begin}{index * 31 + place}" for place in range(words)) for index in range(count)]


def key(choice: DataChoice, data: DataText, model: ModelRef) -> str:
    context: TaskRunContext = TaskRunContext.model_construct()
    policy = fetch.cache_policy
    assert isinstance(policy, StageKey)
    return policy.compute_key(context, {"choice": choice, "data": data, "tokenizer": model}, {})


def blocks_of(choice: DataChoice, model: ModelRef) -> DatasetRef:
    return fetch.fn(choice, read_data.fn(choice), model)


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("wiki-leads", "local"), ("./a/b", "local"), ("org/name.jsonl", "local"), ("~/org/name", "local"),
        ("org/name", "hub"), ("allenai/c4:en@main", "hub"), ("s3://bucket/prefix", "s3"), ("wikipedia", "local"),
    ],
)  # fmt: skip
def test_the_name_tells_who_reads_it(source: str, kind: str) -> None:
    assert kind_of(source) == kind


def test_what_lies_here_is_local_whatever_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines(tmp_path / "name" / "a.jsonl", ["one"])
    monkeypatch.chdir(tmp_path.parent)
    assert kind_of(f"{tmp_path.name}/name") == "local"


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        ({"source": "ftp://host/a.txt"}, "the scheme ftp://"),
        ({"source": "wikipedia"}, "wiki-leads, python-docs"),
        ({"source": "s3://UPPER/a"}, "no bucket's name"),
        ({"source": "python-docs", "evaluation_source": "nowhere.jsonl"}, "no such file"),
        ({"source": "python-docs", "document": "template", "fields": "{a.b}"}, "not clear what a document is"),
    ],
)
def test_what_can_be_known_early_is_refused_by_the_preflight(home: Path, choice: dict[str, str], says: str) -> None:
    with pytest.raises(RefusedData, match=says):
        check_source_of(DataChoice.model_validate(choice))
    assert not (home / "home").exists(), "nothing was written"


def test_the_same_text_elsewhere_is_the_same_key_and_the_same_artifact(home: Path, model: ModelRef) -> None:
    here = DataChoice(source=str(lines(home / "here" / "a.jsonl", texts())), **SMALL)
    there = home / "there" / "other.csv"
    there.parent.mkdir()
    there.write_text("body,n\n" + "".join(f"{text},1\n" for text in texts()))
    other = DataChoice(source=str(there), document="field", fields="body", **SMALL)
    read = read_data.fn(here), read_data.fn(other)
    assert identity(read[0]) == identity(read[1]) and read[0] != read[1]
    assert key(here, read[0], model) == key(other, read[1], model)
    assert blocks_of(here, model).digest == blocks_of(other, model).digest
    lines(home / "here" / "a.jsonl", [*texts(), "one more"])
    assert key(here, read_data.fn(here), model) != key(here, read[0], model)


@pytest.mark.parametrize("change", [{"packing": "whole"}, {"near_duplicates": 0.5}, {"seed": 1}, {"block_tokens": 16}])
def test_what_decides_the_blocks_enters_the_key(home: Path, model: ModelRef, change: dict[str, Any]) -> None:
    choice = DataChoice(source=str(lines(home / "a.jsonl", texts())), **SMALL)
    data = read_data.fn(choice)
    assert key(choice, data, model) != key(choice.model_copy(update=change), data, model)
    assert key(choice, data, model) == key(choice.model_copy(update={"max_leakage": 0.0}), data, model)


def test_what_was_read_is_what_is_cut_whatever_happens_to_the_file(home: Path, model: ModelRef) -> None:
    path = lines(home / "a.jsonl", texts())
    choice = DataChoice(source=str(path), **SMALL)
    data = read_data.fn(choice)
    lines(path, texts("owl"))
    assert text_again(choice, data.text).documents == tuple(texts())
    shutil.rmtree(settings().downloads / "texts")
    with pytest.raises(ArtifactDamaged, match="has changed since it was read"):
        text_again(choice, data.text)


def test_a_hub_data_set_comes_from_a_copy_or_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choice = DataChoice(source="databricks/databricks-dolly-15k")
    check_source_of(choice)
    with pytest.raises(RefusedData, match="the hub cannot be reached"):
        read_data.fn(choice)
    monkeypatch.setenv("SLIMLINE_DATASETS", str(write_copies(home / "copies")))
    assert read_data.fn(choice).text.chat


def test_a_held_out_text_of_its_own_is_measured_on(home: Path, model: ModelRef) -> None:
    text, held = lines(home / "a.jsonl", texts()), lines(home / "b.jsonl", texts("owl"))
    choice = DataChoice(source=str(text), evaluation_source=str(held), **SMALL)
    data, blocks = read_data.fn(choice), blocks_of(choice, model)
    splits = read_dataset(Store(settings().store).open(blocks.uri, blocks.digest)).splits
    assert all(prompt.startswith("owl") for prompt in splits.prompts)
    assert key(choice, data, model) != key(choice, DataText(text=data.text), model)
    same = choice.model_copy(update={"evaluation_source": str(text)})
    with pytest.raises(RefusedData, match="the held-out text is the text itself"):
        read_data.fn(same)


def test_a_held_out_text_that_was_learnt_from_stops_the_run(home: Path, model: ModelRef) -> None:
    learnt = [f"{one} {other}" for one, other in zip(texts(words=20), texts("owl"), strict=True)]
    choice = DataChoice(
        source=str(lines(home / "a.jsonl", learnt)),
        evaluation_source=str(lines(home / "b.jsonl", texts(words=20))),
        **(SMALL | {"training_blocks": 200, "evaluation_blocks": 60}),
    )
    with pytest.raises(RefusedData, match=r"stands in the calibration or training text too") as refused:
        require_apart.fn(choice, blocks_of(choice, model))
    assert "data.max_leakage" in str(refused.value.limit)
    require_apart.fn(choice.model_copy(update={"max_leakage": 1.0}), blocks_of(choice, model))


def test_chats_need_a_template_and_both_sides_the_same_kind(home: Path, model: ModelRef) -> None:
    chats = home / "chats.jsonl"
    chats.write_text('{"prompt": "Why?", "response": "Because."}\n')
    with pytest.raises(RefusedData, match="the tokenizer has no chat template"):
        blocks_of(DataChoice(source=str(chats), **SMALL), model)
    plain = str(lines(home / "a.jsonl", texts()))
    with pytest.raises(RefusedData, match="one of the texts is chats and the other is not"):
        blocks_of(DataChoice(source=plain, evaluation_source=str(chats), **SMALL), model)


def test_the_card_says_what_the_data_is(home: Path, model: ModelRef) -> None:
    repeated = [*texts(), texts()[0], f"{texts()[1]} x", "a ``` fence"]
    choice = DataChoice(source=str(lines(home / "a.jsonl", repeated)), near_duplicates=0.5, **SMALL)
    data, blocks = read_data.fn(choice), blocks_of(choice, model)
    account = read_account(Store(settings().store).open(blocks.uri, blocks.digest))
    assert account is not None
    card = data_card(choice, data, blocks, account)
    for said in (
        f"`{home / 'a.jsonl'}`", "Licence: not stated", "the field 'text' of a record; 62 different ones",
        "1 exact duplicates dropped", data.text.digest, blocks.digest, "| training | 3 | 96 |", "dealt by seed 0",
        "Leakage: 0.00%", "1.00 bytes a token", "```text\nbear",
    ):  # fmt: skip
        assert said in card
    assert data_card(choice, data, blocks, None).startswith("# Data: a.jsonl")


def labelled(path: Path, topics: list[str]) -> Path:
    """``texts()``, each with one of the topics in turn."""
    rows = [{"text": text, "topic": topics[index % len(topics)]} for index, text in enumerate(texts())]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_labels_are_what_a_data_set_is_and_the_field_s_name_is_not(home: Path, model: ModelRef, tmp_path: Path) -> None:
    more = SMALL | {"evaluation_blocks": 20}
    plain = DataChoice(source=str(labelled(tmp_path / "a.jsonl", ["owl", "bee"])), **more)
    by_topic = plain.model_copy(update={"label": "topic"})
    read, marked = read_data.fn(plain), read_data.fn(by_topic)
    assert read.text.digest == marked.text.digest and key(plain, read, model) != key(by_topic, marked, model)
    found = {name: read_dataset(Store(settings().store).root / blocks_of(choice, model).uri).splits
             for name, choice in (("plain", plain), ("topic", by_topic))}  # fmt: skip
    assert (found["plain"].evaluation == found["topic"].evaluation).all() and found["plain"].labels == ()
    assert {label for label, _ in found["topic"].labels} == {"owl", "bee"}
    renamed = tmp_path / "b.jsonl"
    renamed.write_text((tmp_path / "a.jsonl").read_text().replace("topic", "subject"))
    other = by_topic.model_copy(update={"source": str(renamed), "label": "subject"})
    assert key(other, read_data.fn(other), model) == key(by_topic, marked, model)
    labelled(tmp_path / "a.jsonl", ["owl", "bee", "ant"])
    assert key(by_topic, read_data.fn(by_topic), model) != key(by_topic, marked, model), "other labels"
    assert set(text_again(by_topic, marked.text).labels) == {"owl", "bee"}, "as they were when they were read"
    told = data_card(by_topic, marked, blocks_of(by_topic, model), None, [("owl", 40), ("bee", 70), ("owl", 1)])
    assert "the field `topic`. Held-out tokens by label: bee 70, owl 41" in told


def test_a_held_out_text_of_its_own_has_the_labels(home: Path, model: ModelRef, tmp_path: Path) -> None:
    held = labelled(tmp_path / "held.jsonl", ["owl"])
    choice = DataChoice(
        source=str(lines(tmp_path / "a.jsonl", texts("wolf"))), evaluation_source=str(held), label="topic", **SMALL
    )
    splits = read_dataset(Store(settings().store).root / blocks_of(choice, model).uri).splits
    assert {label for label, _ in splits.labels} == {"owl"}, "the text that is learnt from needs no such field"


@pytest.mark.parametrize(
    ("source", "label", "says"),
    [
        ("python-docs", "topic", "its documents have no fields"),
        ("a.jsonl", "/", "it is a single file"),
        ("capture://endpoint", "topic", "requests have no fields"),
    ],
)
def test_labels_that_cannot_be_are_refused_by_the_preflight(tmp_path: Path, source: str, label: str, says: str) -> None:
    lines(tmp_path / "a.jsonl", ["one"])
    given = str(tmp_path / source) if source.endswith("jsonl") else source
    with pytest.raises(RefusedData, match="has no labels to slice by") as raised:
        check_source_of(DataChoice(source=given, label=label))
    assert says in str(raised.value)
