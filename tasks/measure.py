"""Everything that a scorecard says, measured by as many tasks as were asked for and put together."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from tasks.adapters.champion import fetch_items
from tasks.adapters.store import Store
from tasks.contracts import Champion, DatasetRef, ModelRef, Scorecard
from tasks.digests import sha256
from tasks.errors import RefusedModel
from tasks.evaluate import evaluate
from tasks.evaluation_recipes import EvaluationChoice
from tasks.find_champion import find_champion
from tasks.measure_load import measure_load
from tasks.recipes import Gate
from tasks.run_tasks import evaluate_tasks, locate_tasks
from tasks.score_blocks import score_in_shards
from tasks.settings import settings


def measure(
    candidate: ModelRef,
    exported: ModelRef | None,
    baseline: ModelRef,
    data: DatasetRef,
    choice: EvaluationChoice = EvaluationChoice(),
) -> Scorecard:
    """The scorecard of ``candidate`` beside ``baseline``, no gate applied. Each part is cached by itself."""
    tasks = locate_tasks(choice.tasks) if choice.tasks else None
    shards = score_in_shards(candidate, exported, baseline, data, choice.shards)
    scorecard = evaluate(candidate, exported, baseline, data, choice.without_load, shards)
    evidence = scorecard.evidence
    if evidence is None:
        return scorecard
    if choice.concurrency:
        figures = measure_load(exported or candidate, baseline, data, choice.concurrency, choice.load_requests)
        evidence = evidence.model_copy(update={"load": figures.levels})
    if tasks is not None:
        results = evaluate_tasks(candidate, baseline, tasks)
        evidence = evidence.model_copy(update={"tasks": results.scores, "documents": results.documents})
    return scorecard.model_copy(update={"evidence": evidence})


def measure_champion(
    gate: Gate, registered_name: str, baseline: ModelRef, data: DatasetRef, choice: EvaluationChoice
) -> Scorecard | None:
    """The champion's scorecard on the same blocks against the same original, where the gate asks for one and there is
    one. It is the one of its registration, or it is measured again where the text or the original has changed.

    Raises:
        RefusedModel: it would have to be measured again and its folder is not in this store.
    """
    if gate.baseline == "original":
        return None
    found = find_champion(registered_name)
    if found is None:
        return None
    scorecard, store = found.scorecard, Store(settings().store)
    told = {"champion": found.label, "champion_original": scorecard.baseline_model.digest}
    alike = (scorecard.dataset_digest, scorecard.baseline_model.digest) == (data.digest, baseline.digest)
    asks_tasks = gate.max_task_drop < 1 and bool(choice.tasks)
    again = not (alike and _answered(scorecard, gate, choice) and _items_are_here(found))
    needed = (scorecard.candidate_model, scorecard.exported_model) if again else (scorecard.candidate_model,)
    gone = [model.name for model in needed if model is not None and not store.holds(model.uri, model.digest)]
    if gone and (again or asks_tasks):
        raise RefusedModel(
            f"the champion, {found.label}, cannot be compared with",
            observed="it must be measured again, for its registration was on other text, against another original or "
            f"without what the gate asks for, and {', '.join(gone)} is not in this store",
            limit="the same held-out blocks and the same original, or the champion's folder at hand",
            remedy="set gate.baseline to original, or run where the champion was made",
        )
    if again:
        require_same_tokens(found, store, baseline)
        scorecard = evaluate(scorecard.candidate_model, scorecard.exported_model, baseline, data, choice.without_load)
    if asks_tasks and scorecard.evidence is not None:
        results = evaluate_tasks(scorecard.candidate_model, baseline, locate_tasks(choice.tasks))
        evidence = scorecard.evidence.model_copy(update={"tasks": results.scores, "documents": results.documents})
        scorecard = scorecard.model_copy(update={"evidence": evidence})
    return scorecard.model_copy(update=told)


def _answered(scorecard: Scorecard, gate: Gate, choice: EvaluationChoice) -> bool:
    """Whether its registration has the answers that the gate asks for."""
    if gate.max_degenerate_rise >= 1:
        return True
    found = None if scorecard.evidence is None else scorecard.evidence.generation
    return found is not None and found.prompts >= choice.prompts and found.new_tokens == choice.answer_tokens


def require_same_tokens(found: Champion, store: Store, baseline: ModelRef) -> None:
    """Perplexities of other tokens are of other items.

    Raises:
        RefusedModel: with both tokenizers' digests.
    """
    models = (found.scorecard.candidate_model, baseline)
    theirs, ours = (sha256(store.open(each.uri, each.digest) / "tokenizer.json") for each in models)
    if theirs != ours:
        raise RefusedModel(
            f"the champion, {found.label}, reads other tokens than this model, so that they cannot be compared",
            observed=f"tokenizer.json {ours[:12]}",
            limit=f"{theirs[:12]}, the champion's",
            remedy="set gate.baseline to original, start from a model of the same kind, or register under another name",
        )


def _items_are_here(found: Champion) -> bool:
    """In the store, or brought back from MLflow, to the same digest."""
    evidence = found.scorecard.evidence
    if evidence is None:
        return False
    store = Store(settings().store)
    if store.holds(evidence.items.uri, evidence.items.digest):
        return True
    with tempfile.TemporaryDirectory() as scratch:
        folder = fetch_items(settings().mlflow_url, found.run_id, Path(scratch))
        if folder is None:
            return False
        with store.draft("evaluations") as draft:
            draft.made_from = {"champion": found.label}
            for file in folder.iterdir():
                shutil.copy(file, draft.path)
    return draft.stored.digest == evidence.items.digest
