"""Score candidate and original on the same held-out items, and hold the result against the gate."""

from __future__ import annotations

from tokenizers import Tokenizer

from tasks.adapters.store import Store
from tasks.adapters.tokens import read_dataset
from tasks.caching import StageKey
from tasks.contracts import Compressed, DatasetRef, GateCheck, ModelRef, Scorecard
from tasks.errors import GateFailed, SlimlineError
from tasks.reader_contracts import ReaderScorecard
from tasks.recipes import Gate
from tasks.retrying import compute_task
from tasks.settings import settings
from tasks.workbench import Progress, use_threads

MODULES = ("tasks.evaluate", "tasks.compression.scoring")


@compute_task("evaluate-{candidate.name}", cache_policy=StageKey(stage="evaluate", modules=MODULES))
def evaluate(candidate: ModelRef, baseline: ModelRef, data: DatasetRef) -> Scorecard:
    """Reload both folders and measure them on the same blocks. The gate is applied separately, so that moving a
    limit measures nothing again.
    """
    import torch

    from tasks.compression.loading import load_for_compute
    from tasks.compression.scoring import folder_bytes, sample, score_models

    use_threads()
    store = Store(settings().store)
    splits = read_dataset(store.open(data.uri, data.digest)).splits
    folders = [store.open(model.uri, model.digest) for model in (candidate, baseline)]
    models = [load_for_compute(folder) for folder in folders]
    prompt = splits.prompts[0]
    progress = Progress("evaluate")
    scores = score_models(
        models[0],
        models[1],
        (folder_bytes(folders[0]), folder_bytes(folders[1])),
        torch.from_numpy(splits.evaluation).long(),
        prompt=torch.tensor(Tokenizer.from_file(str(folders[0] / "tokenizer.json")).encode(prompt).ids),
        on_progress=lambda share: progress.show(share, f"{share:.0%} of the held-out work"),
    )
    return Scorecard(
        candidate_model=candidate,
        baseline_model=baseline,
        dataset_digest=data.digest,
        candidate=scores[0],
        baseline=scores[1],
        checks=(),
        sample=f"{prompt} …{sample(models[0], folders[0], prompt)}",
    )


def judge(scorecard: Scorecard, gate: Gate) -> Scorecard:
    """Apply the gate to a measured scorecard."""
    candidate, baseline = scorecard.candidate, scorecard.baseline
    dense_bytes = 4 * scorecard.baseline_model.parameters
    checks = (
        GateCheck(
            metric="perplexity ratio",
            observed=candidate.perplexity / baseline.perplexity,
            limit=gate.max_perplexity_ratio,
            sense="at most",
            passed=candidate.perplexity <= gate.max_perplexity_ratio * baseline.perplexity,
            remedy="more bits, a smaller group, less sparsity, or more distillation",
        ),
        GateCheck(
            metric="next-token agreement",
            observed=candidate.agreement,
            limit=gate.min_agreement,
            sense="at least",
            passed=candidate.agreement >= gate.min_agreement,
            remedy="more bits, a smaller group, less sparsity, or more distillation",
        ),
        GateCheck(
            metric="bytes ratio",
            observed=candidate.bytes / dense_bytes,
            limit=gate.max_bytes_ratio,
            sense="at most",
            passed=candidate.bytes <= gate.max_bytes_ratio * dense_bytes,
            remedy="fewer bits or a larger group; pruning alone does not shrink the file",
        ),
    )
    return scorecard.model_copy(update={"checks": checks})


def require_passed(scorecard: Scorecard | ReaderScorecard) -> None:
    """Stop here unless every check passed.

    Raises:
        GateFailed: names each metric outside its limit and what to try.
    """
    failed = [check for check in scorecard.checks if not check.passed]
    if failed or not scorecard.checks:
        raise GateFailed(
            "the candidate does not answer like the original; it was not registered",
            observed="; ".join(f"{check.metric} {check.observed:.3f}" for check in failed) or "no check was made",
            limit="; ".join(f"{check.metric} {check.sense} {check.limit:g}" for check in failed)
            or "at least one check",
            remedy="; ".join(sorted({check.remedy for check in failed})) or "apply the gate first",
        )


def require_sound(done: Compressed, max_share: float) -> None:
    """Stop here when too many layers of a stage needed a numerical fallback: its weights are then not what was asked.

    Raises:
        SlimlineError: names the share and the first layer's fallback.
    """
    share = len(done.fallbacks) / len(done.layers) if done.layers else 0.0
    if share > max_share:
        first = done.fallbacks[0]
        raise SlimlineError(
            f"{done.stage} needed numerical fallbacks in too many layers; nothing after it was run",
            observed=f"{share:.0%} of {len(done.layers)} layers; {first.layer}: {first.fallback}",
            limit=f"{max_share:.0%} of the layers (recipe.max_fallback_share)",
            remedy="use more calibration blocks or other text, or raise the stage's damping",
        )
