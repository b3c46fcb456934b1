"""One pruning recipe on one model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.adapters.engine_kinds import OWN
from tasks.caching import stage_key
from tasks.contracts import Compressed, DatasetRef, LayerReport, ModelRef, identity
from tasks.engines import EngineKey, compress_by_engine
from tasks.recipes import PruneRecipe
from tasks.retrying import compute_task
from tasks.settings import settings
from tasks.stage_child import StageChild
from tasks.workbench import followed, measured, open_model, open_tokens, write_model

if TYPE_CHECKING:
    from tasks.compression.resuming import Partial

MODULES = (
    "tasks.prune",
    "tasks.compression.child",
    "tasks.compression.layerwise",
    "tasks.compression.slimming",
    "tasks.compression.budget",
)


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
    source, tokens = open_model(model), open_tokens(data, "calibration")
    layers: list[LayerReport] = []
    child = StageChild(settings().threads)

    def make(folder: Path, partial: Partial) -> None:
        function, arguments = _work(recipe, seed, keep_statistics)
        made = child.run(function, (source, folder), tokens, arguments, partial, LayerReport)
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
        peak_bytes=child.peak_bytes,
        retries=tuple(child.notes),
    )


def _work(recipe: PruneRecipe, seed: int, keep: bool) -> tuple[str, dict[str, Any]]:
    """The function that the recipe asks for, and its arguments."""
    if recipe.method == "structured":
        return "slim_folder", recipe.model_dump(include={"heads", "channels", "blocks", "damping"})
    chosen = recipe.model_dump(include={"method", "sparsity", "damping"})
    chosen |= {"seed": seed, "keep_statistics": keep}
    if recipe.allocation == "sensitivity":
        return "prune_by_sensitivity", chosen
    return "prune_folder", chosen | {"pattern": recipe.pattern}
