"""Refuse what cannot work before any work starts: nothing is downloaded, computed or created here."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.adapters.sources import check_source
from tasks.adapters.texts import check_text_source
from tasks.cloud import sagemaker
from tasks.errors import RefusedRecipe
from tasks.recipes import DataChoice, ModelChoice, Recipe, ReleasePlan


@task(task_run_name="preflight-{recipe.name}", cache_policy=NO_CACHE)
def preflight(model: ModelChoice, data: DataChoice, recipe: Recipe, release: ReleasePlan | None = None) -> None:
    """Check model, text, recipe and release plan.

    Raises:
        Refused: with what was seen, what is allowed, and what to change.
    """
    check_source(model.source)
    check_text_source(data.source)
    check_recipe(recipe)
    if release is not None:
        sagemaker().check_plan(release)


def check_recipe(recipe: Recipe) -> None:
    """The rules that a form cannot hold."""
    order = recipe.order
    if not order:
        raise RefusedRecipe(
            "the recipe has no stages",
            observed="order = []",
            limit="at least one of prune, quantize, distill",
            remedy="name the stages in recipe.order",
        )
    repeated = sorted({stage for stage in order if order.count(stage) > 1})
    if repeated:
        raise RefusedRecipe(
            "the recipe names a stage twice",
            observed=", ".join(order),
            limit="each stage at most once",
            remedy=f"remove one of: {', '.join(repeated)}",
        )
    if "prune" in order and "quantize" in order and order.index("prune") > order.index("quantize"):
        raise RefusedRecipe(
            "pruning after quantization would move the remaining weights off their integer grid",
            observed=" → ".join(order),
            limit="prune before quantize",
            remedy="put prune first in recipe.order",
        )
    if order == ("distill",):
        raise RefusedRecipe(
            "distillation alone would teach the original from itself",
            observed="distill",
            limit="prune or quantize before it",
            remedy="add prune or quantize to recipe.order",
        )
