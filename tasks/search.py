"""A search over recipes, written down: on the run page, and in MLflow."""

from __future__ import annotations

from tasks.contracts import Tracked
from tasks.pareto import draw_front
from tasks.record import tracking
from tasks.retrying import network_task
from tasks.runpages import on_top, picture_on_top, table_on_top
from tasks.search_contracts import Comparison, Tried
from tasks.search_plan import Budgets
from tasks.search_text import choice_markdown, rows, summary


@network_task("record-{tried.recipe.name}")
def record_tried(tracked: Tracked, tried: Tried) -> None:
    """One recipe: a child run in MLflow."""
    figures = {
        "bytes_ratio": tried.bytes_ratio,
        "perplexity_ratio": tried.perplexity_ratio,
        "agreement": tried.agreement,
        "per_token_ms": tried.token_ms,
        "usd_per_million_tokens": tried.usd_per_million,
        "reused_stages": float(sum(stage.reused for stage in tried.stages)),
    }
    tracking().log_stage(
        tracked.run_id,
        f"recipe-{tried.number}-{tried.recipe.name}",
        params={f"recipe.{key}": value for key, value in tried.recipe.model_dump(mode="json").items()},
        metrics={name: value for name, value in figures.items() if value is not None},
        tags={
            "slimline.outcome": tried.outcome,
            "slimline.reason": tried.reason,
            "slimline.over": "; ".join(tried.over),
        },
        status="FAILED" if tried.outcome == "failed" else "FINISHED",
    )


@network_task("record-comparison")
def record_comparison(comparison: Comparison, budgets: Budgets) -> None:
    """The table of all recipes, the Pareto picture and the choice: on the run page, and in MLflow."""
    table_on_top("recipes", rows(comparison), summary(comparison))
    text = choice_markdown(comparison)
    on_top("choice", text, "Which recipe, and why")
    books = tracking()
    books.log_files(comparison.tracked.run_id, {"comparison.json": comparison.model_dump_json(indent=2)})
    if any(each.bytes_ratio is not None and each.perplexity_ratio is not None for each in comparison.tried):
        picture = draw_front(comparison, budgets)
        told = "Every recipe: bytes against perplexity, with the budgets"
        picture_on_top("pareto-front", picture, "bytes against perplexity", told)
        books.log_files(comparison.tracked.run_id, {"pareto.svg": picture})
