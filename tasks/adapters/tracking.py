"""Runs in MLflow: one a flow run, a child run a stage, data sets as inputs, the verdict on the run page.

Everything can be repeated: a retried flow or task finds its own runs by tag and writes over them. Only
``MlflowClient`` is used, so no state of the process changes
(https://mlflow.org/docs/latest/api_reference/python_api/mlflow.client.html). Errors of the network and the server
come out as MLflow raises them; mind that its client retries by itself for minutes
(``MLFLOW_HTTP_REQUEST_MAX_RETRIES``, 7 by default).
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Literal

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from tasks.adapters.serving_history import quoted
from tasks.contracts import DatasetRef, LayerReport, Pair, Rollout, Scorecard
from tasks.evidence_contracts import TrainingGain
from tasks.evidence_tables import evidence_tables, gate_table
from tasks.figures import HEAD, cost_notes, figures, metrics
from tasks.monitoring_contracts import Observed
from tasks.reader_contracts import QuestionsRef, ReaderScorecard
from tasks.training_text import sentences, training_metrics

KEY = "slimline.key"
STAGE = "slimline.stage"
_PARENT = "mlflow.parentRunId"
_NOTE = "mlflow.note.content"
_PREFECT = "slimline.prefect_run_url"
# MLflow's pages for model training; without it, whichever its reader looked at last, at first those for agents.
TRAINING_PAGES = "?workflowType=machine_learning"
_DIGEST_CHARS = 36  # MLflow's column for data set digests
_PARAM_CHARS = 6000
_TAG_CHARS = 8000
_LAYERS = "layers.json"
_LAYER_METRICS = ("error", "sparsity", "bits", "seconds")

Status = Literal["FINISHED", "FAILED", "KILLED"]


class Tracking:
    """The runs of one experiment. Nothing is asked of the server before the first call."""

    def __init__(self, tracking_uri: str, experiment: str) -> None:
        self._uri = tracking_uri.rstrip("/")
        self._experiment = experiment
        self._client = MlflowClient(tracking_uri=self._uri, registry_uri=self._uri)
        self._id: str | None = None

    def open_run(self, key: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """The run of ``key`` (a Prefect flow run id), created or reopened; nested ``params`` become dotted names.

        Returns the run id. Parameters of an existing run are only added to: MLflow never changes one.
        """
        run = self._find(f"tags.`{KEY}` = {quoted(key)}")
        if run is None:
            note = {_NOTE: _linked("", tags)} if _PREFECT in tags else {}
            run = self._client.create_run(self._experiment_id(), run_name=name, tags={**note, **tags, KEY: key})
        else:
            self._client.update_run(run.info.run_id, status="RUNNING", name=name)
        self._log(run, params, {}, tags)
        return str(run.info.run_id)

    def log_dataset(
        self, run_id: str, dataset: DatasetRef | QuestionsRef, context: str, split: str = "", text: str = ""
    ) -> None:
        """Record ``dataset`` as an input of the run; ``context`` says what for: calibration, training, evaluation.

        MLflow keeps 36 characters of a digest; the whole one stands in the data set's source. ``split`` is the digest
        of the part that is meant, then an input of its own; ``text`` that of what all parts were cut from.
        """
        counts = dataset.model_dump(exclude={"uri", "digest", "name", "licence"})
        name, kind = ("question", "string") if isinstance(dataset, QuestionsRef) else ("tokens", "integer")
        source = {"uri": dataset.uri, "sha256": dataset.digest, "licence": dataset.licence, "name": dataset.name}
        entity = Dataset(
            name=f"{dataset.name}/{context}" if split else dataset.name,
            digest=(split or dataset.digest)[:_DIGEST_CHARS],
            source_type="slimline-store",
            source=json.dumps(source | {"split": context, "split_sha256": split, "text_sha256": text}),
            schema=json.dumps({"mlflow_colspec": [{"name": name, "type": kind, "required": True}]}),
            profile=json.dumps(counts),
        )
        self._client.log_inputs(run_id, [DatasetInput(entity, [InputTag("mlflow.data.context", context)])])

    def log_card(self, run_id: str, card: str) -> None:
        """``data_card.md``, Markdown."""
        self._client.log_text(run_id, card, "data_card.md")

    def log_stage(
        self,
        run_id: str,
        stage: str,
        params: Mapping[str, Any],
        metrics: Mapping[str, float],
        layers: Sequence[LayerReport] = (),
        tags: Mapping[str, str] | None = None,
        *,
        losses: Sequence[float] = (),
        status: Status = "FINISHED",
    ) -> str:
        """Write the child run of ``stage`` and close it; return its id. Written again, it replaces what is there.

        Layers become the table ``layers.json`` and metrics ``layer_error``, … with the layer's number as the step;
        losses become ``loss`` by step.
        """
        run = self._find(f"tags.`{_PARENT}` = {quoted(run_id)} and tags.`{STAGE}` = {quoted(stage)}")
        if run is None:
            own = {_PARENT: run_id, STAGE: stage, **(tags or {})}
            run = self._client.create_run(self._experiment_id(), run_name=stage, tags=own)
        child = str(run.info.run_id)
        shown = {"mlflow.loggedArtifacts": json.dumps([{"path": _LAYERS, "type": "table"}])} if layers else {}
        self._log(run, params, metrics, {**(tags or {}), **shown}, series=_series(layers, losses))
        if layers:
            self._client.log_dict(child, _table([layer.model_dump() for layer in layers]), _LAYERS)
        self._client.set_terminated(child, status)
        return child

    def log_scorecard(self, run_id: str, scorecard: Scorecard) -> None:
        """Metrics of both sides, ``scorecard.json``, ``scorecard.html``, and the verdict as the run's description."""
        run = self._client.get_run(run_id)
        self._log(run, {}, metrics(scorecard), {_NOTE: _linked(markdown(scorecard), run.data.tags)})
        self._client.log_text(run_id, scorecard.model_dump_json(indent=2), "scorecard.json")
        self._client.log_text(run_id, _html(scorecard), "scorecard.html")

    def log_training(self, run_id: str, training: TrainingGain, page: str) -> None:
        """What training gained where nothing was compressed after it: its figures, and ``page`` as the description."""
        run = self._client.get_run(run_id)
        found = training_metrics(training) | {"gate_passed": 0.0}
        self._log(run, {}, found, {_NOTE: _linked(page, run.data.tags)})

    def log_items(self, run_id: str, folder: Path, where: str) -> None:
        """Results item by item, as files below ``where``; the store's own manifest stays with the store."""
        for file in sorted(folder.iterdir()):
            if file.is_file() and file.name != "manifest.json":
                self._client.log_artifact(run_id, str(file), where)

    def log_reader(self, run_id: str, scorecard: ReaderScorecard) -> None:
        """As ``log_scorecard``, of a reader: metrics, ``scorecard.json``, and the verdict as the run's description."""
        run = self._client.get_run(run_id)
        self._log(run, {}, scorecard.metrics(), {_NOTE: _linked(scorecard.markdown(), run.data.tags)})
        self._client.log_text(run_id, scorecard.model_dump_json(indent=2), "scorecard.json")

    def log_release(self, rollout: Rollout, key: str, timeline: str) -> None:
        """What became of the version on an endpoint, with the run that it comes from: the picture, and every look.

        ``key`` tells releases of one version apart: a Prefect flow run id.
        """
        folder = f"releases/{rollout.endpoint}-{rollout.phase}-{key[:8]}"
        self._client.log_text(rollout.registered.run_id, timeline, f"{folder}/timeline.svg")
        self._client.log_text(rollout.registered.run_id, rollout.model_dump_json(indent=2), f"{folder}/rollout.json")

    def log_observed(self, found: Observed, key: str, picture: str) -> None:
        """One observation, with the run that the served version comes from: picture, all that was seen, and metrics
        ``observed_…`` whose step is the minute of the service's clock. ``key`` tells observations apart.
        """
        run_id, windows = found.promise.run_id, found.windows
        folder = f"observations/{found.endpoint}-{found.state.replace(' ', '-')}-{key[:8]}"
        self._client.log_text(run_id, picture, f"{folder}/timeline.svg")
        self._client.log_text(run_id, found.model_dump_json(indent=2), f"{folder}/observed.json")
        minute, current = int(windows.until // 60), windows.current
        latency = next((each.candidate for each in found.findings if each.metric == "latency"), None)
        values = {"requests": float(current.requests), "degraded": float(found.state == "degraded")}
        values |= {"error_share": current.errors / current.requests} if current.requests else {}
        values |= {} if latency is None else {"latency_ms": latency}
        series = [(f"observed_{name}", value, minute) for name, value in values.items()]
        self._log(self._client.get_run(run_id), {}, {}, {}, series=series)

    def log_pairs(self, run_id: str, release: str, pairs: Iterable[Pair]) -> None:
        """``shadow/<release>.jsonl``: one pair of answers a line, with its figures. Pairs go to a file one by one."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"{release}.jsonl"
            with file.open("w", encoding="utf-8") as lines:
                lines.writelines(pair.model_dump_json() + "\n" for pair in pairs)
            self._client.log_artifact(run_id, str(file), "shadow")

    def log_shadow(self, run_id: str, means: Mapping[str, float]) -> None:
        """The means over all pairs, as metrics ``shadow_…``."""
        self._log(self._client.get_run(run_id), {}, {f"shadow_{name}": value for name, value in means.items()}, {})

    def log_files(self, run_id: str, files: Mapping[str, str]) -> None:
        """Text files of the run, by path; written again, they are replaced."""
        for path, text in files.items():
            self._client.log_text(run_id, text, path)

    def read_file(self, run_id: str, path: str) -> str | None:
        """A text file of the run, or none where it has no such file."""
        if not self.has_file(run_id, path):
            return None
        with tempfile.TemporaryDirectory() as local:
            return Path(self._client.download_artifacts(run_id, path, local)).read_text(encoding="utf-8")

    def has_file(self, run_id: str, path: str) -> bool:
        """Whether the run has this file."""
        folder = path.rpartition("/")[0]
        return path in {entry.path for entry in self._client.list_artifacts(run_id, folder or None)}

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of the run, each cut at MLflow's limit."""
        self._client.log_batch(run_id, tags=[RunTag(name, value[:_TAG_CHARS]) for name, value in tags.items()])

    def search(self, condition: str) -> list[Run]:
        """Every run of the experiment that meets ``condition``, newest first."""
        found: list[Run] = []
        token = None
        while True:
            page = self._client.search_runs([self._experiment_id()], condition, page_token=token)
            found += page
            token = page.token
            if not token:
                return found

    def file_url(self, run_id: str, path: str) -> str:
        """The page that shows a file of the run."""
        return f"{self._page(run_id)}/artifacts/{path}{TRAINING_PAGES}"

    def close_run(self, run_id: str, status: Status) -> None:
        self._client.set_terminated(run_id, status)

    def run_url(self, run_id: str) -> str:
        """The run's page."""
        return f"{self._page(run_id)}{TRAINING_PAGES}"

    def _page(self, run_id: str) -> str:
        return f"{self._uri}/#/experiments/{self._experiment_id()}/runs/{run_id}"

    def _experiment_id(self) -> str:
        if self._id is None:
            found = self._client.get_experiment_by_name(self._experiment)
            if found is None:
                try:
                    # What MLflow's own list of experiments opens it with: see TRAINING_PAGES.
                    kind = {"mlflow.experimentKind": "custom_model_development"}
                    self._client.create_experiment(self._experiment, tags=kind)
                except MlflowException as error:
                    # Another process was faster.
                    if error.error_code != "RESOURCE_ALREADY_EXISTS":
                        raise
                found = self._client.get_experiment_by_name(self._experiment)
            self._id = str(found.experiment_id) if found else ""
        return self._id

    def _find(self, condition: str) -> Run | None:
        runs = self._client.search_runs([self._experiment_id()], condition, max_results=1)
        return runs[0] if runs else None

    def _log(
        self,
        run: Run,
        params: Mapping[str, Any],
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        series: Sequence[tuple[str, float, int]] = (),
    ) -> None:
        now = int(time.time() * 1000)
        points = [*((name, float(value), 0) for name, value in metrics.items()), *series]
        known = run.data.params
        self._client.log_batch(
            run.info.run_id,
            metrics=[Metric(name, value, now, step) for name, value, step in points],
            params=[Param(name, value) for name, value in _flat(params) if name not in known],
            tags=[RunTag(name, value) for name, value in tags.items()],
        )


def _table(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The format of MLflow's ``log_table``, which would append on a retry; a tag makes the page show it as a table."""
    columns = list(rows[0])
    return {"columns": columns, "data": [[row[key] for key in columns] for row in rows]}


def _linked(text: str, tags: Mapping[str, str]) -> str:
    """A run's description, the way back to Prefect in its first line: MLflow folds the rest, and tags are no links."""
    link = f"[Prefect run]({tags[_PREFECT]})" if tags.get(_PREFECT) else ""
    first, line_end, rest = text.partition("\n")
    return " · ".join(part for part in (first, link) if part) + line_end + rest


def markdown(scorecard: Scorecard) -> str:
    """The verdict as a short Markdown text with one table."""
    tokens = f"{scorecard.candidate.tokens:,} held-out tokens"
    lines = [f"**Gate {scorecard.verdict}**: {scorecard.served_model.name}, compared on {tokens}", ""]
    lines += ["| " + " | ".join(HEAD) + " |", "|---|---|---|---|"]
    lines += ["| " + " | ".join(figure.cells) + " |" for figure in figures(scorecard)]
    lines += sentences(scorecard)
    for each in (gate_table(scorecard.checks), *evidence_tables(scorecard)):
        lines += ["", *each.markdown()]
    lines += ["", *cost_notes(scorecard.costs)] if scorecard.costs else []
    return "\n".join(lines) + "\n"


def _html(scorecard: Scorecard) -> str:
    def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
        cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
        return f"<table><tr>{cells}</tr>{body}</table>"

    sample = f"<h2>A sample</h2><p>{escape(scorecard.sample)}</p>" if scorecard.sample else ""
    style = (
        "body{font:15px sans-serif}table{border-collapse:collapse;margin:1em 0}td,th{border:1px solid #bbb;padding:4px}"
    )
    return (
        f"<!doctype html><meta charset=utf-8><title>Scorecard</title><style>{style}</style>"
        f"<h1>Gate {scorecard.verdict}</h1>"
        + table(HEAD, [figure.cells for figure in figures(scorecard)])
        + "".join(
            f"<h2>{escape(each.title)}</h2>"
            + table(each.head, each.rows)
            + "".join(f"<p>{escape(note)}</p>" for note in each.notes)
            for each in (gate_table(scorecard.checks), *evidence_tables(scorecard))
        )
        + sample
    )


def _series(layers: Sequence[LayerReport], losses: Sequence[float]) -> list[tuple[str, float, int]]:
    points = [
        (f"layer_{name}", float(getattr(layer, name)), step)
        for step, layer in enumerate(layers)
        for name in _LAYER_METRICS
        if getattr(layer, name) is not None
    ]
    return points + [("loss", float(loss), step) for step, loss in enumerate(losses)]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            yield f"{prefix}{name}", text[:_PARAM_CHARS]
