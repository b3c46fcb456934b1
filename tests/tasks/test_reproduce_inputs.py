"""What it takes to make a version again, against MLflow's own books: from its run, or refused with what is gone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from tasks.adapters import document_digests
from tasks.adapters.registry import DIGEST, EXPORTED
from tasks.adapters.store import Store
from tasks.adapters.tracking import Tracking
from tasks.contracts import DatasetRef, Made, ModelRef, Scorecard, Tracked
from tasks.errors import RefusedData, RefusedModel
from tasks.fetch import read_data
from tasks.lineage import books as ledger
from tasks.news import NEW as NEW_FILE
from tasks.news import fetch_new, find_news
from tasks.origin import record_base
from tasks.provenance import (
    BASE,
    DOCUMENTS,
    HELD_OUT,
    NEW_DOCUMENTS,
    NEWS,
    PARAMETERS,
    PARENT,
    SURROUNDINGS,
    surroundings,
    write_surroundings,
    write_text_facts,
)
from tasks.reader_recipes import QuestionsChoice, ReaderChoice, ReaderGate, ReaderRecipe
from tasks.recipes import DataChoice, Gate, ModelChoice, Recipe
from tasks.record import tracking
from tasks.reproduce import compare, record_repeat
from tasks.reproduce_inputs import recorded_base, recorded_of, recorded_text, require_same_inputs
from tasks.reproduction import Recorded, RecordedReader, Repeat
from tasks.retrain_plan import Retraining, Training
from tasks.settings import settings
from tests.adapters.test_registry import DATA, ORIGINAL, SCORECARD
from tests.tasks.test_data import home, lines, model, store, texts
from tests.tasks.test_news import address, books
from tests.tasks.test_report import READER

__all__ = ["address", "books", "home", "model", "store"]  # fixtures
Books = tuple[MlflowClient, str]
OLD, NEW = texts(count=60), texts("wolf", count=40)
ONNX = "9" * 64


def small(path: Path, documents: list[str], **more: Any) -> DataChoice:
    return DataChoice(
        source=str(lines(path, documents)), block_tokens=32, calibration_blocks=3, training_blocks=3,
        evaluation_blocks=3, **more,
    )  # fmt: skip


def version(given: Books, files: dict[str, str], tags: dict[str, str], own: dict[str, str] | None = None) -> str:
    """A version with the tags ``own``, whose run has left these files and tags."""
    client, name = given
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    run = client.create_run(str(experiment.experiment_id), tags=tags)
    for path, text in ({SURROUNDINGS: "{}"} | files).items():
        client.log_text(run.info.run_id, text, path)
    return str(client.create_model_version(name, "file:///nowhere", run_id=run.info.run_id, tags=own).version)


def read(given: Books, number: str) -> Recorded | RecordedReader:
    return recorded_of(ledger(), ledger().version(given[1], number))


def trained(given: Books, choice: DataChoice, *, start: str = "model", without: str = "", parent: str = "") -> str:
    """A version that was trained first, as the flow leaves it; ``without``: one file or tag that its run lacks."""
    data = read_data.fn(choice)
    news = find_news(choice, data, "of-no-version", "", 1)
    listed = (Store(settings().store).open(news.uri, news.digest) / NEW_FILE).read_text()
    parameters = {
        "model": ModelChoice(source="tiny"), "data": choice, "recipe": Recipe(), "gate": Gate(),
        "retraining": Retraining(start=start), "training": Training(),
    }  # fmt: skip
    files = {
        PARAMETERS: json.dumps({part: value.model_dump(mode="json") for part, value in parameters.items()}),
        "scorecard.json": SCORECARD.model_dump_json(), NEWS: news.model_dump_json(), NEW_DOCUMENTS: listed,
        DOCUMENTS: document_digests.written(OLD),
    }  # fmt: skip
    tags = {
        "slimline.text_digest": data.text.digest, "slimline.trained_from": "tiny", BASE: "e" * 64, PARENT: parent
    }  # fmt: skip
    kept = [{name: value for name, value in each.items() if name != without} for each in (files, tags)]
    return version(given, *kept)


def test_a_version_that_was_trained_first_is_read_with_what_it_takes_to_train_it_again(
    books: Books, tmp_path: Path, model: ModelRef
) -> None:
    choice = small(tmp_path / "t.jsonl", OLD)
    number = trained(books, choice)
    data, before = read_data.fn(choice), fetch_new.fn(choice, read_data.fn(choice), model, news_of(books, number), 0.2)
    shutil.rmtree(settings().store / "news")
    found = read(books, number)
    assert isinstance(found, Recorded) and found.trained is not None and not found.trained.goes_on
    assert (found.base_digest, found.trained.base_name) == ("e" * 64, "tiny")
    assert found.base_digest != SCORECARD.baseline_model.digest, "what is compared is the trained model"
    again = fetch_new.fn(choice, data, model, found.trained.news, 0.2)
    assert again.digest == before.digest, "the list of new documents came back from MLflow, and so do the blocks"
    with pytest.raises(RefusedModel, match=r"tiny is not the model that .*/1 was made from"):
        require_same_inputs.fn(found, model, found.text_digest)


def news_of(given: Books, number: str) -> Any:
    found = read(given, number)
    assert isinstance(found, Recorded) and found.trained is not None
    return found.trained.news


def test_an_older_version_is_refused_with_what_its_run_does_not_say(books: Books, tmp_path: Path, home: Path) -> None:
    for missing in (BASE, NEW_DOCUMENTS, NEWS, PARAMETERS, "slimline.text_digest"):
        number = trained(books, small(tmp_path / "t.jsonl", OLD), without=missing)
        with pytest.raises(RefusedModel, match=f"no {missing}") as raised:
            read(books, number)
        for said in ("cannot be made again", "limit:", "what is registered from now on has the whole record"):
            assert said in str(raised.value)


def test_another_list_than_was_recorded_is_no_record(books: Books, tmp_path: Path, home: Path) -> None:
    number = trained(books, small(tmp_path / "t.jsonl", OLD))
    shutil.rmtree(settings().store / "news")
    books[0].log_text(ledger().version(books[1], number).run_id, "0123456789abcdef\n", NEW_DOCUMENTS)
    with pytest.raises(RefusedModel, match="the list of new documents is "):
        read(books, number)


def test_the_text_is_taken_out_of_a_source_that_has_grown_and_refused_where_documents_are_gone(
    books: Books, tmp_path: Path, home: Path
) -> None:
    choice = small(tmp_path / "t.jsonl", OLD)
    found = read(books, trained(books, choice))
    assert isinstance(found, Recorded)
    kept = settings().downloads / "texts"
    lines(tmp_path / "t.jsonl", NEW[:3] + OLD + NEW[3:])
    assert recorded_text.fn(found).text.digest == found.text_digest, "as it was kept"
    shutil.rmtree(kept)
    assert recorded_text.fn(found).text.digest == found.text_digest, "picked out of what is there now"
    assert (kept / f"{found.text_digest}.json").exists(), "for the tasks that read it again"
    shutil.rmtree(kept)
    lines(tmp_path / "t.jsonl", NEW + OLD[20:])
    with pytest.raises(RefusedData, match="no longer has the text that") as raised:
        recorded_text.fn(found)
    assert "40 of its 60 documents are there" in str(raised.value) and found.text_digest in str(raised.value)


def test_the_text_comes_back_in_its_order_out_of_a_source_that_has_outgrown_what_is_read(
    books: Books, tmp_path: Path, home: Path
) -> None:
    path = tmp_path / "t.jsonl"
    choice = small(path, OLD, most_documents=len(OLD))
    found = read(books, trained(books, choice))
    assert isinstance(found, Recorded)
    for now in (NEW + OLD, NEW + OLD[::-1], OLD[::-1]):
        shutil.rmtree(settings().downloads / "texts")
        lines(path, now)
        with path.open("a") as file:
            file.write("no JSON, and not asked for: all that is wanted is there\n" if len(now) > len(OLD) else "")
        assert recorded_text.fn(found).text.digest == found.text_digest, now[:1]


def test_a_sorted_list_of_an_earlier_version_goes_by_the_source_s_order(
    books: Books, tmp_path: Path, home: Path
) -> None:
    choice = small(tmp_path / "t.jsonl", OLD, most_documents=len(OLD))
    number = trained(books, choice)
    before = document_digests.lines(map(document_digests.digest_of, OLD))
    books[0].log_text(ledger().version(books[1], number).run_id, before, DOCUMENTS)
    found = read(books, number)
    assert isinstance(found, Recorded)
    for now, there in ((NEW + OLD, None), (NEW + OLD[::-1], 60), (NEW, 0)):
        shutil.rmtree(settings().downloads / "texts")
        lines(tmp_path / "t.jsonl", now)
        if there is None:
            assert recorded_text.fn(found).text.digest == found.text_digest
        else:
            with pytest.raises(RefusedData, match=f"; {there} of its 60 documents are there"):
                recorded_text.fn(found)


def test_a_held_out_text_of_its_own_is_recorded_and_asked_for_again(books: Books, tmp_path: Path, home: Path) -> None:
    choice = small(tmp_path / "t.jsonl", OLD, evaluation_source=str(lines(tmp_path / "held.jsonl", NEW)))
    data, number = read_data.fn(choice), trained(books, choice)
    run_id = ledger().version(books[1], number).run_id
    write_text_facts(tracking(), run_id, data, OLD, NEW)
    assert data.held_out is not None
    assert ledger().run(run_id).tags[HELD_OUT] == data.held_out.digest
    found = read(books, number)
    assert isinstance(found, Recorded) and recorded_text.fn(found).held_out is not None
    shutil.rmtree(settings().downloads / "texts")
    lines(tmp_path / "held.jsonl", [*texts("bee", count=5), *NEW[::-1]])
    again = recorded_text.fn(found).held_out
    assert again is not None and again.digest == data.held_out.digest, "out of what has come since, in its order"
    shutil.rmtree(settings().downloads / "texts")
    lines(tmp_path / "held.jsonl", NEW[1:])
    with pytest.raises(RefusedData, match=r"held\.jsonl no longer has the text"):
        recorded_text.fn(found)


def test_what_a_champion_was_made_from_is_asked_of_the_store(books: Books, tmp_path: Path, model: ModelRef) -> None:
    client, name = books
    choice = small(tmp_path / "t.jsonl", OLD)
    parent = trained(books, choice)
    found = read(books, trained(books, choice, start="champion", parent=f"{name} {parent}"))
    assert isinstance(found, Recorded) and found.trained is not None and found.trained.goes_on
    with pytest.raises(RefusedModel, match=f"slimline reproduce {name} {parent}") as raised:
        recorded_base.fn(found)
    assert "not in this store" in str(raised.value) and "e" * 64 in str(raised.value)
    there = SCORECARD.model_copy(update={"baseline_model": model})
    client.log_text(ledger().version(name, parent).run_id, there.model_dump_json(), "scorecard.json")
    assert recorded_base.fn(found) == model


def test_a_reader_is_read_with_the_encoder_that_its_teacher_was_trained_from(books: Books, home: Path) -> None:
    parts = {"model": ReaderChoice(), "data": QuestionsChoice(), "recipe": ReaderRecipe(), "gate": ReaderGate()}
    files = {
        PARAMETERS: json.dumps({part: value.model_dump(mode="json") for part, value in parts.items()}),
        "scorecard.json": READER.model_dump_json(),
    }
    number = version(books, files, {"slimline.text_digest": "7" * 64})
    with pytest.raises(RefusedModel, match=f"no {BASE}"):
        read(books, number)
    record_base.fn(Tracked(run_id=ledger().version(books[1], number).run_id, url=""), ORIGINAL)
    found = read(books, number)
    assert isinstance(found, RecordedReader) and found.base_digest == ORIGINAL.digest
    require_same_inputs.fn(found, ORIGINAL, "7" * 64)  # raises nothing
    with pytest.raises(RefusedData, match="synthetic is not the text"):
        require_same_inputs.fn(found, ORIGINAL, "8" * 64)


def compressed(given: Books, scorecard: Scorecard, *, older: bool = False, own: dict[str, str] | None = None) -> str:
    """A version of the flow compress; ``older``: its scorecard is of before anything was exported."""
    parts = {"model": ModelChoice(source="tiny"), "data": DataChoice(), "recipe": Recipe(), "gate": Gate()}
    told = scorecard.model_dump(mode="json", exclude={"exported_model", "packed"} if older else None)
    parameters = {part: value.model_dump(mode="json") for part, value in parts.items()}
    files = {PARAMETERS: json.dumps(parameters), "scorecard.json": json.dumps(told)}
    return version(given, files, {"slimline.text_digest": "7" * 64}, own)


def test_what_was_exported_is_read_wherever_it_was_written(
    books: Books, address: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIMLINE_EXPERIMENT", books[1])
    exports = SCORECARD.model_copy(
        update={"exported_model": SCORECARD.candidate_model.model_copy(update={"digest": ONNX})}
    )
    older = compressed(books, SCORECARD, older=True)
    assert read(books, older).exported_digest is None, "nobody wrote it down"
    Tracking(address, books[1]).log_stage(
        ledger().version(books[1], older).run_id, "export", {}, {}, tags={DIGEST: ONNX}
    )
    assert read(books, older).exported_digest == ONNX, "of the child run"
    assert read(books, compressed(books, SCORECARD, older=True, own={EXPORTED: ONNX})).exported_digest == ONNX
    assert read(books, compressed(books, exports)).exported_digest == ONNX
    assert read(books, compressed(books, SCORECARD)).exported_digest == "", "served with torch"


def test_a_re_run_is_told_by_both_folders_and_earlier_ones_count_on_the_same_data_only(
    books: Books, address: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIMLINE_EXPERIMENT", books[1])
    model = SCORECARD.candidate_model
    exports = SCORECARD.model_copy(update={"exported_model": model.model_copy(update={"digest": ONNX})})
    found = read(books, compressed(books, exports)).model_copy(update={"surroundings": surroundings().json()})
    again = SCORECARD.model_copy(update={"exported_model": model.model_copy(update={"digest": "f" * 64})})

    def made(key: str, scorecard: Scorecard, data: DatasetRef = DATA) -> tuple[Repeat, str]:
        run_id = tracking().open_run(key, key, {}, {})
        write_surroundings(tracking(), run_id)
        outcome = Made(original=ORIGINAL, data=data, stages=(), scorecard=scorecard, exported=None)
        repeat = record_repeat.fn(Tracked(run_id=run_id, url=""), found, outcome)
        return repeat, ledger().run(run_id).tags["slimline.verdict"]

    elsewhere = DATA.model_copy(update={"digest": "0" * 64})
    made("other-data", exports, elsewhere)
    (first, said), (second, other) = made("first", exports), made("second", again)
    assert (said, other) == ("bit for bit", "other bytes")
    assert compare.fn(found, (first,)).repeats == (second.model_copy(update={"earlier": True}), first)
    result = compare.fn(found, (second,))
    assert result.inside and result.verdict == "inside the bands of 2 re-runs, not bit for bit"
