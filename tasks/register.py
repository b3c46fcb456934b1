"""Put a proven model into the MLflow registry, and keep its aliases true."""

from __future__ import annotations

from prefect.events import emit_event
from prefect.runtime import flow_run

from tasks.adapters.registry import Registry
from tasks.adapters.sagemaker_names import VARIANT
from tasks.adapters.store import Store
from tasks.contracts import DatasetRef, RegisteredModel, Rollout, Scorecard, Tracked
from tasks.reader_contracts import QuestionsRef, ReaderScorecard
from tasks.reader_recipes import ReaderRecipe
from tasks.recipes import Recipe
from tasks.require import require_passed
from tasks.retrying import network_task
from tasks.settings import settings


def registry() -> Registry:
    return Registry(settings().mlflow_url, run=str(flow_run.id or ""))


# Not cached by key: the registry itself is asked whether this digest has a version, since a registry can be emptied
# under us.
@network_task("register-{scorecard.candidate_model.name}")
def register(
    tracked: Tracked,
    scorecard: Scorecard | ReaderScorecard,
    recipe: Recipe | ReaderRecipe,
    data: DatasetRef | QuestionsRef,
    name: str,
) -> RegisteredModel:
    """Upload the candidate's folder and make it a version, alias ``challenger``. The same bytes and scorecard are
    one version.

    Raises:
        GateFailed: the scorecard has not passed.
    """
    require_passed(scorecard)
    candidate = scorecard.candidate_model
    known = registry().find(name, candidate, scorecard)
    if known is not None:
        return known
    store, exported = Store(settings().store), scorecard.exported_model if isinstance(scorecard, Scorecard) else None
    registered = registry().register(
        tracked.run_id,
        name,
        store.open(candidate.uri, candidate.digest),
        candidate,
        scorecard,
        tags={
            "slimline.baseline_digest": scorecard.baseline_model.digest,
            "slimline.dataset_digest": data.digest,
            "slimline.dataset": data.name,
            "slimline.recipe": recipe.model_dump_json(),
            "slimline.prefect_run_url": flow_run.ui_url or "",
        },
        exported=None if exported is None else store.open(exported.uri, exported.digest),
    )
    emit_event(
        "model.registered",
        resource={"prefect.resource.id": f"slimline.model.{name}.{registered.version}"},
        payload={"name": name, "version": registered.version, "digest": candidate.digest},
    )
    return registered


def _page() -> dict[str, str]:
    return {"slimline.release_run_url": flow_run.ui_url} if flow_run.ui_url else {}


@network_task("settle-{rollout.phase}")
def settle(rollout: Rollout) -> RegisteredModel:
    """Say in the registry what really serves: promoted → ``champion``; restored → no alias and a tag with the
    reason.
    """
    model = rollout.registered
    books = registry()
    if rollout.phase == "restored":
        message = rollout.observations[-1].message if rollout.observations else ""
        books.demote(model.name, model.version, rollout.reason or message or "restored by the release")
        books.tag(model.name, model.version, {"slimline.tried_on": rollout.endpoint})
        alias = ""
    else:
        books.promote(model.name, model.version)
        before = rollout.previous_config or ""
        books.begin_serving(model.name, model.version, rollout.endpoint, rollout.config, VARIANT, before)
        books.tag(model.name, model.version, {"slimline.release_run": str(flow_run.id or ""), **_page()})
        alias = "champion"
    event = "release.restored" if rollout.phase == "restored" else "release.promoted"
    emit_event(
        event,
        resource={"prefect.resource.id": f"slimline.endpoint.{rollout.endpoint}"},
        payload={"version": model.version, "phase": rollout.phase, "config": rollout.config},
    )
    return model.model_copy(update={"alias": alias})
