"""A version, made once more from what its run recorded, with no help from any cache, beside its recorded figures."""

from __future__ import annotations

from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.compress import shrink
from tasks.caching import apart
from tasks.fetch import locate, read_data
from tasks.preflight import preflight
from tasks.recipes import ModelName
from tasks.record import recorded_run
from tasks.reproduce import (
    compare,
    read_recorded,
    record_repeat,
    record_reproduction,
    require_reproduced,
    require_same_inputs,
)
from tasks.reproduction import Recorded, Repeat, Reproduction


@flow(name="reproduce", flow_run_name="reproduce-{model}-{version}")
def reproduce(
    model: ModelName = "slimline",
    version: str = "champion",
    repeats: Annotated[int, Field(ge=1, le=20)] = 1,
) -> Reproduction:
    """Make a registered version again and say whether it comes out as recorded. Nothing is registered or released.

    Args:
        model: Name of the registered model in MLflow.
        version: A version's number, or an alias (champion, challenger, previous).
        repeats: Re-runs, 1 to 20. Where they differ from one another, their spread is the band that the recorded
            figures must be in; earlier re-runs with the same code, packages and processor count too.
    """
    recorded = read_recorded(model, version)
    preflight(recorded.model, recorded.data, recorded.recipe)
    require_same_inputs(recorded, locate(recorded.model), read_data(recorded.data).text.digest)
    made = tuple(once_more(recorded, number) for number in range(1, repeats + 1))
    found = compare(recorded, made)
    record_reproduction(found)
    require_reproduced(found)
    return found


def once_more(recorded: Recorded, number: int) -> Repeat:
    """One re-run, in an MLflow run of its own."""
    part = f"-{number}"
    with recorded_run(f"reproduce-{recorded.title}{part}", recorded.recipe, part) as tracked, apart(part):
        made = shrink(tracked, recorded.model, recorded.data, recorded.recipe, recorded.gate, recorded.evaluation, None)
        return record_repeat(tracked, recorded, made)
