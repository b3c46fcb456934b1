"""A quick look at what is half made, so that hopeless work ends early."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.adapters.store import Store
from tasks.adapters.tokens import read_dataset
from tasks.caching import StageKey
from tasks.contracts import DatasetRef, ModelRef
from tasks.retrying import compute_task
from tasks.search_contracts import Screened
from tasks.settings import settings
from tasks.workbench import open_model, use_threads

if TYPE_CHECKING:
    from tasks.compression.scoring import TorchScored

MODULES = ("tasks.screen", "tasks.compression.block_scoring", "tasks.compression.scoring")


@compute_task("screen-{candidate.name}", cache_policy=StageKey(stage="screen", modules=MODULES))
def screen(candidate: ModelRef, baseline: ModelRef, data: DatasetRef, blocks: int) -> Screened:
    """Score a half-made model beside the original on a few training blocks: the held-out ones are for what is whole."""
    import torch

    from tasks.compression.block_scoring import quality, score_blocks
    from tasks.compression.items import BASELINE, CANDIDATE
    from tasks.compression.scoring import folder_bytes

    use_threads()
    tokens = torch.from_numpy(
        read_dataset(Store(settings().store).open(data.uri, data.digest)).splits.training[:blocks]
    )

    def loaded(model: ModelRef) -> tuple[TorchScored, int]:
        from tasks.compression.device import compute_device
        from tasks.compression.loading import load_for_compute
        from tasks.compression.scoring import TorchScored

        folder = open_model(model)
        return TorchScored(load_for_compute(folder, compute_device())), folder_bytes(folder)

    mine, base = loaded(candidate), loaded(baseline)
    scores = score_blocks({CANDIDATE: mine[0], BASELINE: base[0]}, tokens.long())
    return Screened(candidate=quality(scores, CANDIDATE, mine[1]), baseline=quality(scores, BASELINE, base[1]))
