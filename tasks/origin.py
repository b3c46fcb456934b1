"""What a retrained version comes from: the model that is trained, the champion that it follows, and the new text."""

from __future__ import annotations

from tasks.adapters.store import Store
from tasks.contracts import Champion, Compressed, ModelRef, RegisteredModel, Tracked
from tasks.errors import RefusedModel
from tasks.news import NEW
from tasks.provenance import BASE, NEW_DOCUMENTS, NEWS, PARENT
from tasks.record import tracking
from tasks.register import registry
from tasks.retraining import News
from tasks.retrying import network_task
from tasks.settings import settings


@network_task("go-on-from-{champion.label}")
def uncompressed(champion: Champion) -> ModelRef:
    """The dense model that the champion was compressed from, to train it further.

    Raises:
        RefusedModel: it is not in this store.
    """
    model = champion.scorecard.baseline_model
    if Store(settings().store).holds(model.uri, model.digest):
        return model
    raise RefusedModel(
        f"the model that {champion.label} was compressed from cannot be trained further",
        observed=f"{model.name}, {model.digest[:12]}: not in this store", limit="a folder at hand",
        remedy="set retraining.start to model, or run where the champion was made",
    )  # fmt: skip


@network_task("record-origin-{base.name}")
def record_origin(tracked: Tracked, base: ModelRef, champion: Champion | None, news: News) -> None:
    """In MLflow: what is trained, which version it follows, and which documents are new. The scorecard's original is
    what comes out of the training.
    """
    books = tracking()
    books.tag(
        tracked.run_id,
        {
            "slimline.trained_from": base.name,
            BASE: base.digest,
            "slimline.new_documents": str(news.new),
            PARENT: champion.label if champion else "",
        },
    )
    listed = Store(settings().store).open(news.uri, news.digest) / NEW
    books.log_files(
        tracked.run_id,
        {NEW_DOCUMENTS: listed.read_text(encoding="utf-8"), NEWS: news.model_dump_json(indent=1)},
    )


@network_task("record-base-{base.name}")
def record_base(tracked: Tracked, base: ModelRef) -> None:
    """In MLflow: the model that is trained, where the scorecard's original is what comes out of that."""
    tracking().tag(tracked.run_id, {"slimline.trained_from": base.name, BASE: base.digest})


@network_task("record-parent-{registered.version}")
def record_parent(registered: RegisteredModel, champion: Champion | None, trained: Compressed, news: News) -> None:
    """On the version itself: which one it follows, what was trained, and how much text was new."""
    told = {
        PARENT: champion.label if champion else "",
        "slimline.trained_digest": trained.model.digest,
        "slimline.new_documents": str(news.new),
    }
    registry().tag(registered.name, registered.version, told)
