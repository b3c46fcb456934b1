"""What every compression stage does around its mathematics: open handles, show progress, write one output, return
one handle.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast
from uuid import UUID, uuid4

import httpx
import psutil
from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.exceptions import MissingContextError

from tasks.adapters.processor import processor_name
from tasks.adapters.store import Store, Stored
from tasks.adapters.tokens import read_dataset
from tasks.caching import differences
from tasks.contracts import Compressed, DatasetRef, ImportedRef, ModelRef, Runtime, Stage
from tasks.settings import settings

if TYPE_CHECKING:
    import torch

    from tasks.compression.folder_facts import FolderFacts
    from tasks.compression.resuming import Partial
    from tasks.compression.training_loop import StepResult

Item = TypeVar("Item")
_log = logging.getLogger(__name__)


class Meter:
    """Wall time and peak resident memory of this process inside a ``with measured()`` block."""

    seconds: float = 0.0
    peak_bytes: int = 0


@contextmanager
def measured(interval: float = 0.05) -> Iterator[Meter]:
    """Sample resident memory every ``interval`` seconds. Short peaks between two samples are missed."""
    meter, stop, process = Meter(), threading.Event(), psutil.Process()
    started = time.perf_counter()

    def sample() -> None:
        while not stop.wait(interval):
            meter.peak_bytes = max(meter.peak_bytes, process.memory_info().rss)

    meter.peak_bytes = process.memory_info().rss
    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    try:
        yield meter
    finally:
        stop.set()
        sampler.join()
        meter.seconds = time.perf_counter() - started


class Progress:
    """One progress artifact on the run page, updated in place."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        # The function is also a coroutine function in async code, hence the cast.
        self._id = cast(UUID, create_progress_artifact(0.0, key=f"{stage}-progress", description=f"{stage}: started"))

    def show(self, share: float, text: str) -> None:
        """``share`` is 0–1."""
        try:
            update_progress_artifact(self._id, 100.0 * min(1.0, max(0.0, share)), description=f"{self._stage}: {text}")
        except httpx.HTTPError as error:
            # An hour of work is worth more than its progress bar.
            _log.warning("the progress of %s could not be shown: %s", self._stage, error)


def followed(stage: str, items: Iterable[Item], total: int, unit: str) -> Iterator[Item]:
    """Yield ``items`` and keep a progress artifact in step, at most about 50 updates."""
    progress = Progress(stage)
    stride = max(1, total // 50)
    for done, item in enumerate(items, start=1):
        yield item
        if done % stride == 0 or done == total:
            progress.show(done / max(1, total), f"{done} of {total} {unit}")


def use_threads() -> None:
    """Give torch the threads that the settings allow. In a flow's process only: servers beside it keep their own."""
    import torch

    torch.set_num_threads(settings().threads)


def machine_here(device: str) -> str:
    """Names what times are measured on: processor and threads, or the GPU. ``device`` as torch names it."""
    if device.startswith("cuda"):
        import torch

        return str(torch.cuda.get_device_name(device))
    return f"{processor_name()}, {settings().threads} of {os.cpu_count()} threads"


def open_model(model: ModelRef) -> Path:
    """The model's folder, every byte checked."""
    return Store(settings().store).open(model.uri, model.digest)


def open_tokens(data: DatasetRef, split: Literal["calibration", "training", "evaluation"]) -> torch.Tensor:
    """One split of the data set: int64 (blocks, block_tokens)."""
    import torch

    splits = read_dataset(Store(settings().store).open(data.uri, data.digest)).splits
    return torch.from_numpy(getattr(splits, split)).long()


def write_model(
    made_from: dict[str, Any],
    make: Callable[[Path, Partial], None],
    *,
    stage: str,
    key: str | None,
    name: str,
    licence: str,
    describe: Callable[..., ModelRef] | None = None,
) -> tuple[ModelRef, int]:
    """Write a model folder into the store with ``make`` and describe what was really written.

    ``make`` gets the new folder and a place for finished parts. Those outlive a process that is killed: the next
    attempt at the same stage key goes on after them. Parts of another key of this stage are discarded, and said to be.

    ``describe`` makes the handle, ``describe_model`` unless told: for folders that are no language models.

    Returns:
        The model's handle, and how many parts an earlier process had finished.

    Raises:
        Whatever ``make`` raises; nothing is committed then.
    """
    from tasks.compression.resuming import Partial

    store = Store(settings().store)
    key = key or f"{stage}-{uuid4().hex}"  # outside a run nothing can be found again
    for stale in store.sweep(lambda found: found != key and found.startswith((f"{stage}-", "draft-"))):
        if stale.startswith(f"{stage}-"):
            changed = "; ".join(differences(stage, stale, key)) or "its key was not recorded"
            logger().warning("discarded unfinished work of %s that this run cannot use: %s", stage, changed)

    def tell(done: int) -> None:
        logger().warning("%s goes on after %d parts that an earlier process finished", stage, done)

    with store.draft("models", resume=key) as draft:
        draft.made_from = made_from
        if draft.partial is None:
            logger().warning("another process is at this very %s: this one works beside it, from the beginning", stage)
        partial = Partial(draft.partial or draft.path.with_name("partial"), tell)
        make(draft.path, partial)
    return (describe or describe_model)(draft.stored, name=name, licence=licence), partial.resumed


def learned(
    stage: Stage,
    written: tuple[ModelRef, int],
    steps: Sequence[StepResult],
    *,
    seconds: float,
    peak_bytes: int,
    retries: Sequence[str] = (),
) -> Compressed:
    """What a stage that trains hands on. ``written``: of ``write_model``; ``steps``: at least one."""
    model, resumed = written
    return Compressed(
        stage=stage,
        model=model,
        losses=tuple(step.loss for step in steps),
        tokens=steps[-1].tokens,
        resumed=resumed,
        seconds=seconds,
        peak_bytes=peak_bytes,
        retries=tuple(retries),
    )


def logger() -> logging.Logger | logging.LoggerAdapter[logging.Logger]:
    """The run's logger, seen on its page; the module's where there is no run."""
    try:
        return get_run_logger()
    except MissingContextError:
        return _log


def describe_model(stored: Stored | ImportedRef, *, name: str, licence: str) -> ModelRef:
    """A handle whose every figure was read from the folder's files."""
    from tasks.compression.folder_facts import describe

    return handle(stored, describe(Store(settings().store).root / stored.uri), name=name, licence=licence)


def handle(
    stored: Stored | ImportedRef, facts: FolderFacts, *, name: str, licence: str, runtime: Runtime = "torch"
) -> ModelRef:
    """The handle of a folder whose files say ``facts``."""
    return ModelRef(
        uri=stored.uri, digest=stored.digest, name=name, licence=licence, runtime=runtime, **dataclasses.asdict(facts)
    )
