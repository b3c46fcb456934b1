"""A quick look at what is half made, so that hopeless work ends early."""

from __future__ import annotations

from tasks.adapters.store import Store
from tasks.adapters.tokens import read_dataset
from tasks.caching import StageKey
from tasks.contracts import DatasetRef, ModelRef
from tasks.retrying import compute_task
from tasks.score_blocks import loaded
from tasks.search_contracts import Screened
from tasks.settings import settings
from tasks.workbench import use_threads

MODULES = ("tasks.screen", "tasks.score_blocks", "tasks.compression.block_scoring", "tasks.compression.scoring")


@compute_task("screen-{candidate.name}", cache_policy=StageKey(stage="screen", modules=MODULES))
def screen(candidate: ModelRef, baseline: ModelRef, data: DatasetRef, blocks: int) -> Screened:
    """Score a half-made model beside the original on a few training blocks: the held-out ones are for what is whole."""
    import torch

    from tasks.compression.block_scoring import quality, score_blocks
    from tasks.compression.device import compute_device
    from tasks.compression.items import BASELINE, CANDIDATE

    use_threads()
    tokens = torch.from_numpy(
        read_dataset(Store(settings().store).open(data.uri, data.digest)).splits.training[:blocks]
    )
    device = compute_device()
    mine, base = loaded(candidate, device), loaded(baseline, device)
    scores = score_blocks({CANDIDATE: mine[0], BASELINE: base[0]}, tokens.long())
    return Screened(candidate=quality(scores, CANDIDATE, mine[1]), baseline=quality(scores, BASELINE, base[1]))
