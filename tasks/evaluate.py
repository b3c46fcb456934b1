"""Score candidate and original on the same held-out items. ``gate`` holds the result against limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from tasks.adapters.store import Store
from tasks.adapters.tokens import TokenSplits, read_dataset
from tasks.caching import StageKey
from tasks.contracts import DatasetRef, ModelRef, Scorecard
from tasks.evaluation_recipes import EvaluationChoice
from tasks.evidence_contracts import SLICE_CONFIDENCE, AnswerFigures, Evidence, Generation, SliceScore
from tasks.retrying import compute_task
from tasks.score_blocks import Shards, document_end, keep, label_masks, loaded
from tasks.settings import settings
from tasks.workbench import Progress, machine_here, open_model, use_threads

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tasks.compression.answers import AnswerPair
    from tasks.compression.items import Item
    from tasks.compression.scoring import Scored

MODULES = (
    "tasks.evaluate",
    "tasks.score_blocks",
    "tasks.compression.scoring",
    "tasks.onnx_scoring",
    "tasks.serving.onnx_session",
)


@compute_task("evaluate-{candidate.name}", cache_policy=StageKey(stage="evaluate", modules=MODULES))
def evaluate(
    candidate: ModelRef,
    exported: ModelRef | None,
    baseline: ModelRef,
    data: DatasetRef,
    choice: EvaluationChoice = EvaluationChoice(),
    shards: Shards = Shards(),
) -> Scorecard:
    """Reload the folders and measure them on the same blocks. Where the candidate was exported, its score is that of
    the exported folder, computed by what serves it; the compressed folder's own quality stands beside it.

    ``shards``: the blocks' results where they were scored before, in parts; what is left is measured here.
    """
    import torch

    from tasks.compression.block_scoring import quality, score_blocks
    from tasks.compression.device import HOST, compute_device
    from tasks.compression.items import BASELINE, CANDIDATE, PACKED, joined, read_scores
    from tasks.compression.scoring import check_prompt, sample, time_pair, timed

    use_threads()
    store = Store(settings().store)
    splits = read_dataset(store.open(data.uri, data.digest)).splits
    # Where a CPU file is measured, the original's times beside it are a CPU's too.
    device = HOST if exported else compute_device()
    scored_before = joined(read_scores(store.open(part.uri, part.digest)) for part in shards.parts)
    served, original = loaded(exported or candidate, device), loaded(baseline, device)
    folder = open_model(exported or candidate)
    prompt = splits.prompts[0]
    ids = torch.tensor(Tokenizer.from_file(str(folder / "tokenizer.json")).encode(prompt).ids)
    check_prompt(served[0], ids)
    progress = _Steps((0 if shards.parts else len(splits.evaluation)) + 2 * (choice.timed_repeats + 1) + choice.prompts)
    sizes = {CANDIDATE: served[1], BASELINE: original[1]}
    if shards.parts:
        scores = scored_before
        if exported:
            sizes[PACKED] = _folder_bytes(candidate)
    else:
        beside = {PACKED: loaded(candidate, device)} if exported else {}
        sizes |= {name: size for name, (_, size) in beside.items()}
        scores = score_blocks(
            {CANDIDATE: served[0], BASELINE: original[0]} | {name: model for name, (model, _) in beside.items()},
            torch.from_numpy(splits.evaluation).long(),
            end=document_end(baseline),
            labels=label_masks(splits),
            advance=progress.advance,
        )
    times = time_pair(served[0], original[0], ids, repeats=choice.timed_repeats, advance=progress.advance)
    pairs = _continued(served[0], original[0], folder, splits, choice, progress.advance)
    items = keep(scores, {"candidate": candidate.digest, "baseline": baseline.digest}, pairs)
    return Scorecard(
        candidate_model=candidate,
        baseline_model=baseline,
        dataset_digest=data.digest,
        candidate=timed(quality(scores, CANDIDATE, sizes[CANDIDATE]), times[0]),
        baseline=timed(quality(scores, BASELINE, sizes[BASELINE]), times[1]),
        checks=(),
        sample=f"{prompt} …{sample(served[0], folder, prompt)}",
        exported_model=exported,
        packed=quality(scores, PACKED, sizes[PACKED]) if exported else None,
        evidence=Evidence(
            items=items, slices=_slices(scores.items), generation=_generation(pairs, choice) if pairs else None
        ),
        machine=machine_here(str(device)),
    )


class _Steps:
    """Progress over a known number of steps."""

    def __init__(self, steps: int) -> None:
        self._steps, self._done, self._progress = steps, 0, Progress("evaluate")

    def advance(self) -> None:
        self._done += 1
        share = self._done / self._steps
        self._progress.show(share, f"{share:.0%} of the held-out work")


def _folder_bytes(model: ModelRef) -> int:
    from tasks.compression.scoring import folder_bytes

    return folder_bytes(open_model(model))


def _continued(
    served: Scored,
    original: Scored,
    folder: Path,
    splits: TokenSplits,
    choice: EvaluationChoice,
    advance: Callable[[], None],
) -> list[AnswerPair]:
    """Both models' greedy answers to the first held-out prompts, each model's end-of-text as its folder says."""
    import torch

    from tasks.compression.answers import Answer, AnswerPair
    from tasks.compression.scoring import continuation, ending_tokens

    coder, stop = Tokenizer.from_file(str(folder / "tokenizer.json")), ending_tokens(folder)

    def answer(model: Scored, ids: torch.Tensor) -> Answer:
        written = continuation(model, ids, stop, choice.answer_tokens)
        return Answer.of(coder.decode(written), written)

    pairs = []
    for prompt in splits.prompts[: choice.prompts]:
        ids = torch.tensor([coder.encode(prompt).ids])
        pairs.append(AnswerPair(prompt, answer(original, ids), answer(served, ids)))
        advance()
    return pairs


def _slices(items: tuple[Item, ...]) -> tuple[SliceScore, ...]:
    import math

    from tasks.compression.items import SliceSums, slice_change, slice_totals
    from tasks.compression.slices import LABEL

    def exponential(value: float) -> float:
        return math.exp(min(700.0, value))

    def score(name: str, sums: SliceSums) -> SliceScore:
        change = slice_change(items, name)
        lower, upper = change.lower(SLICE_CONFIDENCE), change.upper(SLICE_CONFIDENCE)
        return SliceScore(
            name=name.removeprefix(LABEL),
            by="label" if name.startswith(LABEL) else "text",
            blocks=change.items,
            positions=sums.positions,
            baseline_perplexity=exponential(sums.baseline_nll / sums.positions),
            candidate_perplexity=exponential(sums.candidate_nll / sums.positions),
            agreement=sums.agreed / sums.positions,
            ratio_lower=None if lower is None else exponential(lower),
            ratio_upper=None if upper is None else exponential(upper),
        )

    return tuple(score(name, sums) for name, sums in slice_totals(items).items())


def _generation(pairs: list[AnswerPair], choice: EvaluationChoice) -> Generation:
    from tasks.compression.answers import Answer, mean

    def side(of: Callable[[AnswerPair], Answer]) -> AnswerFigures:
        return AnswerFigures(
            empty=mean(pairs, lambda pair: float(of(pair).empty)),
            loops=mean(pairs, lambda pair: float(of(pair).loop)),
            distinct=mean(pairs, lambda pair: of(pair).distinct),
            tokens=mean(pairs, lambda pair: float(len(of(pair).tokens))),
        )

    return Generation(
        prompts=len(pairs),
        new_tokens=choice.answer_tokens,
        baseline=side(lambda pair: pair.baseline),
        candidate=side(lambda pair: pair.candidate),
        same=mean(pairs, lambda pair: float(pair.baseline.tokens == pair.candidate.tokens)),
        same_start=mean(pairs, lambda pair: pair.same_start),
    )
