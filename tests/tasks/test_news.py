"""New text since the champion, against MLflow's own books: how much there is, if it is enough, what is cut of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from prefect.context import TaskRunContext
from pydantic import TypeAdapter
from rich.console import Console
from tokenizers import Tokenizer

from deployments.follow import Result
from deployments.summary import print_outcome
from tasks.adapters import document_digests
from tasks.adapters.registry import CHAMPION, RESTORED, Registry
from tasks.adapters.store import Store
from tasks.adapters.tokens import read_account, read_dataset
from tasks.caching import StageKey
from tasks.contracts import ModelRef
from tasks.data_contracts import DataText
from tasks.errors import RefusedData
from tasks.fetch import read_data
from tasks.news import fetch_new, find_news
from tasks.provenance import DOCUMENTS
from tasks.recipes import DataChoice
from tasks.retraining import News, Skipped, news_markdown, skipped_markdown
from tasks.settings import settings
from tests.tasks.test_data import SMALL, home, lines, model, store, texts

__all__ = ["home", "model", "store"]  # fixtures
OLD, NEW = texts(count=60), texts("wolf", count=40)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def books(
    address: str, home: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> tuple[MlflowClient, str]:
    """MLflow without a server, and a registered model of the test's own."""
    monkeypatch.setenv("SLIMLINE_MLFLOW_URL", address)
    client = MlflowClient(address, address)
    name = str(request.node.name).partition("[")[0].replace("_", "-")
    client.create_registered_model(name)
    client.create_experiment(name, (home / "artifacts").as_uri())
    return client, name


def version(books: tuple[MlflowClient, str], choice: DataChoice, *, listed: bool = True, **tags: str) -> str:
    """A version whose run says which text it had, as ``record_data`` and ``record_card`` leave it."""
    client, name = books
    text = read_data.fn(choice).text
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    run = client.create_run(str(experiment.experiment_id), tags={"slimline.text_digest": text.digest})
    if listed:
        documents = Path(choice.source).read_text().splitlines()
        said = [document.split('"')[3] for document in documents]
        client.log_text(run.info.run_id, document_digests.written(said), DOCUMENTS)
    made = client.create_model_version(name, "file:///nowhere", run_id=run.info.run_id, tags=tags)
    return str(made.version)


def choice_of(path: Path, documents: list[str]) -> DataChoice:
    return DataChoice(source=str(lines(path, documents)), **SMALL)  # type: ignore[arg-type]


def look(choice: DataChoice, name: str, minimum: int = 1) -> News:
    return find(choice, read_data.fn(choice), name, minimum)


def find(choice: DataChoice, data: DataText, name: str, minimum: int = 1) -> News:
    """As the flow does: the champion is asked for first, once for all that follows."""
    champion = Registry(settings().mlflow_url).version_by_alias(name, CHAMPION)
    return find_news(choice, data, name, champion or "", minimum)


def test_without_a_version_all_is_new(books: tuple[MlflowClient, str], tmp_path: Path) -> None:
    found = look(choice_of(tmp_path / "t.jsonl", OLD), books[1])
    assert (found.documents, found.new, found.enough, found.seen) == (60, 60, True, ())
    assert "no version has been made from any" in found.sentence
    assert look(choice_of(tmp_path / "t.jsonl", OLD), "never-registered").new == 60


def test_what_the_champion_had_is_not_new_wherever_it_stands_by_now(
    books: tuple[MlflowClient, str], tmp_path: Path
) -> None:
    client, name = books
    client.set_registered_model_alias(name, CHAMPION, version(books, choice_of(tmp_path / "old.jsonl", OLD)))
    same = look(choice_of(tmp_path / "copy.jsonl", OLD), name)
    assert same.new == 0 and not same.enough
    assert (
        same.sentence.startswith("no document of the 60 documents of ") and "at least 1 is asked for" in same.sentence
    )
    mixed = look(choice_of(tmp_path / "mixed.jsonl", NEW[:7] + OLD[::-1]), name, 10)
    assert (mixed.documents, mixed.new, mixed.enough) == (67, 7, False)
    assert f"7 of the 67 documents of {tmp_path / 'mixed.jsonl'} are new since {name} 1 (champion)" in mixed.sentence
    assert "at least 10 are asked for" in mixed.sentence
    assert look(choice_of(tmp_path / "mixed.jsonl", NEW[:7] + OLD[::-1]), name, 7).enough
    page = news_markdown(mixed)
    assert page.startswith("# 7 new documents\n") and f"| {name} 1 (champion) | 60 |" in page
    skipped = skipped_markdown(Skipped(registered_name=name, reason=mixed.sentence, news=mixed))
    assert "Nothing was trained and nothing moved." in skipped and "7 of the 67 documents" in skipped


def test_text_that_was_tried_and_taken_back_is_not_new_and_what_waits_for_its_release_is(
    books: tuple[MlflowClient, str], tmp_path: Path
) -> None:
    client, name = books
    client.set_registered_model_alias(name, CHAMPION, version(books, choice_of(tmp_path / "old.jsonl", OLD)))
    both = choice_of(tmp_path / "both.jsonl", OLD + NEW)
    waiting = version(books, both)
    assert look(both, name).new == 40, "the run that is repeated must release it"
    client.set_model_version_tag(name, waiting, RESTORED, "slower")
    tried = look(both, name)
    assert tried.new == 0 and "(champion) and " in tried.sentence and f"{name} {waiting} (restored)" in tried.sentence
    client.set_registered_model_alias(name, CHAMPION, waiting)
    assert [each.why for each in look(both, name).seen] == ["champion"]


def test_a_version_without_a_list_counts_as_unseen_unless_the_text_is_the_same(
    books: tuple[MlflowClient, str], tmp_path: Path
) -> None:
    client, name = books
    old = choice_of(tmp_path / "old.jsonl", OLD)
    client.set_registered_model_alias(name, CHAMPION, version(books, old, listed=False))
    assert look(old, name).new == 0
    more = look(choice_of(tmp_path / "more.jsonl", OLD + NEW[:1]), name)
    assert more.new == 61 and "no list of documents" in more.sentence


def test_held_out_documents_stay_held_out_and_new_ones_are_learnt_first(
    books: tuple[MlflowClient, str], tmp_path: Path, model: ModelRef
) -> None:
    client, name = books
    client.set_registered_model_alias(name, CHAMPION, version(books, choice_of(tmp_path / "old.jsonl", OLD)))
    folder = Store(settings().store)

    def cut(documents: list[str], **changes: int) -> tuple[News, str]:
        choice = choice_of(tmp_path / "now.jsonl", documents).model_copy(update=changes)
        data = read_data.fn(choice)
        found = find(choice, data, name)
        return found, fetch_new.fn(choice, data, model, found, 0.2).uri

    tokenizer = Tokenizer.from_file(str(folder.root / model.uri / "tokenizer.json"))

    def words(uri: str, split: str) -> set[str]:
        """The words of a split that are whole: each stands in one document only."""
        blocks = getattr(read_dataset(folder.root / uri).splits, split)
        return set(tokenizer.decode(blocks.flatten().tolist()).split()) & every

    every = {word for document in OLD + NEW for word in document.split()}
    (_, before), (found, after) = cut(OLD, evaluation_blocks=10), cut(OLD + NEW, evaluation_blocks=10)
    told = read_account(folder.root / after)
    assert found.new == 40 and told is not None and told.leaked == 0
    held = words(before, "evaluation") | words(after, "evaluation")
    assert {word[:4] for word in words(after, "evaluation")} == {"bear", "wolf"}, "of both, old and new"
    assert not held & (words(before, "training") | words(after, "training"))
    learnt = words(after, "training")
    assert learnt and {word[:4] for word in learnt} == {"wolf"}, "new documents first"
    with pytest.raises(RefusedData, match="no document fell to the"):
        cut(OLD[:2])
    with pytest.raises(RefusedData, match="too short"):
        cut(OLD, training_blocks=4000)


def test_the_blocks_are_the_same_stage_as_long_as_the_same_is_new(
    books: tuple[MlflowClient, str], tmp_path: Path, model: ModelRef
) -> None:
    client, name = books
    now = choice_of(tmp_path / "now.jsonl", OLD + NEW)

    def key() -> str:
        policy, data = fetch_new.cache_policy, read_data.fn(now)
        assert isinstance(policy, StageKey)
        given = {"choice": now, "data": data, "tokenizer": model, "held_out_share": 0.2}
        context: TaskRunContext = TaskRunContext.model_construct()
        return policy.compute_key(context, {**given, "news": find(now, data, name)}, {})

    first = key()
    assert key() == first
    client.set_registered_model_alias(name, CHAMPION, version(books, choice_of(tmp_path / "old.jsonl", OLD)))
    assert key() != first, "another champion, so other documents are new"


def test_a_terminal_says_why_a_run_was_skipped(capsys: pytest.CaptureFixture[str]) -> None:
    skipped = Skipped(registered_name="slimline", reason="no document is new; at least 3 are asked for")
    result = TypeAdapter[Result](Result).validate_python(skipped.model_dump())
    assert isinstance(result, Skipped)
    print_outcome(result, Console(soft_wrap=True))
    said = capsys.readouterr().out
    assert said.startswith("Skipped: slimline\nNo document is new; at least 3 are asked for. Nothing was trained")
