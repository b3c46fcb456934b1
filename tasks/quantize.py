"""One quantization recipe on one model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.caching import StageKey, stage_key
from tasks.contracts import Compressed, DatasetRef, LayerReport, ModelRef, identity
from tasks.recipes import QuantizeRecipe
from tasks.retrying import compute_task
from tasks.workbench import followed, measured, open_model, open_tokens, use_threads, write_model

if TYPE_CHECKING:
    from tasks.compression.resuming import Partial

MODULES = (
    "tasks.quantize",
    "tasks.compression.layerwise",
    "tasks.compression.quantization",
    "tasks.compression.budget",
)


@compute_task(
    "quantize-{recipe.method}-{recipe.grid}",
    cache_policy=StageKey(stage="quantize", modules=MODULES),
)
def quantize(model: ModelRef, data: DatasetRef, recipe: QuantizeRecipe) -> Compressed:
    """Turn each decoder linear's weights into packed integers, block by block. Zeros stay zero."""
    from tasks.compression.budget import quantize_to_budget
    from tasks.compression.checkpoint import linear_count
    from tasks.compression.layerwise import quantize_folder

    use_threads()
    source, tokens = open_model(model), open_tokens(data, "calibration")
    layers: list[LayerReport] = []

    def make(folder: Path, partial: Partial) -> None:
        options: dict[str, Any] = {
            "method": recipe.method,
            "group_size": recipe.group_size,
            "symmetric": True,
            "act_order": recipe.act_order,
            "damping": recipe.damping,
            "partial": partial,
        }
        if recipe.mean_bits:
            made = quantize_to_budget(source, folder, tokens, mean_bits=recipe.mean_bits, **options)
        else:
            made = quantize_folder(source, folder, tokens, bits=recipe.bits, **options)
        layers.extend(followed("quantize", made, linear_count(source), "layers"))

    with measured() as meter:
        made_from = {"model": model.digest, "data": data.digest, "quantize": identity(recipe)}
        packed, resumed = write_model(
            made_from,
            make,
            stage="quantize",
            key=stage_key(),
            name=f"{model.name}-" + (f"mixed{recipe.mean_bits:g}" if recipe.mean_bits else f"int{recipe.bits}"),
            licence=model.licence,
        )
    return Compressed(
        stage="quantize",
        model=packed,
        layers=tuple(layers),
        tokens=tokens.numel(),
        resumed=resumed,
        seconds=meter.seconds,
        peak_bytes=meter.peak_bytes,
    )
