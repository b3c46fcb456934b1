"""Tasks of lm-evaluation-harness, offline: a person's folder of YAML tasks with their JSONL files, on two models.

The harness runs in an environment of its own (``engine_kinds.LM_EVAL``). A task's YAML may name Python functions and
hub data sets: here it may not, since both would run or fetch what nobody looked at.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tasks.adapters.children import run_child, tail
from tasks.adapters.engine_kinds import progress_in
from tasks.adapters.engines import Environment
from tasks.digests import sha256
from tasks.errors import RefusedData, SlimlineError

LIMIT_S = 6 * 3600


@dataclass(frozen=True)
class TaskFolder:
    """A checked folder. ``names`` of its tasks; ``digest`` over its files."""

    folder: Path
    names: tuple[str, ...]
    digest: str


def read_task_folder(folder: Path) -> TaskFolder:
    """Check every YAML file of ``folder`` before anything runs.

    Raises:
        RefusedData: there is no task, a file is no plain YAML, or a task takes its documents from anywhere but a JSON
            file beside it.
    """
    names = []
    for path in sorted(folder.rglob("*.yaml")) if folder.is_dir() else []:
        try:
            said = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            # lm-eval's own !function tag is refused here too: it runs Python that stands beside the file.
            raise _refused(path, str(error).replace("\n", " "), "plain YAML without tags such as !function") from error
        if isinstance(said, dict) and "include" in said:
            raise _refused(path, f"include: {said['include']}", "a task that stands in one file")
        if isinstance(said, dict) and isinstance(said.get("task"), str):
            _check_task(path, said)
            names.append(said["task"])
    if not names:
        raise RefusedData(
            "there is no task of lm-evaluation-harness",
            observed=f"{folder}: {'no .yaml file with a task' if folder.is_dir() else 'not a folder'}",
            limit="a folder with at least one .yaml file that has the field task",
            remedy="give the folder's path in evaluation.tasks, or leave it empty",
        )
    files = {path.relative_to(folder).as_posix(): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    return TaskFolder(folder, tuple(names), hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest())


def _check_task(path: Path, said: dict[str, Any]) -> None:
    if said.get("dataset_path") != "json":
        observed = f"dataset_path {said.get('dataset_path')!r}"
        raise _refused(path, observed, "dataset_path: json, with data_files beside it")
    more = dict(said.get("dataset_kwargs") or {})
    named = more.pop("data_files", None)
    if more:
        raise _refused(path, f"dataset_kwargs {sorted(more)}", "data_files alone")
    home = path.parent.resolve()
    for entry in named.values() if isinstance(named, dict) else [named]:
        for file in entry if isinstance(entry, list) else [entry]:
            inside = isinstance(file, str) and (home / file).resolve().is_relative_to(home)
            if not inside or not (home / file).is_file():
                raise _refused(path, f"data_files {file!r}", "files that are there, in the task's own folder")


def _refused(path: Path, observed: str, limit: str) -> RefusedData:
    return RefusedData(
        f"the task {path.name} cannot be run offline", observed=observed, limit=limit, remedy="change that file"
    )


def run_tasks(
    environment: Environment,
    models: dict[str, Path],
    tasks: TaskFolder,
    *,
    threads: int,
    seed: int = 0,
    tick: Callable[[int, int], None] = lambda done, of: None,
) -> list[dict[str, Any]]:
    """Every task on every model. Returns rows of task, metric, document and a score a side.

    Raises:
        SlimlineError: the harness failed, with its last lines, or found no metric that is better when higher.
    """
    engine = environment.engine
    with tempfile.TemporaryDirectory(prefix="slimline-lm-eval-") as name:
        scratch = Path(name)
        here = scratch / "tasks"
        shutil.copytree(tasks.folder, here)  # data_files are relative to the working directory
        job = {
            "models": {side: str(folder.absolute()) for side, folder in models.items()},
            "tasks": str(here),
            "names": list(tasks.names),
            "threads": threads,
            "seed": seed,
            "report": str(scratch / "report.json"),
        }
        (scratch / "job.json").write_text(json.dumps(job), encoding="utf-8")

        def tell(log: Path) -> None:
            found = progress_in(engine, tail(log))
            if found is not None:
                tick(*found)

        run_child(
            [environment.python, "-I", engine.script.absolute(), scratch / "job.json"],
            what="lm-eval",
            log=scratch / "log",
            cwd=here,
            variables=environment.variables | {"HF_HOME": str(scratch / "hub"), "OMP_NUM_THREADS": str(threads)},
            limit_s=LIMIT_S,
            tick=tell,
        )
        rows: list[dict[str, Any]] = json.loads((scratch / "report.json").read_text(encoding="utf-8"))["documents"]
    if not rows:
        raise SlimlineError(
            "the tasks have no score a document",
            observed=", ".join(tasks.names),
            limit="at least one metric that is better when higher, such as acc or exact_match",
            remedy="name such a metric in the task's metric_list",
        )
    return rows
