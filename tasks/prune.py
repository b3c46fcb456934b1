"""One pruning recipe on one model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.adapters.engine_kinds import OWN
from tasks.caching import stage_key
from tasks.contracts import Compressed, DatasetRef, LayerReport, ModelRef, identity
from tasks.engines import EngineKey, compress_by_engine
from tasks.recipes import PruneRecipe
from tasks.retrying import compute_task
from tasks.workbench import followed, measured, open_model, open_tokens, use_threads, write_model

if TYPE_CHECKING:
    import torch

    from tasks.compression.resuming import Partial

MODULES = ("tasks.prune", "tasks.compression.layerwise", "tasks.compression.slimming")


@compute_task(
    "prune-{recipe.method}-{recipe.amount}",
    cache_policy=EngineKey(stage="prune", modules=MODULES),
)
def prune(
    model: ModelRef, data: DatasetRef, recipe: PruneRecipe, seed: int = 0, keep_statistics: bool = False
) -> Compressed:
    """Take the recipe's weights out of every decoder block: zeros, or a smaller model.

    With ``keep_statistics`` the calibration statistics stay beside the model, and quantization after it runs no token.
    """
    from tasks.compression.checkpoint import linear_count

    if recipe.engine != OWN:
        return compress_by_engine(model, data, recipe, seed)
    use_threads()
    source, tokens = open_model(model), open_tokens(data, "calibration")
    layers: list[LayerReport] = []

    def make(folder: Path, partial: Partial) -> None:
        made = _work(source, folder, tokens, recipe, seed, partial, keep_statistics)
        layers.extend(followed("prune", made, linear_count(source), "layers"))

    with measured() as meter:
        made_from = {"model": model.digest, "data": data.digest, "prune": identity(recipe), "seed": seed}
        pruned, resumed = write_model(
            made_from, make, stage="prune", key=stage_key(), name=f"{model.name}-pruned", licence=model.licence
        )
    return Compressed(
        stage="prune",
        model=pruned,
        layers=tuple(layers),
        tokens=tokens.numel(),
        resumed=resumed,
        seconds=meter.seconds,
        peak_bytes=meter.peak_bytes,
    )


def _work(
    source: Path, folder: Path, tokens: torch.Tensor, recipe: PruneRecipe, seed: int, partial: Partial, keep: bool
) -> Iterator[LayerReport]:
    from tasks.compression.layerwise import prune_folder
    from tasks.compression.slimming import slim_folder

    if recipe.method == "structured":
        shares = {"heads": recipe.heads, "channels": recipe.channels, "blocks": recipe.blocks}
        return slim_folder(source, folder, tokens, **shares, damping=recipe.damping, partial=partial)
    return prune_folder(
        source,
        folder,
        tokens,
        method=recipe.method,
        sparsity=recipe.sparsity,
        pattern=recipe.pattern,
        damping=recipe.damping,
        seed=seed,
        partial=partial,
        keep_statistics=keep,
    )
