"""Score one model alone on the held-out blocks: a model before training, and the trained one, to tell them apart."""

from __future__ import annotations

from tasks.adapters.store import Store
from tasks.adapters.tokens import read_dataset
from tasks.caching import StageKey
from tasks.contracts import DatasetRef, ModelRef, Scorecard
from tasks.evidence_contracts import ItemsRef, TrainingGain
from tasks.retrying import compute_task
from tasks.score_blocks import MODULES, document_end, keep, loaded
from tasks.settings import settings
from tasks.workbench import Progress, use_threads


@compute_task(
    "score-alone-{model.name}", cache_policy=StageKey(stage="score-alone", modules=("tasks.score_alone", *MODULES))
)
def score_alone(model: ModelRef, data: DatasetRef, on_cpu: bool) -> ItemsRef:
    """Its likelihoods and right answers block by block. One pass over the blocks and nothing else: no times, no
    answers. ``on_cpu``: whether the others are measured there, as they are where a CPU's file is.
    """
    import torch

    from tasks.compression.block_scoring import score_blocks
    from tasks.compression.device import HOST, compute_device
    from tasks.compression.items import BASELINE

    use_threads()
    store, progress = Store(settings().store), Progress("score-alone")
    blocks = read_dataset(store.open(data.uri, data.digest)).splits.evaluation
    device = HOST if on_cpu else compute_device()
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        progress.show(done / len(blocks), f"{done} of {len(blocks)} held-out blocks")

    forms = {BASELINE: loaded(model, device)[0]}
    scores = score_blocks(forms, torch.from_numpy(blocks).long(), end=document_end(model), advance=advance)
    return keep(scores, {"model": model.digest, "data": data.digest})


def with_start(scorecard: Scorecard, start: ModelRef, data: DatasetRef, min_gain: float) -> Scorecard:
    """The scorecard with the model that was trained beside it. The gate's ``judge`` weighs them."""
    items = score_alone(start, data, scorecard.exported_model is not None)
    gain = TrainingGain(start=start.name, digest=start.digest, items=items, min_gain=min_gain)
    return scorecard.model_copy(update={"training": gain})
