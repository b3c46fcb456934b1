"""Record a run in MLflow while it happens: one parent run, a child run a stage. Every task here may be repeated
without harm.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from prefect.runtime import flow_run

from tasks.adapters.tracking import Tracking
from tasks.contracts import Compressed, DatasetRef, Scorecard, Tracked
from tasks.recipes import Recipe
from tasks.retrying import network_task
from tasks.runpages import cached_stages
from tasks.settings import settings


def tracking() -> Tracking:
    return Tracking(settings().mlflow_url, settings().experiment)


@contextmanager
def tracked_run(name: str, recipe: Recipe) -> Iterator[Tracked]:
    """An MLflow run that ends FINISHED or FAILED as the block does."""
    tracked = open_run(name, recipe)
    try:
        yield tracked
    except BaseException:
        close_run(tracked, "FAILED")
        raise
    close_run(tracked, "FINISHED")


@network_task("track-{name}")
def open_run(name: str, recipe: Recipe) -> Tracked:
    """Open the MLflow run of this Prefect run, or find it again after a restart."""
    books = tracking()
    run_id = books.open_run(
        str(flow_run.get_id()),
        name,
        params={f"recipe.{key}": str(value) for key, value in recipe.model_dump(mode="json").items()},
        tags={"slimline.prefect_run_url": flow_run.get_run_url() or "", "slimline.recipe": recipe.model_dump_json()},
    )
    return Tracked(run_id=run_id, url=books.run_url(run_id))


@network_task("track-data-{data.name}")
def track_data(tracked: Tracked, data: DatasetRef) -> None:
    """Log the data set and its digest as the run's input."""
    tracking().log_dataset(tracked.run_id, data, "calibration")


@network_task("track-{step.stage}")
def track_stage(tracked: Tracked, step: Compressed) -> str:
    """Log one stage as a child run: sizes, time, memory, and every layer."""
    cached = step.stage in cached_stages()
    return tracking().log_stage(
        tracked.run_id,
        step.stage,
        params={"model": step.model.name, "digest": step.model.digest, "dtype": step.model.dtype},
        metrics={
            "bytes": step.model.bytes,
            "sparsity": step.model.sparsity,
            "bits": step.model.bits,
            "seconds": step.seconds,
            "tokens": step.tokens,
            "peak_bytes": step.peak_bytes,
            "fallbacks": len(step.fallbacks),
        },
        layers=step.layers,
        losses=step.losses,
        tags={"slimline.cached": str(cached).lower(), "slimline.digest": step.model.digest},
    )


@network_task("track-scorecard")
def track_scorecard(tracked: Tracked, scorecard: Scorecard) -> None:
    """Log the scorecard, passed or not."""
    tracking().log_scorecard(tracked.run_id, scorecard)


@network_task("close-{status}")
def close_run(tracked: Tracked, status: Literal["FINISHED", "FAILED"]) -> None:
    tracking().close_run(tracked.run_id, status)
