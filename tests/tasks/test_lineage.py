"""Lineage over MLflow's own books where something is gone from them: what is left is shown, what is gone is said."""

from __future__ import annotations

import json
import sqlite3

import pytest
from mlflow.tracking import MlflowClient
from rich.console import Console
from typer.testing import CliRunner

from deployments.cli import app
from deployments.commands.lineage import tree
from tasks.adapters.lineage_books import VERSION
from tasks.adapters.registry import Registry
from tasks.adapters.sagemaker_overview import EndpointView, VariantView
from tasks.adapters.serving_history import moves_on_endpoint, spans
from tasks.adapters.tracking import Tracking
from tasks.errors import RefusedModel
from tasks.lineage import books as ledger
from tasks.lineage import endpoint_node, history_of, lineage_of, markdown_of, version_tree
from tasks.lineage_tree import Node
from tasks.report_page import lineage_svg
from tests.tasks.test_data import home
from tests.tasks.test_news import address, books
from tests.tasks.test_report import REPORT

__all__ = ["address", "books", "home"]  # fixtures
Books = tuple[MlflowClient, str]
TEXT, STAGE, ORIGINAL = "5" * 64, "6" * 64, "7" * 64


@pytest.fixture
def made(books: Books, address: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two versions of one text, each with its run, a stage and the tag that names it; the run ids."""
    client, name = books
    monkeypatch.setenv("SLIMLINE_EXPERIMENT", name)
    tracking, runs = Tracking(address, name), []
    for number in ("1", "2"):
        tags = {"slimline.text_digest": TEXT, "slimline.original_digest": ORIGINAL, VERSION: f"{name}/{number}"}
        runs.append(tracking.open_run(f"{name}-{number}", f"run-{number}", {}, tags))
        tracking.log_stage(runs[-1], "prune", {}, {}, tags={"slimline.digest": STAGE})
        client.create_model_version(name, "file:///nowhere", run_id=runs[-1])
    return runs


def text_of(node: Node) -> str:
    console = Console(width=200)
    with console.capture() as said:
        console.print(tree(node))
    return said.get()


def purge(address: str, run_id: str) -> None:
    """As ``mlflow gc`` leaves it: no row of the run in any table."""
    with sqlite3.connect(address.removeprefix("sqlite:///")) as database:
        for table in ("tags", "params", "metrics", "latest_metrics", "runs"):
            database.execute(f"DELETE FROM {table} WHERE run_uuid = ?", (run_id,))


def test_a_deleted_version_is_said_to_be_and_hides_no_other(books: Books, made: list[str]) -> None:
    client, name = books
    client.delete_model_version(name, "2")
    for digest in (TEXT, STAGE):
        (found,) = lineage_of(digest)
        reached = {node.title: node for node in found.children}
        assert reached.keys() == {f"{name}/1", f"{name}/2"}
        assert reached[f"{name}/2"].deleted and not reached[f"{name}/1"].deleted
        assert "version deleted" in text_of(found) and "version deleted" in markdown_of([found])
        assert json.loads(found.model_dump_json())["children"][1]["facts"]["version"] == "deleted"


def test_an_endpoint_that_serves_a_deleted_version_keeps_config_traffic_and_history(
    books: Books, made: list[str], address: str
) -> None:
    client, name = books
    registry = Registry(address)
    for number in ("1", "2"):
        registry.begin_serving(name, number, "e", f"c-{number}", "AllTraffic", "original")
    client.delete_model_version(name, "2")
    serving = VariantView("c-2", "serving", "AllTraffic", name, "2", 1.0, 1, 1, 0, 0, None)
    view = EndpointView("e", "InService", "", "", (serving,), {}, None, "")
    found = endpoint_node(ledger(), "e", [view], spans(moves_on_endpoint(client, "e")))
    variant, *history = found.children
    assert (variant.title, variant.facts["traffic"]) == ("c-2 / AllTraffic", "100%")
    (version,) = variant.children
    assert version.deleted and version.title == f"{name}/2"
    (run,) = version.children
    assert run.title == "named by run-2" and [stage.title for stage in run.find("stage")] == ["prune"]
    assert [node.facts for node in run.find("model")] == [{"digest": ORIGINAL}], "the runs lead on to the original"
    assert [node.title for node in history][1] == f"{name}/1" and "version deleted" in text_of(found)


def test_the_picture_says_that_the_version_was_deleted(books: Books, made: list[str]) -> None:
    client, name = books
    client.delete_model_version(name, "2")
    gone, there = (version_tree(name, number).deleted for number in ("2", "1"))
    assert (gone, there) == (True, False)
    drawn = lineage_svg(REPORT.model_copy(update={"deleted": gone}))
    assert "version deleted" in drawn and "alias champion" not in drawn
    assert "version deleted" not in lineage_svg(REPORT) and "alias champion" in lineage_svg(REPORT)


def test_the_history_of_no_model_names_those_that_there_are(books: Books) -> None:
    for typo in ("typo", "its'", ""):
        with pytest.raises(RefusedModel, match="MLflow has no registered model") as raised:
            history_of(typo)
        assert "there is no such model; registered are" in str(raised.value.observed)
        assert books[1] in str(raised.value.observed)
        with pytest.raises(RefusedModel, match="there is no such model"):
            lineage_of(f"{typo}/1")


def test_a_model_without_versions_is_not_called_unknown(books: Books) -> None:
    with pytest.raises(RefusedModel) as raised:
        lineage_of(f"{books[1]}/1")
    assert "the model has no versions" in str(raised.value) and "no such model" not in str(raised.value)
    (told,) = history_of(books[1])
    assert told.title == "Slimline has written no move of its aliases or traffic"


def test_a_name_with_a_quote_is_a_name(books: Books) -> None:
    client = books[0]
    client.create_registered_model("it's")
    client.create_model_version("it's", "file:///nowhere")
    (found,) = lineage_of("it's/1")
    assert found.title == "it's/1" and history_of("it's")
    assert [version.version for version in ledger().versions("it's")] == ["1"]


def test_a_version_whose_run_is_gone_is_shown_without_it(books: Books, made: list[str], address: str) -> None:
    client, name = books
    client.create_model_version(name, "file:///of-somebody-else")
    purge(address, made[1])
    (orphan,) = lineage_of(f"{name}/2")
    assert [(node.title, node.facts) for node in orphan.children] == [
        ("made by a run that is not in MLflow", {"run": made[1]})
    ]
    (foreign,) = lineage_of(f"{name}/3")
    assert [node.title for node in foreign.children] == ["made by a run that is not in MLflow"]
    (found,) = lineage_of(STAGE)
    assert [node.title for node in found.children] == [f"{name}/1", f"{name}/2"], "a stage outlives the run it is of"
    with pytest.raises(RefusedModel, match="the run that made the version is not in MLflow"):
        ledger().run(made[1])


def test_the_command_ends_in_four_lines(books: Books) -> None:
    done = CliRunner().invoke(app, ["lineage", "typo", "--history", "--aws", "--json"])
    assert done.exit_code == 1 and isinstance(done.exception, SystemExit), done.output
    told = json.loads(done.stdout)["error"]
    assert told["kind"] == "RefusedModel" and books[1] in told["observed"]
    for part in ("observed: ", "limit:    ", "remedy:   "):
        assert part in done.stderr
