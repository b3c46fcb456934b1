"""Tracking and registry against a real MLflow server: database, served artifacts, pages that link to one another."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from typer.testing import CliRunner

from deployments.cli import app
from deployments.commands.names import model_names
from tasks.adapters.champion import EVIDENCE, read_champion
from tasks.adapters.mlflow_health import reachable
from tasks.adapters.registry import Registry
from tasks.adapters.serving_history import alias_at, moves_of_model, moves_on_endpoint, span_at
from tasks.adapters.store import Store
from tasks.adapters.tracking import Tracking, markdown
from tasks.contracts import DatasetRef, GateCheck, LayerReport, ModelRef, Quality, Score, Scorecard
from tasks.errors import ArtifactDamaged, RefusedModel
from tasks.evaluation_recipes import EvaluationChoice
from tasks.evidence_contracts import Evidence, ItemsRef
from tasks.find_champion import find_champion
from tasks.measure import measure_champion
from tasks.plans import Mode
from tasks.recipes import Gate
from tasks.settings import settings

MODEL = ModelRef(
    uri="models/new",
    digest="a" * 64,
    name="tiny",
    licence="Apache-2.0",
    architecture="LlamaForCausalLM",
    parameters=1000,
    bytes=300,
    dtype="float32",
    sparsity=0.2,
    bits=4,
)
ORIGINAL = MODEL.model_copy(update={"digest": "b" * 64, "uri": "models/old", "bytes": 1000, "bits": 32.0})
DATA = DatasetRef(
    uri="datasets/d",
    digest="c" * 64,
    name="wiki-leads",
    licence="CC BY-SA 4.0",
    block_tokens=64,
    calibration_blocks=8,
    training_blocks=4,
    evaluation_blocks=2,
)
BEFORE = Score(perplexity=10.0, agreement=1, kl=0, bytes=1000, first_token_ms=9, per_token_ms=4, tokens=126)
AFTER = Score(perplexity=11.0, agreement=0.9, kl=0.1, bytes=300, first_token_ms=8, per_token_ms=3, tokens=126)
CHECK = GateCheck(
    metric="perplexity ratio", observed=1.1, limit=1.25, sense="at most", passed=True, remedy="use more bits"
)
SCORECARD = Scorecard(
    candidate_model=MODEL,
    baseline_model=ORIGINAL,
    dataset_digest=DATA.digest,
    candidate=AFTER,
    baseline=BEFORE,
    checks=(CHECK,),
    sample="Paris <script>alert(1)</script>",
)


@pytest.fixture(scope="session")
def mlflow_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An MLflow server as the embedded stack runs it; starting takes some 10 to 60 seconds."""
    home = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{home / 'mlflow.db'}",
        "--artifacts-destination",
        str(home / "files"),
    ]
    quiet = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    log = home / "server.log"
    with log.open("w") as output:
        # A session of its own: the server starts workers, which must end with it.
        server = subprocess.Popen(
            command, cwd=home, env=quiet, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 240
        while not reachable(url):
            assert server.poll() is None and time.monotonic() < deadline, log.read_text()[-2000:]
            time.sleep(0.5)
        yield url
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=30)


@pytest.fixture
def client(mlflow_url: str) -> MlflowClient:
    return MlflowClient(mlflow_url, mlflow_url)


@pytest.fixture
def tracking(mlflow_url: str, request: pytest.FixtureRequest) -> Tracking:
    return Tracking(mlflow_url, f"it's {request.node.name}")


@pytest.fixture
def registry(mlflow_url: str) -> Registry:
    return Registry(mlflow_url)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "folder"
    (path / "sub").mkdir(parents=True)
    (path / "model.safetensors").write_bytes(bytes(range(256)) * 10)
    (path / "sub" / "config.json").write_text("{}")
    return path


def _layers(count: int) -> list[LayerReport]:
    return [
        LayerReport(
            layer=f"model.layers.{index}.mlp.up_proj",
            method="gptq",
            rows=8,
            columns=4,
            sparsity=0.2,
            bits=4,
            error=index / 10,
            seconds=0.5,
            fallback="damping × 10" if index == 1 else None,
        )
        for index in range(count)
    ]


def _artifact(client: MlflowClient, run_id: str, name: str, tmp_path: Path) -> str:
    return Path(client.download_artifacts(run_id, name, str(tmp_path))).read_text(encoding="utf-8")


def test_the_same_key_is_the_same_run_and_another_key_is_not(tracking: Tracking, client: MlflowClient) -> None:
    nested = {"recipe": {"prune": {"sparsity": 0.2}, "order": ["prune", "quantize"]}, "seed": 0}
    run_id = tracking.open_run("flow-1", "balanced", nested, {"slimline.prefect_run_url": "http://x"})
    tracking.close_run(run_id, "FAILED")
    assert tracking.open_run("flow-1", "balanced", nested, {}) == run_id
    assert tracking.open_run("flow-2", "balanced", nested, {}) != run_id
    run = client.get_run(run_id)
    assert run.info.status == "RUNNING"
    assert run.data.params == {
        "recipe.prune.sparsity": "0.2",
        "recipe.order": '["prune", "quantize"]',
        "seed": "0",
    }
    assert run.data.tags["slimline.key"] == "flow-1"
    assert tracking.run_url(run_id).endswith(
        f"/#/experiments/{run.info.experiment_id}/runs/{run_id}?workflowType=machine_learning"
    )


def test_a_data_set_is_an_input_once_with_its_whole_digest(tracking: Tracking, client: MlflowClient) -> None:
    run_id = tracking.open_run("flow-1", "balanced", {}, {})
    for _ in range(2):
        tracking.log_dataset(run_id, DATA, "calibration")
    (entry,) = client.get_run(run_id).inputs.dataset_inputs
    assert entry.dataset.name == "wiki-leads"
    assert DATA.digest.startswith(entry.dataset.digest)
    assert json.loads(entry.dataset.source)["sha256"] == DATA.digest
    assert json.loads(entry.dataset.profile)["calibration_blocks"] == 8
    assert {tag.key: tag.value for tag in entry.tags} == {"mlflow.data.context": "calibration"}


def test_each_part_of_a_data_set_is_an_input_of_its_own(tracking: Tracking, client: MlflowClient) -> None:
    run_id = tracking.open_run("flow-1", "balanced", {}, {})
    for _ in range(2):
        for context, digest in (("calibration", "1" * 64), ("training", "2" * 64), ("evaluation", "3" * 64)):
            tracking.log_dataset(run_id, DATA, context, digest, "4" * 64)
    entries = client.get_run(run_id).inputs.dataset_inputs
    told = {entry.tags[0].value: json.loads(entry.dataset.source) for entry in entries}
    assert len(entries) == 3 and told.keys() == {"calibration", "training", "evaluation"}
    assert told["training"]["split_sha256"] == "2" * 64 and told["training"]["sha256"] == DATA.digest
    assert told["evaluation"]["text_sha256"] == "4" * 64


def test_files_are_written_read_and_absent(tracking: Tracking) -> None:
    run_id = tracking.open_run("flow-1", "balanced", {}, {})
    tracking.log_files(run_id, {"report/report.json": "{}", "plain.txt": "é"})
    assert (tracking.read_file(run_id, "report/report.json"), tracking.read_file(run_id, "plain.txt")) == ("{}", "é")
    assert tracking.read_file(run_id, "report/other.json") is None is tracking.read_file(run_id, "no/folder.json")


def test_a_stage_is_a_child_with_a_table_a_layer_and_can_be_written_again(
    tracking: Tracking, client: MlflowClient, tmp_path: Path
) -> None:
    run_id = tracking.open_run("flow-1", "balanced", {}, {})
    losses = [1 / (step + 1) for step in range(1200)]  # more than one batch of MLflow's
    first = tracking.log_stage(
        run_id, "distill", {"epochs": 1}, {"seconds": 3.0}, _layers(3), {"slimline.cached": "false"}, losses=losses
    )
    again = tracking.log_stage(
        run_id, "distill", {"epochs": 1}, {"seconds": 3.0}, _layers(3), {"slimline.cached": "true"}
    )
    assert again == first
    child = client.get_run(first)
    assert child.info.status == "FINISHED"
    assert child.data.tags["mlflow.parentRunId"] == run_id
    assert child.data.tags["slimline.cached"] == "true"
    assert len(client.get_metric_history(first, "loss")) == len(losses)
    errors = {point.step: point.value for point in client.get_metric_history(first, "layer_error")}
    assert errors == {0: 0.0, 1: 0.1, 2: 0.2}
    table = json.loads(_artifact(client, first, "layers.json", tmp_path))
    assert [row[table["columns"].index("layer")] for row in table["data"]] == [each.layer for each in _layers(3)]
    assert table["data"][1][table["columns"].index("fallback")] == "damping × 10"
    # What makes MLflow's page show the file as a table.
    assert json.loads(child.data.tags["mlflow.loggedArtifacts"]) == [{"path": "layers.json", "type": "table"}]


def test_stages_are_separate_children(tracking: Tracking) -> None:
    run_id = tracking.open_run("flow-1", "balanced", {}, {})
    other = tracking.open_run("flow-2", "balanced", {}, {})
    children = [tracking.log_stage(run, stage, {}, {}) for run in (run_id, other) for stage in ("prune", "quantize")]
    assert len(set(children)) == 4


def test_the_scorecard_is_metrics_files_and_the_runs_description(
    tracking: Tracking, client: MlflowClient, tmp_path: Path
) -> None:
    run_id = tracking.open_run("flow-1", "balanced", {}, {})
    assert "mlflow.note.content" not in client.get_run(run_id).data.tags
    tracking.log_scorecard(run_id, SCORECARD)
    run = client.get_run(run_id)
    assert run.data.metrics["candidate_perplexity"] == 11.0
    assert run.data.metrics["baseline_perplexity"] == 10.0
    assert run.data.metrics["bytes_ratio"] == pytest.approx(0.3)
    assert run.data.metrics["gate_passed"] == 1
    assert run.data.tags["mlflow.note.content"].startswith("**Gate passed**")
    assert Scorecard.model_validate_json(_artifact(client, run_id, "scorecard.json", tmp_path)) == SCORECARD
    page = _artifact(client, run_id, "scorecard.html", tmp_path)
    assert "&lt;script&gt;" in page
    assert "<script>" not in page


def test_the_runs_description_leads_back_to_prefect(tracking: Tracking, client: MlflowClient) -> None:
    run_id = tracking.open_run("flow-1", "balanced", {}, {"slimline.prefect_run_url": "http://prefect/run"})
    assert client.get_run(run_id).data.tags["mlflow.note.content"] == "[Prefect run](http://prefect/run)"
    tracking.log_scorecard(run_id, SCORECARD)
    first = client.get_run(run_id).data.tags["mlflow.note.content"].splitlines()[0]
    assert first.startswith("**Gate passed**") and first.endswith(" · [Prefect run](http://prefect/run)")


def test_a_failed_gate_says_what_to_try() -> None:
    failed = SCORECARD.model_copy(update={"checks": (CHECK.model_copy(update={"passed": False, "observed": 2.0}),)})
    assert "**Gate failed**" in markdown(failed)
    assert "| perplexity ratio | 2 | – | at most 1.25 | failed |" in markdown(failed)
    assert "\n- perplexity ratio, failed: use more bits\n" in markdown(failed), "below the table: a cell does not wrap"


def test_a_version_carries_its_folder_its_lineage_and_the_challenger_alias(
    tracking: Tracking, registry: Registry, client: MlflowClient, folder: Path, tmp_path: Path
) -> None:
    run_id = tracking.open_run("flow-1", "balanced", {}, {})
    made = registry.register(run_id, "lineage", folder, MODEL, SCORECARD, {"slimline.recipe": "{}"})
    assert (made.version, made.alias, made.run_id) == ("1", "challenger", run_id)
    assert made.url.endswith("/#/models/lineage/versions/1")
    version = client.get_model_version("lineage", "1")
    assert version.run_id == run_id
    assert version.status == "READY"
    tags = registry.version_tags("lineage", "1")
    assert tags["slimline.digest"] == MODEL.digest
    assert tags["slimline.baseline_digest"] == ORIGINAL.digest
    assert tags["slimline.dataset_digest"] == DATA.digest
    assert tags["slimline.recipe"] == "{}"
    assert registry.version_by_alias("lineage", "challenger") == "1"
    # The version's source is the uploaded folder, which the run's page shows as its output.
    model_id = version.source.removeprefix("models:/")
    assert [output.model_id for output in client.get_run(run_id).outputs.model_outputs] == [model_id]
    assert client.get_logged_model(model_id).source_run_id == run_id
    uploaded = {entry.path: entry.file_size for entry in client.list_logged_model_artifacts(model_id)}
    assert uploaded["model.safetensors"] == (folder / "model.safetensors").stat().st_size
    assert "sub" in uploaded


def test_a_version_carries_the_exported_folder_beside_the_compressed_one(
    tracking: Tracking, registry: Registry, client: MlflowClient, folder: Path, tmp_path: Path
) -> None:
    exported = MODEL.model_copy(update={"digest": "e" * 64, "runtime": "onnx", "bytes": 200})
    packed = Quality(perplexity=10.9, agreement=0.91, kl=0.09, bytes=300, tokens=126)
    both = SCORECARD.model_copy(update={"exported_model": exported, "packed": packed})
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported" / "model.onnx").write_bytes(b"graph")
    run_id = tracking.open_run("flow-1", "balanced", {}, {})
    alone = registry.register(run_id, "both", folder, MODEL, SCORECARD, {})
    assert registry.find("both", MODEL, both) is None, "a version without the export is another one"
    run_id = tracking.open_run("flow-2", "balanced", {}, {})
    made = registry.register(run_id, "both", folder, MODEL, both, {}, exported=tmp_path / "exported")
    assert (made.version, made.model, made.exported) == ("2", MODEL, exported)
    assert registry.find("both", MODEL, both) == made
    assert registry.find("both", MODEL, SCORECARD) == alone
    tags = registry.version_tags("both", "2")
    assert (tags["slimline.digest"], tags["slimline.exported_digest"]) == (MODEL.digest, exported.digest)
    assert (tags["slimline.decode_speedup"], tags["slimline.served_with"]) == ("1.33", "onnx")
    assert tags["slimline.compressed_perplexity"] == "10.9000"
    model_id = client.get_model_version("both", "2").source.removeprefix("models:/")
    below = {entry.path: entry.file_size for entry in client.list_logged_model_artifacts(model_id, "onnx")}
    assert below == {"onnx/model.onnx": 5}
    assert "model.safetensors" in {entry.path for entry in client.list_logged_model_artifacts(model_id)}
    tracking.log_scorecard(run_id, both)
    metrics = client.get_run(run_id).data.metrics
    assert metrics["decode_speedup"] == pytest.approx(4 / 3) and metrics["packed_perplexity"] == 10.9


def test_the_champion_comes_with_its_results_item_by_item(
    mlflow_url: str,
    tracking: Tracking,
    registry: Registry,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are brought back from MLflow to the digest that its scorecard names, or count as absent."""
    monkeypatch.setenv("SLIMLINE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SLIMLINE_MLFLOW_URL", mlflow_url)
    assert read_champion(mlflow_url, "evidence") is None
    store = Store(settings().store)
    with store.draft("evaluations") as draft:
        (draft.path / "items.jsonl").write_text("{}\n")
        (draft.path / "token_kl.safetensors").write_bytes(bytes(9))
    where = ItemsRef(uri=draft.stored.uri, digest=draft.stored.digest, items=1, positions=9)
    card = SCORECARD.model_copy(update={"evidence": Evidence(items=where)})
    run_id = tracking.open_run("flow-1", "balanced", {}, {})
    tracking.log_scorecard(run_id, card)
    tracking.log_items(run_id, store.open(where.uri, where.digest), EVIDENCE)
    registry.promote("evidence", registry.register(run_id, "evidence", folder, MODEL, card, {}).version)
    found = find_champion.fn("evidence")
    assert found is not None and (found.label, found.run_id, found.scorecard) == ("evidence 1", run_id, card)

    gate = Gate(baseline="both")
    shutil.rmtree(store.root / where.uri)
    monkeypatch.setattr("tasks.measure.find_champion", find_champion.fn)
    champion = measure_champion(gate, "evidence", ORIGINAL, DATA, EvaluationChoice())
    assert champion is not None and champion.champion == "evidence 1"
    assert champion.champion_original == ORIGINAL.digest
    assert store.holds(where.uri, where.digest)
    assert measure_champion(Gate(), "evidence", ORIGINAL, DATA, EvaluationChoice()) is None, "nobody asked"
    assert measure_champion(gate, "nothing", ORIGINAL, DATA, EvaluationChoice()) is None, "there is none yet"
    other = DATA.model_copy(update={"digest": "f" * 64})
    with pytest.raises(RefusedModel, match="evidence 1, cannot be compared with"):
        measure_champion(gate, "evidence", ORIGINAL, other, EvaluationChoice())


def test_the_same_digest_of_the_same_run_is_one_version(tracking: Tracking, registry: Registry, folder: Path) -> None:
    run_id = tracking.open_run("flow-1", "balanced", {}, {})
    first = registry.register(run_id, "once", folder, MODEL, SCORECARD, {})
    assert registry.register(run_id, "once", folder, MODEL, SCORECARD, {}) == first
    other = MODEL.model_copy(update={"digest": "d" * 64})
    assert registry.register(run_id, "once", folder, other, SCORECARD, {}).version == "2"


def test_an_upload_that_was_cut_off_is_finished_not_doubled(
    tracking: Tracking, registry: Registry, client: MlflowClient, folder: Path
) -> None:
    run_id = tracking.open_run("flow-1", "balanced", {}, {})
    (folder / "zz-unreadable").symlink_to(folder / "absent")
    with pytest.raises((MlflowException, OSError)):
        registry.register(run_id, "cut", folder, MODEL, SCORECARD, {})
    assert registry.version_by_alias("cut", "challenger") is None
    (folder / "zz-unreadable").unlink()
    made = registry.register(run_id, "cut", folder, MODEL, SCORECARD, {})
    assert made.version == "1"
    models = client.search_logged_models([client.get_run(run_id).info.experiment_id])
    assert [model.status for model in models] == ["READY"]


def test_a_folder_that_is_gone_is_not_registered(tracking: Tracking, registry: Registry, tmp_path: Path) -> None:
    run_id = tracking.open_run("flow-1", "balanced", {}, {})
    with pytest.raises(ArtifactDamaged, match="0 files"):
        registry.register(run_id, "gone", tmp_path / "gone", MODEL, SCORECARD, {})
    assert registry.version_by_alias("gone", "challenger") is None


def test_aliases_follow_promotion_and_demotion(tracking: Tracking, registry: Registry, folder: Path) -> None:
    assert registry.champion("aliases") is None
    versions = []
    for key in ("flow-1", "flow-2", "flow-3"):
        run_id = tracking.open_run(key, "balanced", {}, {})
        versions.append(registry.register(run_id, "aliases", folder, MODEL, SCORECARD, {}).version)
        if key == "flow-3":
            break
        for _ in range(2):  # a repeated call changes nothing
            registry.promote("aliases", versions[-1])
        assert registry.champion("aliases") == versions[-1]
        assert registry.version_by_alias("aliases", "challenger") is None
    assert registry.version_by_alias("aliases", "previous") == "1"
    for _ in range(2):
        registry.demote("aliases", "3", "5xx share 0.5, limit 0.02")
    assert (registry.champion("aliases"), registry.version_by_alias("aliases", "previous")) == ("2", "1")
    assert registry.version_by_alias("aliases", "challenger") is None
    assert registry.version_tags("aliases", "3")["slimline.restored"] == "5xx share 0.5, limit 0.02"


def test_what_is_taken_back_loses_its_aliases_and_the_good_one_is_champion(
    tracking: Tracking, registry: Registry, folder: Path
) -> None:
    for number in range(2):
        run = tracking.open_run(f"back-{number}", "r", {}, {})
        registry.register(run, "back", folder, MODEL, SCORECARD, {})
        registry.promote("back", str(number + 1))
    for _ in range(2):  # a killed restore is repeated
        registry.take_back("back", "2", "1", "restored: it was slow")
        assert registry.champion("back") == "1"
        assert registry.version_by_alias("back", "previous") is None
    assert registry.version_tags("back", "2")["slimline.restored"] == "restored: it was slow"
    registry.take_back("back", "1", None, "restored: the original serves")
    assert registry.champion("back") is None
    assert registry.has_version("back", "2") and not registry.has_version("back", "3")
    assert not registry.has_version("back", "original")


def test_the_history_says_what_served_on_any_day(
    tracking: Tracking, mlflow_url: str, folder: Path, client: MlflowClient
) -> None:
    """Two models on one endpoint, a restore, a return to the original, and every write repeated by a killed run."""
    days = iter(range(1000))
    now = [datetime(2026, 11, 1, tzinfo=UTC)]
    books = Registry(mlflow_url, run="release-run", clock=lambda: now[0])
    for name in ("days", "days", "nights"):
        run = tracking.open_run(f"day-{next(days)}", "r", {}, {})
        books.register(run, name, folder, MODEL, SCORECARD, {})

    def day(number: int) -> datetime:
        now[0] = datetime(2026, 11, number, tzinfo=UTC)
        return now[0]

    for number, name, version, before in (
        (2, "days", "1", "original"),
        (5, "days", "2", "c-days-1"),
        (9, "nights", "1", "c-days-2"),
    ):
        day(number)
        for _ in range(2):
            books.promote(name, version)
            books.begin_serving(name, version, "e", f"c-{name}-{version}", "AllTraffic", before)
    day(12)
    for _ in range(2):
        books.take_back("nights", "1", None, "restored: slow")
        books.begin_serving("days", "2", "e", "c-days-2", "AllTraffic", "c-nights-1", "slow")
    day(20)
    for _ in range(2):
        books.end_serving("days", "2", "e", "original", "both were bad")
        books.end_serving("nights", "1", "e", "original", "it has not served for long")
    moves = moves_on_endpoint(client, "e")
    served = {at: span_at(moves, datetime(2026, 11, at, 12, tzinfo=UTC)) for at in (1, 3, 6, 10, 15, 21)}
    assert served.pop(1) is None
    assert {at: (span.config, span.version, span.name) for at, span in served.items() if span} == {
        3: ("c-days-1", "1", "days"), 6: ("c-days-2", "2", "days"), 10: ("c-nights-1", "1", "nights"),
        15: ("c-days-2", "2", "days"), 21: ("original", "", ""),
    }  # fmt: skip
    assert len(moves) == 4 + 3 + 1, (
        "four begun, three ended by those that followed, one ended for good; none written twice"
    )
    champions = [
        alias_at(moves_of_model(client, "days"), "champion", datetime(2026, 11, at, tzinfo=UTC)) for at in (1, 3, 7)
    ]
    assert champions == [None, "1", "2"]
    tags = books.version_tags("days", "2")
    assert tags["slimline.serving_until"].startswith("2026-11-20") and tags["slimline.endpoint_config"] == "c-days-2"
    assert books.version_tags("days", "1")["slimline.serving_until"].startswith("2026-11-05")
    assert span_at(moves, datetime(2026, 11, 15, tzinfo=UTC)).run == "release-run"  # type: ignore[union-attr]


def test_a_champion_that_is_registered_again_stays_champion(
    tracking: Tracking, registry: Registry, folder: Path
) -> None:
    run_id = tracking.open_run("flow-1", "balanced", {}, {})
    registry.register(run_id, "again", folder, MODEL, SCORECARD, {})
    registry.promote("again", "1")
    assert registry.register(run_id, "again", folder, MODEL, SCORECARD, {}).alias == "champion"
    assert registry.version_by_alias("again", "challenger") is None


def test_a_server_that_is_not_there_is_an_error_not_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert not reachable("http://127.0.0.1:9", seconds=1)
    with pytest.raises(MlflowException, match=r"Connection refused|Max retries"):
        Tracking("http://127.0.0.1:9", "nowhere").open_run("flow-1", "balanced", {}, {})
    with pytest.raises(MlflowException, match=r"Connection refused|Max retries"):
        Registry("http://127.0.0.1:9").champion("nothing")


def test_what_a_registered_version_costs_is_answered_from_its_scorecard(
    registry: Registry, tracking: Tracking, folder: Path, mlflow_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIMLINE_MLFLOW_URL", mlflow_url)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    run_id = tracking.open_run("cost", "run", {}, {})
    tracking.log_scorecard(run_id, SCORECARD.model_copy(update={"compression_seconds": 7200.0, "machine": "a laptop"}))
    made = registry.register(run_id, "costed", folder, MODEL, SCORECARD, {})

    def said(*arguments: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, ["cost", "costed", made.version, "--aws", *arguments])
        assert done.exit_code == code, done.output
        return done.output

    text = said("-t", "ml.m5.xlarge")
    assert "$0.26" in text and "$0.19" in text and "decode rate of a laptop" in text and "SHADOW" in text
    [facts] = json.loads(said("-t", "ml.m5.xlarge", "--load", "1e9", "--json"))["by_instance_type"]
    # 250 and 333 tokens a second, 60 % of 730 hours: 394 and 526 million a month of one instance.
    assert facts["instances"] == {"original": 3, "compressed": 2}
    assert facts["usd_a_month"]["original"] == pytest.approx(3 * 0.23 * 730)
    assert facts["tokens"]["compression_usd"] == pytest.approx(0.46)
    assert [each["mode"] for each in facts["rollouts"]] == list(get_args(Mode))
    given = said("-t", "ml.g5.xlarge", "--rate", "2000", "--baseline-rate", "1000", "--concurrency", "16")
    assert "where you measured, 16 requests at a time" in given
    assert "there is no price for ml.x9.huge in us-east-1" in said("-t", "ml.x9.huge", code=1)
    assert "only one of the two rates" in said("--rate", "5", code=1)
    absent = CliRunner().invoke(app, ["cost", "costed", "99", "--aws"])
    assert absent.exit_code == 1 and "MLflow has no version 99" in absent.stderr and absent.stdout == ""
    assert f"its newest versions are {made.version}" in absent.stderr
    assert "registered are " in CliRunner().invoke(app, ["cost", "no-such-model", "--aws"]).stderr
    monkeypatch.setenv("SLIMLINE_BASE_PORT", str(int(mlflow_url.rpartition(":")[2]) - 1))  # the second of the four
    assert ("costed", "") in model_names("cost"), "what a shell completes"
