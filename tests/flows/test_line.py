"""The whole line through real servers: Prefect, MLflow, the endpoint service with real model servers, and a worker.

The tests of this file share one stack and run in order: a first release, the same again from the cache, then what must
fail.
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
from typing import Any

import httpx
import pytest

from deployments.local.stack import ROOT
from tests.flows.conftest import Finished, Line, values
from tests.flows.flaky import FlakyProxy

ENDPOINT, MODEL = "slimline-tiny", "slimline-tiny"
FLAKY_RUN = """
from flows.compress import compress
from tasks.recipes import DataChoice, Gate, ModelChoice, QuantizeRecipe, Recipe
blocks = {name: 16 for name in ("calibration_blocks", "training_blocks", "evaluation_blocks")}
data = DataChoice(source="python-docs", block_tokens=64, **blocks)
recipe = Recipe(name="flaky", order=("quantize",), quantize=QuantizeRecipe(format="gptq", symmetric=False))
compress(ModelChoice(source="tiny"), data, recipe, Gate(max_bytes_ratio=0.5), "flaky")
"""
STAGES = ("fetch", "prune", "quantize", "distill", "export", "evaluate")


def test_a_deployment_runs_from_fetch_to_promoted(line: Line, released: Finished) -> None:
    assert released.code == 0, released.text
    for stage in (*STAGES, "register", "package", "shift", "watch"):
        assert released.line(stage)
    assert "perplexity ratio" in released.text and "passed" in released.text
    run = line.prefect("flow_runs/filter", flow_runs={"id": {"any_": [released.flow_run_id]}})[0]
    assert run["state"]["type"] == "COMPLETED" and run["deployment_id"], "it ran as a deployment"


def test_plain_boto3_sees_the_promoted_version_and_gets_an_answer(line: Line, released: Finished) -> None:
    sagemaker = line.client("sagemaker")
    endpoint = sagemaker.describe_endpoint(EndpointName=ENDPOINT)
    assert endpoint["EndpointStatus"] == "InService"
    assert f"v{line.alias(MODEL, 'champion')}-" in endpoint["EndpointConfigName"]
    routing = endpoint["LastDeploymentConfig"]["BlueGreenUpdatePolicy"]["TrafficRoutingConfiguration"]
    assert routing["Type"] == "CANARY" and routing["CanarySize"]["Value"] == 50
    reply = line.client("sagemaker-runtime").invoke_endpoint(
        EndpointName=ENDPOINT, ContentType="application/json", Body=json.dumps({"inputs": "The import statement"})
    )
    assert json.loads(reply["Body"].read())[0]["generated_text"]


def test_the_run_page_has_progress_tables_a_verdict_and_links(line: Line, released: Finished) -> None:
    artifacts = line.artifacts(released.flow_run_id)
    for stage in ("prune", "quantize", "distill", "export", "evaluate"):
        assert artifacts[f"{stage}-progress"]["data"] == 100.0
    assert len(values(artifacts["quantize-layers"])) == 2 * 7, "two blocks of seven linear layers"
    assert "Gate: PASSED" in artifacts["verdict"]["data"]
    on_top = {
        "verdict",
        "report",
        "lineage",
        "release",
        "rollout-timeline",
    }  # the run's own: its page lists those first
    assert {key for key in on_top if artifacts[key]["task_run_id"] is None} == on_top
    assert artifacts["prune-layers"]["task_run_id"] is not None
    assert artifacts["mlflow-run"]["data"].startswith(f"[MLflow run]({line.stack.mlflow_url}")
    assert {"registered-version", "endpoint"} <= artifacts.keys()
    card = artifacts["data-card"]["data"]
    assert (
        card.startswith("# Data: python-docs") and "Licence: PSF-2.0" in card and "| evaluation | 16 | 1,024 |" in card
    )
    run_id = line.mlflow_version(MODEL, line.alias(MODEL, "champion") or "")["run_id"]
    assert "data_card.md" in {file["path"] for file in line.mlflow_get("artifacts/list", run_id=run_id)["files"]}
    steps = values(artifacts["rollout-steps"])
    assert any(row["old : new"] == "50% : 50%" for row in steps), steps
    assert steps[-1]["old : new"] == "0% : 100%"


def test_the_rollout_is_a_picture_on_the_run_page_and_in_mlflow(line: Line, released: Finished) -> None:
    artifact = line.artifacts(released.flow_run_id)["rollout-timeline"]
    image = re.search(r"\(data:image/svg\+xml;base64,([^)]+)\)", artifact["data"])
    assert image, artifact["data"][:200]
    drawn = base64.b64decode(image[1]).decode()
    assert "PROMOTED" in drawn and "60 times as fast" in drawn and "Share of traffic" in drawn
    run_id = line.mlflow_version(MODEL, line.alias(MODEL, "champion") or "")["run_id"]
    folders = [file["path"] for file in line.mlflow_get("artifacts/list", run_id=run_id, path="releases")["files"]]
    (folder,) = [path for path in folders if path.startswith(f"releases/{ENDPOINT}-promoted-")]
    files = line.mlflow_get("artifacts/list", run_id=run_id, path=folder)["files"]
    assert {file["path"].rpartition("/")[2] for file in files} == {"timeline.svg", "rollout.json"}


def test_status_tells_programs_what_serves_here_and_as_on_aws(line: Line, released: Finished) -> None:
    seen = json.loads(line.slimline("status", ENDPOINT, "--aws", "--json", env=line.stack.environment()).text)
    assert seen["parts"] == [] and "60 times as fast" in seen["rehearsal"]
    (endpoint,) = seen["endpoints"]
    (fleet,) = endpoint["variants"]
    assert (endpoint["status"], endpoint["open_move"], endpoint["alarms"]) == ("InService", "", {})
    assert (fleet["model"], fleet["version"]) == (MODEL, line.alias(MODEL, "champion"))
    assert (fleet["share"], fleet["instances"], fleet["role"]) == (1.0, 2, "serving")
    assert fleet["config"] == line.serving(ENDPOINT) and "voriginal" in endpoint["previous_config"]
    assert [row["old : new"] for row in seen["last_rollout"]][-1] == "0% : 100%"


def test_status_is_live_in_the_terminal(line: Line, released: Finished) -> None:
    command = [sys.executable, "-m", "deployments.cli", "status", ENDPOINT, "--watch"]
    env = os.environ | line.home | {"COLUMNS": "160"}
    watching = subprocess.Popen(
        command, env=env, cwd=ROOT, stdout=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a suite in the background ignores Ctrl-C
    )  # fmt: skip
    assert watching.stdout is not None
    frames = 0
    for text in watching.stdout:
        frames += f"endpoint {ENDPOINT}" in text
        if frames == 2:
            break
    watching.send_signal(signal.SIGINT)
    rest = watching.stdout.read()  # not communicate: what was read ahead would be lost
    assert watching.wait(timeout=60) == 0
    for said in ("100%", f"{MODEL} {line.alias(MODEL, 'champion')}", "Last rollout", "60 times as fast"):
        assert said in rest


def test_mlflow_has_the_lineage(line: Line, released: Finished) -> None:
    version = line.mlflow_version(MODEL, line.alias(MODEL, "champion") or "")
    run = line.mlflow_run(version["run_id"])
    assert run["info"]["status"] == "FINISHED"
    contexts = {entry["tags"][0]["value"] for entry in run["inputs"]["dataset_inputs"]}
    assert contexts == {"calibration", "training", "evaluation"}
    tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
    assert any(run_id in tags["slimline.prefect_run_url"] for run_id in line.family(released.flow_run_id))
    experiment = run["info"]["experiment_id"]
    children = line.mlflow(
        "runs/search",
        experiment_ids=[experiment],
        filter=f"tags.`mlflow.parentRunId` = '{version['run_id']}'",
    )["runs"]
    assert {child["info"]["run_name"] for child in children} == {"prune", "quantize", "distill", "export"}
    metrics = {metric["key"]: metric["value"] for metric in run["data"]["metrics"]}
    assert metrics["gate_passed"] == 1.0 and 0 < metrics["candidate_agreement"] <= 1
    assert metrics["decode_speedup"] > 0 and metrics["packed_bytes"] != metrics["candidate_bytes"]


def test_costs_are_on_the_run_page_in_mlflow_and_in_the_terminal(line: Line, released: Finished) -> None:
    artifacts = line.artifacts(released.flow_run_id)
    planned = artifacts["rollout-cost"]["data"]
    assert "the new fleet of 2 beside the old one, 2 bakes of 120 s" in planned
    assert "ml.m5.xlarge in us-east-1: $0.23 an hour" in planned
    assert "instance-hours seen beside the old fleet" in artifacts["release"]["data"]
    assert "$ per million tokens, ml.m5.xlarge" in artifacts["verdict"]["data"]
    assert "Dollars are at the decode rate of" in released.text and "this rollout added $" in released.text
    version = line.mlflow_version("slimline-tiny", line.alias("slimline-tiny", "champion") or "")
    metrics = {each["key"]: each["value"] for each in line.mlflow_run(version["run_id"])["data"]["metrics"]}
    assert metrics["candidate_usd_per_million_tokens.ml.m5.xlarge"] == pytest.approx(
        0.23 / 3.6 * metrics["candidate_per_token_ms"], rel=1e-3
    )
    assert metrics["compression_usd.ml.m5.xlarge"] > 0
    live = line.slimline(
        "cost", "slimline-tiny", "champion", "-t", "ml.m5.xlarge", "--json", "--concurrency", "2",
        "--endpoint", "slimline-tiny", "--baseline-endpoint", "slimline-tiny",
    )  # fmt: skip
    assert live.code == 0, live.text
    [facts] = json.loads(live.text[live.text.index("{") :])["by_instance_type"]
    assert "live endpoint slimline-tiny on the embedded stack" in facts["tokens"]["machine"]
    assert facts["tokens"]["candidate_rate"] > 0 and facts["tokens"]["concurrency"] == 2


def test_what_is_served_is_the_exported_folder_that_was_scored(line: Line, released: Finished) -> None:
    """Endpoint → version → exported digest → compressed digest, each of them a folder that is there."""
    version = line.alias(MODEL, "champion") or ""
    tags = {tag["key"]: tag["value"] for tag in line.mlflow_version(MODEL, version)["tags"]}
    exported, compressed = tags["slimline.exported_digest"], tags["slimline.digest"]
    assert tags["slimline.served_with"] == "onnx" and exported != compressed
    sagemaker = line.client("sagemaker")
    model = sagemaker.describe_model(ModelName=line.serving(ENDPOINT))
    source = model["PrimaryContainer"]["ModelDataSource"]["S3DataSource"]["S3Uri"]
    told = {tag["Key"]: tag["Value"] for tag in sagemaker.list_tags(ResourceArn=model["ModelArn"])["Tags"]}
    assert (told["slimline:digest"], told["slimline:compressed-digest"]) == (exported, compressed)
    bucket, _, prefix = source.removeprefix("s3://").partition("/")
    served = line.client("s3").list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]
    assert f"{prefix}model.onnx" in {item["Key"] for item in served}
    manifest = json.loads((line.stack.home / "store" / "models" / exported / "manifest.json").read_text())
    assert manifest["made_from"]["model"] == compressed
    assert (line.stack.home / "store" / "models" / compressed / "model.safetensors.index.json").exists()
    verdict = line.artifacts(released.flow_run_id)["verdict"]["data"]
    assert "| served with | torch | ONNX Runtime |" in verdict and "decoded tokens a second" in verdict


def test_lineage_leads_from_the_live_variant_to_the_calibration_digest_and_back(line: Line, released: Finished) -> None:
    version = f"{MODEL}/{line.alias(MODEL, 'champion')}"
    (endpoint,) = json.loads(line.slimline("lineage", ENDPOINT, "--json").text)
    live = endpoint["children"][0]
    assert live["title"].startswith(line.serving(ENDPOINT)) and live["facts"]["traffic"] == "100%"
    (found,) = live["children"]
    assert found["title"] == version
    served, made = found["children"][0], next(node for node in found["children"] if node["kind"] == "run")
    assert served["facts"]["config"] == line.serving(ENDPOINT) and served["facts"]["until"] == "now"
    assert made["facts"]["torch"] and made["facts"]["packages"] and made["facts"]["source"]
    stages = [node for node in made["children"] if node["kind"] == "stage"]
    assert [node["title"] for node in stages] == ["prune", "quantize", "distill", "export"]
    assert {node["facts"]["result"] for node in stages} == {"computed"}
    parts = {node["title"].partition(":")[0]: node["facts"] for node in made["children"] if node["kind"] == "data"}
    assert parts.keys() == {"calibration", "training", "evaluation"}
    assert len({facts["digest"] for facts in parts.values()}) == 3
    # And forward: from each digest to the version and the endpoint that serves it.
    for digest in (parts["calibration"]["digest"], parts["training"]["text"][:8], stages[0]["facts"]["digest"]):
        (reached,) = json.loads(line.slimline("lineage", digest, "--json").text)
        (node,) = [each for each in reached["children"] if each["title"] == version]
        assert node["children"][0]["title"] == f"serves on {ENDPOINT}"
    now = line.slimline("lineage", ENDPOINT, "--at", "2100-01-01").text
    assert version in now and "aliases then champion" in " ".join(now.split())
    before = line.slimline("lineage", ENDPOINT, "--at", "2000-01-01")
    assert before.code == 1 and "voriginal" in before.text, "what the first move replaced is said, not claimed"


def test_the_report_is_one_file_in_mlflow_with_the_rollout_and_linked_from_prefect(
    line: Line, released: Finished
) -> None:
    artifacts = line.artifacts(released.flow_run_id)
    run_id = line.mlflow_version(MODEL, line.alias(MODEL, "champion") or "")["run_id"]
    assert f"runs/{run_id}/artifacts/report/report.html" in artifacts["report"]["data"]
    assert (
        "data:image/svg+xml;base64," in artifacts["lineage"]["data"] and "calibration" in artifacts["lineage"]["data"]
    )
    reply = httpx.get(
        f"{line.stack.mlflow_url}/get-artifact", params={"path": "report/report.html", "run_uuid": run_id}
    )
    page = reply.text
    assert "gate passed" in page and f"endpoint {ENDPOINT} serves it with all its traffic" in page
    assert 'src="http' not in page and "data:image/svg+xml;base64," in page
    tags = line.prefect("flow_runs/filter", flow_runs={"id": {"any_": line.family(released.flow_run_id)}})
    assert any(f"version:{MODEL}/1" in run["tags"] for run in tags), "Prefect's runs page finds it by version"


def test_a_second_run_computes_nothing_and_moves_nothing(line: Line, released: Finished) -> None:
    before = line.serving(ENDPOINT)
    again = line.slimline("run", "tiny")
    assert again.code == 0, again.text
    for stage in STAGES:
        assert again.line(stage).endswith("cached"), again.text
    assert line.serving(ENDPOINT) == before
    runs = line.task_runs(again.flow_run_id)
    assert {runs[name]["state_name"] for name in ("describe", "check_fit")} == {"Cached"}
    maker = line.mlflow_version(MODEL, line.alias(MODEL, "champion") or "")["run_id"]
    artifacts = line.artifacts(again.flow_run_id)
    assert f"runs/{maker}/artifacts/report/report.html" in artifacts["report"]["data"], "the version has one report"
    assert "same key as the run before" in line.slimline("why", "quantize").text


def test_a_failed_gate_stops_before_registering(line: Line, released: Finished) -> None:
    versions = line.version_count(MODEL)
    stopped = line.slimline("run", "tiny", "-p", "recipe.quantize.bits=2", "-p", "recipe.name=too-small")
    assert stopped.code == 3
    for word in ("GateFailed", "observed", "limit", "remedy", "more bits"):
        assert word in stopped.text
    runs = line.task_runs(stopped.flow_run_id)
    assert runs["prune"]["state_name"] == "Cached", "the prefix of the recipe is shared"
    assert runs["quantize"]["state_name"] == "Completed"
    assert "register" not in runs and line.version_count(MODEL) == versions
    assert "Gate: FAILED" in line.artifacts(stopped.flow_run_id)["verdict"]["data"]
    changed = line.slimline("why", "quantize").text
    assert "inputs.recipe.bits: 4 → 2" in changed


def test_a_version_is_made_again_bit_for_bit_without_the_cache(line: Line, released: Finished) -> None:
    version = line.alias(MODEL, "champion") or ""
    versions = line.version_count(MODEL)
    again = line.slimline("reproduce", MODEL, "champion")
    assert again.code == 0, again.text
    for stage in STAGES:
        assert not again.line(stage).endswith("cached"), again.text
    assert "reproduced bit for bit by 1 re-run" in again.text
    assert line.version_count(MODEL) == versions
    tags = {tag["key"]: tag["value"] for tag in line.mlflow_version(MODEL, version)["tags"]}
    assert tags["slimline.reproduced"].startswith("reproduced bit for bit")
    page = line.artifacts(again.flow_run_id)["reproduction"]["data"]
    assert tags["slimline.digest"] in page and "| inside |" in page and "as they were" in page
    changed = line.slimline("why", "prune").text
    assert "apart" not in changed, "it leaves no trace in what `why` compares"
    unknown = line.slimline("reproduce", MODEL, "99", "--json")
    told = json.loads(unknown.out)
    assert (unknown.code, told["exit_code"], told["error"]["kind"]) == (1, 1, "RefusedModel")
    assert f"champion is {version}" in told["error"]["observed"], "what exists is named"


def test_a_bad_canary_is_restored_with_no_manual_step(line: Line, released: Finished) -> None:
    before, champion = line.serving(ENDPOINT), line.alias(MODEL, "champion")
    faults = ("-p", "plan.rehearsal.error_share=0.5", "-p", "recipe.quantize.bits=8", "-p", "recipe.name=faulty")
    restored = line.slimline("run", "tiny", *faults)
    assert restored.code == 3
    assert (
        "ReleaseRestored" in restored.text and "errors" in restored.text and "nothing is left to undo" in restored.text
    )
    assert line.serving(ENDPOINT) == before
    assert line.alias(MODEL, "champion") == champion and line.alias(MODEL, "challenger") is None
    assert "ALARM" in str(values(line.artifacts(restored.flow_run_id)["rollout-steps"]))


@pytest.mark.parametrize(
    ("parameters", "word"),
    [
        (["model.source=no-such-model"], "RefusedModel"),
        (["plan.instances=1"], "RefusedRequest"),  # the rest of what preflight refuses: tests/tasks/test_preflight.py
    ],
)
def test_what_cannot_work_is_refused_before_work(line: Line, parameters: list[str], word: str) -> None:
    pairs = [argument for parameter in parameters for argument in ("-p", parameter)]
    refused = line.slimline("run", "tiny", *pairs)
    assert refused.code == 1
    assert word in refused.text and "remedy" in refused.text
    assert set(line.task_runs(refused.flow_run_id)) == {"preflight"}


def test_only_the_stage_that_failed_is_tried_again(line: Line, released: Finished) -> None:
    """The registry's connection breaks once, in the middle of the run."""
    with FlakyProxy(line.stack.mlflow_url, cut="/model-versions/create", times=1) as proxy:
        env = line.stack.full_environment() | {"SLIMLINE_MLFLOW_URL": proxy.url, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
        done = subprocess.run(
            [sys.executable, "-c", FLAKY_RUN], env=env, cwd=ROOT, capture_output=True, text=True, timeout=300
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert proxy.cuts == 1
    runs: list[dict[str, Any]] = line.prefect(
        "flow_runs/filter", flow_runs={"name": {"any_": ["compress-tiny-flaky"]}}, sort="START_TIME_DESC", limit=1
    )
    counts = {name: run["run_count"] for name, run in line.task_runs(runs[0]["id"]).items()}
    assert counts.pop("register") == 2
    assert "convert" in counts, "the model was written in the GPTQ format after its last stage"
    assert set(counts.values()) == {1}, counts
    assert os.environ.get("PREFECT_API_URL") is None, "the tests' own process talks to no Prefect"
