"""Hold a new version against the champion, both measured on the same held-out blocks."""

from __future__ import annotations

from prefect.artifacts import create_markdown_artifact

from tasks.adapters.lineage import read_scorecard, read_version
from tasks.adapters.store import sha256
from tasks.contracts import GateCheck, ModelRef, Picked, Quality, Scorecard, Tracked
from tasks.errors import RefusedModel
from tasks.record import tracking
from tasks.register import registry
from tasks.retraining import AgainstChampion, champion_markdown
from tasks.retrying import network_task
from tasks.settings import settings
from tasks.workbench import open_model


@network_task("look-for-champion-{name}")
def find_champion(name: str) -> Picked | None:
    """The version that is champion now, with its original and its data set; none where there is none."""
    number = registry().champion(name)
    return None if number is None else read_version(settings().mlflow_url, name, number)


@network_task("fit-champion-{champion.registered.version}")
def require_same_tokens(champion: Picked, model: ModelRef) -> None:
    """Stop here where the champion cuts text into other tokens: perplexities would not be of the same items.

    Raises:
        RefusedModel: with both tokenizers' digests.
    """
    theirs, ours = (sha256(open_model(each) / "tokenizer.json") for each in (champion.original, model))
    if theirs != ours:
        raise RefusedModel(
            "the champion reads other tokens than this model, so that they cannot be compared", observed=ours[:12],
            limit=f"{theirs[:12]}, the tokenizer.json of what {_title(champion)} was made from",
            remedy="start from a model of the same kind, or register the new one under another name",
        )  # fmt: skip


def compare(scorecard: Scorecard, champion: Picked, beside: Scorecard, max_ratio: float) -> AgainstChampion:
    """``beside``: the champion's scorecard on the data set of ``scorecard``.

    Each is compared by the folder that is served: the exported one where there is one.
    """
    registered = champion.registered
    recorded, _ = read_scorecard(settings().mlflow_url, registered.name, registered.version)
    ratio = scorecard.candidate.perplexity / beside.candidate.perplexity
    check = GateCheck(
        metric="perplexity, new ÷ champion",
        observed=ratio,
        limit=max_ratio,
        sense="at most",
        passed=ratio <= max_ratio,
        remedy="more new text, more or fewer training steps, a lower learning rate, or a milder recipe; the champion "
        "goes on serving",
    )
    return AgainstChampion(
        champion=_title(champion), recorded=_quality(recorded), now=_quality(beside), new=_quality(scorecard),
        check=check,
    )  # fmt: skip


@network_task("record-champion")
def record_champion(tracked: Tracked, found: AgainstChampion) -> None:
    """The comparison on the run page, and in MLflow as tags, figures and a file."""
    text = champion_markdown(found)
    create_markdown_artifact(text, key="champion", description=f"Is it worse than {found.champion}?")
    books = tracking()
    books.tag(tracked.run_id, {"slimline.champion_then": found.champion})
    books.log_files(tracked.run_id, {"champion.json": found.model_dump_json(indent=2), "champion.md": text})


@network_task("record-base-{base.name}")
def record_base(tracked: Tracked, base: ModelRef) -> None:
    """What was trained, in MLflow: the scorecard's original is what came out of the training."""
    tracking().tag(tracked.run_id, {"slimline.trained_from": base.name, "slimline.trained_from_digest": base.digest})


def _title(champion: Picked) -> str:
    return f"{champion.registered.name}/{champion.registered.version}"


def _quality(scorecard: Scorecard) -> Quality:
    return Quality(**scorecard.candidate.model_dump(include=set(Quality.model_fields)))
