"""The finished model in the format that its servers read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tasks.caching import StageKey, stage_key
from tasks.contracts import Compressed, LayerReport, ModelRef
from tasks.retrying import compute_task
from tasks.workbench import followed, measured, open_model, write_model

if TYPE_CHECKING:
    from tasks.compression.resuming import Partial

MODULES = ("tasks.convert", "tasks.compression.conversion")


@compute_task("convert-{layout}", cache_policy=StageKey(stage="convert", modules=MODULES))
def convert(model: ModelRef, layout: Literal["int-quantized", "gptq", "gptq_v2"]) -> Compressed:
    """Write the integers that the stages chose in another format, code for code."""
    from tasks.compression.checkpoint import linear_count
    from tasks.compression.conversion import convert_folder

    source = open_model(model)
    layers: list[LayerReport] = []

    def make(folder: Path, partial: Partial) -> None:
        # Seconds of copying: an attempt that was killed starts from the beginning.
        made = convert_folder(source, folder, layout)
        layers.extend(followed("convert", made, linear_count(source), "layers"))

    with measured() as meter:
        made, resumed = write_model(
            {"model": model.digest, "convert": layout},
            make,
            stage="convert",
            key=stage_key(),
            name=f"{model.name}-{layout.replace('_', '-')}",
            licence=model.licence,
        )
    return Compressed(
        stage="convert",
        model=made,
        layers=tuple(layers),
        resumed=resumed,
        seconds=meter.seconds,
        peak_bytes=meter.peak_bytes,
    )
