"""lm-evaluation-harness on two model folders. A file that its own Python runs; it imports nothing of Slimline.

Called with the path of a job, a JSON object: ``models`` (side to folder), ``tasks`` (a folder with YAML files, which is
the working directory), ``names`` of the tasks, ``threads``, ``seed`` and ``report``, the file that says what was found.
API: https://github.com/EleutherAI/lm-evaluation-harness, ``simple_evaluate``, release 0.4.13.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager


def main(job: dict[str, Any]) -> None:
    torch.set_num_threads(job["threads"])
    tasks = TaskManager(include_path=job["tasks"], include_defaults=False)
    scores = {side: evaluated(folder, tasks, job) for side, folder in job["models"].items()}
    report = {
        "versions": {name: version(name) for name in ("lm-eval", "transformers", "torch")},
        "documents": paired(scores),
    }
    Path(job["report"]).write_text(json.dumps(report))


def evaluated(folder: str, tasks: TaskManager, job: dict[str, Any]) -> dict[tuple[str, str, int], float]:
    """(task, metric, document) to the document's score, of metrics that are better when higher."""
    model = HFLM(
        pretrained=folder,
        device="cuda" if torch.cuda.is_available() else "cpu",
        dtype="float32",
        batch_size=1,
        trust_remote_code=False,
    )
    seeds = {f"{name}_seed": job["seed"] for name in ("random", "numpy_random", "torch_random", "fewshot_random")}
    found = simple_evaluate(model, tasks=job["names"], task_manager=tasks, bootstrap_iters=0, log_samples=True, **seeds)
    if found is None:
        raise SystemExit("lm-eval found nothing to evaluate")
    return {
        (task, metric, int(sample["doc_id"])): float(sample[metric])
        for task, samples in found["samples"].items()
        for sample in samples
        for metric, better in found["higher_is_better"][task].items()
        if better and isinstance(sample.get(metric), (int, float))
    }


def paired(scores: dict[str, dict[tuple[str, str, int], float]]) -> list[dict[str, Any]]:
    """A row a task, metric and document that both sides have."""
    sides = list(scores)
    keys = sorted(set.intersection(*(set(each) for each in scores.values())))
    return [
        {"task": task, "metric": metric, "document": number}
        | {side: scores[side][task, metric, number] for side in sides}
        for task, metric, number in keys
    ]


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
