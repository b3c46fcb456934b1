"""The compressed model as the file that a CPU serves."""

from __future__ import annotations

from collections.abc import Callable

from tasks.adapters.store import Store
from tasks.caching import StageKey
from tasks.contracts import Exported, ModelRef
from tasks.errors import RefusedModel
from tasks.recipes import CpuExport
from tasks.retrying import compute_task
from tasks.settings import settings
from tasks.workbench import Progress, handle, logger, measured, open_model, use_threads

MODULES = ("tasks.export", "tasks.compression.onnx_export", "tasks.compression.onnx_facts")
DENSE_BITS = 16


@compute_task("export-{model.name}", cache_policy=StageKey(stage="export", modules=MODULES))
def export(model: ModelRef, choice: CpuExport) -> Exported:
    """Write the compressed folder once more as ONNX, with the same integers and scales.

    With ``auto``, a dense folder and one that cannot be exported stay with torch, and the reason is handed back.

    Raises:
        RefusedModel: ``onnx`` was asked for and the folder cannot be exported.
    """
    progress = Progress("export")
    done = exported(model, choice, lambda share: progress.show(share, f"{share:.0%} of the decoder blocks"))
    if done.model is None:
        progress.show(1.0, "stays with torch")
    return done


def exported(model: ModelRef, choice: CpuExport, on_progress: Callable[[float], None]) -> Exported:
    """What ``export`` does, without a run around it."""
    if choice == "auto" and model.bits >= DENSE_BITS:
        return _left(model, f"its weights are dense ({model.bits:g} bits): ONNX Runtime decodes only integers faster")
    try:
        return _written(model, on_progress)
    except RefusedModel as error:
        if choice == "onnx":
            raise
        return _left(model, f"{error.cause}: {error.observed}")


def _left(model: ModelRef, reason: str) -> Exported:
    logger().warning("%s is served with torch: %s", model.name, reason)
    return Exported(source=model.digest, model=None, reason=reason)


def _written(model: ModelRef, on_progress: Callable[[float], None]) -> Exported:
    from tasks.compression.onnx_export import export_onnx
    from tasks.compression.onnx_facts import describe_onnx

    use_threads()
    store, source = Store(settings().store), open_model(model)
    with measured() as meter, store.draft("models") as draft:
        record = export_onnx(source, draft.path, on_progress=on_progress)
        choices = {name: str(value) for name, value in record.items()}
        draft.made_from = {"model": model.digest, "export": choices}
    facts = describe_onnx(store.root / draft.stored.uri)
    written = handle(draft.stored, facts, name=f"{model.name}-onnx", licence=model.licence, runtime="onnx")
    return Exported(
        source=model.digest, model=written, choices=choices, seconds=meter.seconds, peak_bytes=meter.peak_bytes
    )
