"""One quantization recipe on one model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.adapters.engine_kinds import OWN
from tasks.caching import stage_key
from tasks.contracts import Compressed, DatasetRef, LayerReport, ModelRef, identity
from tasks.engines import EngineKey, compress_by_engine
from tasks.recipes import QuantizeRecipe
from tasks.retrying import compute_task
from tasks.settings import settings
from tasks.stage_child import StageChild
from tasks.workbench import followed, measured, open_model, open_tokens, write_model

if TYPE_CHECKING:
    from tasks.compression.resuming import Partial

MODULES = (
    "tasks.quantize",
    "tasks.compression.child",
    "tasks.compression.layerwise",
    "tasks.compression.quantization",
    "tasks.compression.casting",
    "tasks.compression.budget",
)


@compute_task(
    "quantize-{recipe.method}-{recipe.grid}",
    cache_policy=EngineKey(stage="quantize", modules=MODULES),
)
def quantize(model: ModelRef, data: DatasetRef, recipe: QuantizeRecipe) -> Compressed:
    """Turn each decoder linear's weights into packed integers, or cast every tensor, block by block. Zeros stay
    zero.
    """
    from tasks.compression.casting import CASTS, cast_folder
    from tasks.compression.checkpoint import linear_count

    if recipe.engine != OWN:
        return compress_by_engine(model, data, recipe)
    source, tokens = open_model(model), open_tokens(data, "calibration")
    layers: list[LayerReport] = []
    child = StageChild(settings().threads)
    w8a8 = recipe.method == "w8a8"
    arguments: dict[str, Any] = {
        "method": "gptq" if w8a8 else recipe.method,
        "group_size": recipe.columns_a_scale,
        "symmetric": w8a8 or recipe.symmetric,
        "act_order": recipe.act_order,
        "damping": recipe.damping,
    }
    function = "quantize_to_budget" if recipe.mean_bits else "quantize_folder"
    arguments |= {"mean_bits": recipe.mean_bits} if recipe.mean_bits else {"bits": 8 if w8a8 else recipe.bits}

    def make(folder: Path, partial: Partial) -> None:
        made: Iterable[LayerReport]
        if recipe.integers:
            made = child.run(function, (source, folder), tokens, arguments, partial, LayerReport)
        else:
            made = cast_folder(source, folder, CASTS[recipe.method], partial)  # a tensor at a time, without tokens
        layers.extend(followed("quantize", made, linear_count(source), "layers"))

    with measured() as meter:
        made_from = {"model": model.digest, "data": data.digest, "quantize": identity(recipe)}
        packed, resumed = write_model(
            made_from,
            make,
            stage="quantize",
            key=stage_key(),
            name=f"{model.name}-{recipe.suffix}",
            licence=model.licence,
        )
    return Compressed(
        stage="quantize",
        model=packed,
        layers=tuple(layers),
        tokens=tokens.numel() if recipe.integers else 0,
        resumed=resumed,
        seconds=meter.seconds,
        peak_bytes=child.peak_bytes or meter.peak_bytes,
        retries=tuple(child.notes),
    )
