"""Score candidate and original on the same held-out items, and hold the result against the gate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from tasks.adapters.store import Store
from tasks.adapters.tokens import read_dataset
from tasks.caching import StageKey
from tasks.contracts import Compressed, DatasetRef, GateCheck, ModelRef, Quality, Scorecard
from tasks.errors import GateFailed, SlimlineError
from tasks.reader_contracts import ReaderScorecard
from tasks.recipes import Gate
from tasks.retrying import compute_task
from tasks.settings import settings
from tasks.workbench import Progress, machine_here, open_model, use_threads

if TYPE_CHECKING:
    import torch

    from tasks.compression.scoring import Scored

MODULES = ("tasks.evaluate", "tasks.compression.scoring", "tasks.onnx_scoring", "tasks.serving.onnx_session")


@compute_task("evaluate-{candidate.name}", cache_policy=StageKey(stage="evaluate", modules=MODULES))
def evaluate(candidate: ModelRef, exported: ModelRef | None, baseline: ModelRef, data: DatasetRef) -> Scorecard:
    """Reload the folders and measure them on the same blocks. Where the candidate was exported, its score is that of
    the exported folder, computed by what serves it; the compressed folder's own quality stands beside it.

    The gate is applied separately, so that moving a limit measures nothing again.
    """
    import torch

    from tasks.compression.device import HOST, compute_device
    from tasks.compression.scoring import sample, score_models

    use_threads()
    splits = read_dataset(Store(settings().store).open(data.uri, data.digest)).splits
    # Where a CPU file is measured, the original's times beside it are a CPU's too.
    device = HOST if exported else compute_device()
    served = _loaded(exported or candidate, device)
    prompt, folder = splits.prompts[0], open_model(exported or candidate)
    progress = Progress("evaluate")
    scores = score_models(
        served,
        _loaded(baseline, device),
        torch.from_numpy(splits.evaluation).long(),
        prompt=torch.tensor(Tokenizer.from_file(str(folder / "tokenizer.json")).encode(prompt).ids),
        beside=_loaded(candidate, device) if exported else None,
        on_progress=lambda share: progress.show(share, f"{share:.0%} of the held-out work"),
    )
    return Scorecard(
        candidate_model=candidate,
        baseline_model=baseline,
        dataset_digest=data.digest,
        candidate=scores[0],
        baseline=scores[1],
        checks=(),
        sample=f"{prompt} …{sample(served[0], folder, prompt)}",
        exported_model=exported,
        packed=scores[2],
        machine=machine_here(str(device)),
    )


def _loaded(model: ModelRef, device: torch.device) -> tuple[Scored, int]:
    """The model with what serves it, and the bytes of its folder. An exported one is computed on the CPU."""
    from tasks.compression.loading import load_for_compute
    from tasks.compression.scoring import TorchScored, folder_bytes
    from tasks.onnx_scoring import OnnxScored

    folder = open_model(model)
    if model.runtime == "onnx":
        return OnnxScored(folder, settings().threads), folder_bytes(folder)
    return TorchScored(load_for_compute(folder, device)), folder_bytes(folder)


def judge(scorecard: Scorecard, gate: Gate) -> Scorecard:
    """Apply the gate to a measured scorecard: to what a CPU serves, and to the compressed folder that a GPU serves."""
    checks = _checks(scorecard, scorecard.candidate, gate, "")
    if scorecard.packed is not None:
        checks += _checks(scorecard, scorecard.packed, gate, "compressed folder, ")
    if gate.min_decode_speedup:
        checks += (
            GateCheck(
                metric="decode speed-up",
                observed=scorecard.decode_speedup,
                limit=gate.min_decode_speedup,
                sense="at least",
                passed=scorecard.decode_speedup >= gate.min_decode_speedup,
                remedy="export to ONNX (recipe.cpu_export), fewer bits, or structured pruning",
            ),
        )
    return scorecard.model_copy(update={"checks": checks})


def _checks(scorecard: Scorecard, observed: Quality, gate: Gate, of: str) -> tuple[GateCheck, ...]:
    """``of`` says whose figures they are, before each metric's name."""
    baseline, dense_bytes = scorecard.baseline, 4 * scorecard.baseline_model.parameters
    return (
        GateCheck(
            metric=f"{of}perplexity ratio",
            observed=observed.perplexity / baseline.perplexity,
            limit=gate.max_perplexity_ratio,
            sense="at most",
            passed=observed.perplexity <= gate.max_perplexity_ratio * baseline.perplexity,
            remedy="more bits, a smaller group, less sparsity, or more distillation",
        ),
        GateCheck(
            metric=f"{of}next-token agreement",
            observed=observed.agreement,
            limit=gate.min_agreement,
            sense="at least",
            passed=observed.agreement >= gate.min_agreement,
            remedy="more bits, a smaller group, less sparsity, or more distillation",
        ),
        GateCheck(
            metric=f"{of}bytes ratio",
            observed=observed.bytes / dense_bytes,
            limit=gate.max_bytes_ratio,
            sense="at most",
            passed=observed.bytes <= gate.max_bytes_ratio * dense_bytes,
            remedy="fewer bits or a larger group; pruning alone does not shrink the file",
        ),
    )


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
