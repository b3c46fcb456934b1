"""A version, made once more from what its run recorded, with no help from any cache, beside its recorded figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.compress import shrink_with
from flows.distill_reader import teach
from flows.retrain_and_release import train_and_squeeze
from flows.wanted import Wanted
from tasks.caching import apart
from tasks.contracts import Made, Tracked
from tasks.fetch import locate
from tasks.locate_reader import digest_questions, locate_reader
from tasks.preflight import check_fit, preflight
from tasks.preflight_reader import preflight_reader
from tasks.reader_contracts import MadeReader
from tasks.recipes import ModelName
from tasks.record import recorded_run
from tasks.reproduce import compare, read_recorded, record_repeat, record_reproduction, require_reproduced
from tasks.reproduce_inputs import recorded_base, recorded_text, require_same_inputs
from tasks.reproduction import Recorded, RecordedReader, Repeat, Reproduction
from tasks.train import check_training

Again = Callable[[Tracked], Made | MadeReader]


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
    again = _reader(recorded) if isinstance(recorded, RecordedReader) else _language_model(recorded)
    made = tuple(once_more(recorded, number, again) for number in range(1, repeats + 1))
    found = compare(recorded, made)
    record_reproduction(found)
    require_reproduced(found)
    return found


def once_more(recorded: Recorded | RecordedReader, number: int, again: Again) -> Repeat:
    """One re-run, in an MLflow run of its own."""
    part = f"-{number}"
    with recorded_run(f"reproduce-{recorded.title}{part}", recorded.recipe, part) as tracked, apart(part):
        return record_repeat(tracked, recorded, again(tracked))


def _language_model(recorded: Recorded) -> Again:
    """How it is made again: compressed, or trained and compressed. Refused here where its inputs are not at hand."""
    data, recipe, trained = recorded.data, recorded.recipe, recorded.trained
    preflight(recorded.model, data, recipe)
    text = recorded_text(recorded)
    base = recorded_base(recorded) if trained and trained.goes_on else locate(recorded.model)
    require_same_inputs(recorded, base, text.text.digest)
    wanted = Wanted(recipe, recorded.gate, recorded.evaluation, registered_name="")
    if trained is None:
        return lambda tracked: shrink_with(tracked, base, data, text, wanted)
    retraining, training, news = trained.retraining, trained.training, trained.news
    check_training(base, training)
    check_fit(recipe, base)
    return lambda tracked: train_and_squeeze(tracked, base, data, text, news, retraining, training, wanted)


def _reader(recorded: RecordedReader) -> Again:
    """As ``_language_model``, of a reader."""
    model, data, recipe = recorded.model, recorded.data, recorded.recipe
    preflight_reader(model, data, recipe)
    require_same_inputs(recorded, locate_reader(model), digest_questions(data))
    return lambda tracked: teach(tracked, model, data, recipe, recorded.gate)
