"""Tasks of lm-evaluation-harness as a stage: the original and the compressed folder on the same documents."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from tasks.adapters.engine_kinds import LM_EVAL
from tasks.adapters.engines import build_environment
from tasks.adapters.lm_eval_runs import read_task_folder, run_tasks
from tasks.adapters.store import Store
from tasks.caching import StageKey
from tasks.compression.answers import Document, write_documents
from tasks.compression.paired import sign_test
from tasks.compression.paired_share import drop
from tasks.contracts import ModelRef, Place, Value
from tasks.engines import engine_identity, prepare_engine
from tasks.evidence_contracts import ItemsRef, TaskScore
from tasks.retrying import compute_task
from tasks.settings import settings
from tasks.workbench import Progress, open_model

MODULES = ("tasks.run_tasks", "tasks.adapters.lm_eval_runs", "tasks.compression.answers")


class TasksRef(Value):
    """A checked folder of tasks, and the environment that they run in."""

    folder: Annotated[str, Place]
    digest: str = Field(description="SHA-256 over the folder's files")
    engine: dict[str, str]


class TaskResults(Value):
    """What the tasks gave, a score a task and metric, and document by document in the artifact store."""

    documents: ItemsRef
    scores: tuple[TaskScore, ...]


def locate_tasks(folder: str) -> TasksRef:
    """Check the folder, and build the environment where it is not there yet.

    Raises:
        RefusedData: a task cannot be run offline.
        EngineNotBuilt: pip could not install the harness.
    """
    found = read_task_folder(Path(folder).expanduser())
    prepare_engine(LM_EVAL.name)
    return TasksRef(folder=str(found.folder), digest=found.digest, engine=engine_identity(LM_EVAL))


@compute_task("tasks-{candidate.name}", cache_policy=StageKey(stage="tasks", modules=MODULES))
def evaluate_tasks(candidate: ModelRef, baseline: ModelRef, tasks: TasksRef) -> TaskResults:
    """Run every task on both, in float32 by transformers. A CPU's exported file is not what the harness can load: the
    compressed folder stands for it.
    """
    progress = Progress("tasks")
    rows = run_tasks(
        build_environment(LM_EVAL, settings().engines),
        {"baseline": open_model(baseline), "candidate": open_model(candidate)},
        read_task_folder(Path(tasks.folder)),
        threads=settings().threads,
        tick=lambda done, of: progress.show(0.95 * done / of, f"{done} of {of} requests of one model"),
    )
    documents = [Document(**row) for row in rows]
    with Store(settings().store).draft("evaluations") as draft:
        draft.made_from = {"candidate": candidate.digest, "baseline": baseline.digest, "tasks": tasks.digest}
        write_documents(draft.path, documents)
    progress.show(1.0, f"{len(documents)} scores")
    stored = draft.stored
    return TaskResults(
        documents=ItemsRef(uri=stored.uri, digest=stored.digest, items=len(documents), positions=len(documents)),
        scores=task_scores(documents),
    )


def task_scores(documents: list[Document]) -> tuple[TaskScore, ...]:
    """A score a task and metric. Documents are the items: each is asked once."""
    groups: dict[tuple[str, str], list[Document]] = {}
    for document in documents:
        groups.setdefault((document.task, document.metric), []).append(document)
    return tuple(
        TaskScore(
            task=task,
            metric=metric,
            items=len(group),
            baseline=sum(each.baseline for each in group) / len(group),
            candidate=sum(each.candidate for each in group) / len(group),
            drop_upper=drop([each.baseline for each in group], [each.candidate for each in group]).upper(0.95),
            p=sign_test([each.drop for each in group]),
        )
        for (task, metric), group in groups.items()
    )
