"""What of a text is new since the last version, and blocks of it to train, calibrate and measure on.

Decided by the digests of the documents that stand with each version's run in MLflow, never by a file's time.
"""

from __future__ import annotations

import json
from dataclasses import replace

from prefect import State
from prefect.artifacts import create_markdown_artifact
from prefect.states import Completed

from tasks.adapters import document_digests
from tasks.adapters.lineage_books import Books, VersionFacts
from tasks.adapters.registry import CHAMPION, RESTORED
from tasks.adapters.store import Store
from tasks.adapters.tokens import cut_blocks, write_dataset
from tasks.caching import StageKey
from tasks.contracts import DatasetRef, ModelRef
from tasks.data_contracts import DataText
from tasks.errors import RefusedData
from tasks.fetch import dealing_of, ref_of
from tasks.lineage import books
from tasks.provenance import DOCUMENTS
from tasks.recipes import DataChoice
from tasks.retraining import News, Seen, Skipped, news_markdown, skipped_markdown
from tasks.retrying import network_task
from tasks.runpages import on_top
from tasks.settings import settings
from tasks.text_sources import text_again

NEW = "new.txt"


@network_task("look-for-new-{choice.source}")
def look_for_new(choice: DataChoice, data: DataText, name: str, champion: str, minimum: int) -> News:
    """Which documents neither version ``champion`` of ``name`` nor a later one that was taken back has seen, by their
    digests; what is found stands on the run's page. ``champion``: empty where there is none.
    """
    news = find_news(choice, data, name, champion, minimum)
    on_top("new-data", news_markdown(news), news.sentence)
    return news


def find_news(choice: DataChoice, data: DataText, name: str, champion: str, minimum: int) -> News:
    """Compare the text as it is now with what version ``champion`` of ``name`` was made with, and with what the newest
    version after it that was taken back was made with. A version that still waits to be released counts for nothing:
    the run that is repeated finds it in the cache and releases it.
    """
    now = document_digests.read(document_digests.written(text_again(choice, data.text).documents))
    seen, known = _seen(name, champion, data.text.digest, now)
    new = now - known
    with Store(settings().store).draft("news") as draft:
        draft.made_from = {"text": data.text.digest, "seen": [each.title for each in seen]}
        (draft.path / NEW).write_text(document_digests.lines(new), encoding="utf-8")
    return News(
        uri=draft.stored.uri, digest=draft.stored.digest, text_digest=data.text.digest, source=choice.source,
        documents=len(now), cut=data.text.cut, new=len(new), minimum=minimum, seen=seen,
    )  # fmt: skip


def put_back(news: News, listed: str) -> News:
    """``news`` of an earlier run, whose list of new documents is ``listed``: written again where it is no more.

    Raises:
        ValueError: that is another list.
    """
    store = Store(settings().store)
    if not store.holds(news.uri, news.digest):
        with store.draft("news") as draft:
            draft.made_from = {"text": news.text_digest, "seen": [each.title for each in news.seen]}
            (draft.path / NEW).write_text(listed, encoding="utf-8")
        if draft.stored.digest != news.digest:
            raise ValueError(f"the list of new documents is {draft.stored.digest}, and {news.digest} was recorded")
    return news


def _seen(name: str, champion: str, text_digest: str, now: frozenset[str]) -> tuple[tuple[Seen, ...], frozenset[str]]:
    """The versions that are asked, and every document that one of them was made with."""
    ledger = books()
    seen, known = [], frozenset[str]()
    for version, why in _asked(ledger.versions(name), champion):
        each, theirs = _documents_of(ledger, version, why, text_digest, now)
        seen.append(each)
        known |= theirs
    return tuple(seen), known


def _asked(versions: list[VersionFacts], number: str) -> list[tuple[VersionFacts, str]]:
    """Of all versions, oldest first: the champion, by its number, and the last one after it that was taken back."""
    champion = next((each for each in versions if each.version == number), None)
    later = [each for each in versions if champion is None or int(each.version) > int(champion.version)]
    restored = [each for each in later if each.tags.get(RESTORED)]
    asked = [] if champion is None else [(champion, CHAMPION)]
    return asked + [(each, "restored") for each in restored[-1:]]


def _documents_of(
    ledger: Books, version: VersionFacts, why: str, text_digest: str, now: frozenset[str]
) -> tuple[Seen, frozenset[str]]:
    text = ledger.run(version.run_id).tags.get("slimline.text_digest", "")
    known: frozenset[str] | None = now if text == text_digest else None
    if known is None and (told := ledger.file(version.run_id, DOCUMENTS)) is not None:
        known = document_digests.read(told)
    count = None if known is None else len(known)
    seen = Seen(name=version.name, version=version.version, why=why, text_digest=text, documents=count)
    return seen, known or frozenset()


@network_task(
    "fetch-new-{choice.source}-{choice.training_blocks}x{choice.block_tokens}",
    cache_policy=StageKey(stage="fetch-new", modules=("tasks.news", "tasks.fetch", "tasks.adapters.document_digests")),
)
def fetch_new(choice: DataChoice, data: DataText, tokenizer: ModelRef, news: News, held_out_share: float) -> DatasetRef:
    """Cut the text into blocks, new documents first among those that are learnt from.

    Unlike ``fetch``, a document's split is decided by its own text: one that was held out for an earlier version is
    never learnt from, nor is one held out that an earlier version has learnt.

    Raises:
        RefusedData: a split's documents have too few tokens.
    """
    store = Store(settings().store)
    text = text_again(choice, data.text)
    new = document_digests.read((store.open(news.uri, news.digest) / NEW).read_text(encoding="utf-8"))
    dealt = document_digests.pools(text.documents, new, choice.seed, held_out_share)
    how = dealing_of(choice, data, tokenizer)
    held_out = dealt.evaluation if how.held_out is None else how.held_out
    parts = {"evaluation": held_out, "calibration": dealt.calibration, "training": dealt.training}
    for split, documents in parts.items():
        if not documents:
            raise RefusedData(
                f"no document fell to the {split} split",
                observed=f"{len(text.documents)} documents in all, held-out share {held_out_share:.0%}",
                limit="at least one for each split",
                remedy="give more documents, or another retraining.held_out_share",
            )
    folder = store.open(tokenizer.uri, tokenizer.digest)
    splits = cut_blocks(
        dealt.calibration,
        folder / "tokenizer.json",
        vocabulary=int(json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"]),
        block_tokens=choice.block_tokens,
        calibration=choice.calibration_blocks,
        training=choice.training_blocks,
        evaluation=choice.evaluation_blocks,
        seed=choice.seed,
        how=replace(how, held_out=held_out, to_learn=dealt.training, shuffle=False),
    )
    with store.draft("datasets") as draft:
        draft.made_from = {"text": data.model_dump(), "tokenizer": tokenizer.digest, "choice": choice.model_dump(),
                           "new": news.digest, "held_out_share": held_out_share}  # fmt: skip
        card = write_dataset(draft.path, splits, text, seed=choice.seed)
    return ref_of(draft.stored, text, card)


def skip(registered_name: str, reason: str, news: News | None = None) -> State[Skipped]:
    """End the flow here, well and under a name of its own: on the run page, as its state, and as its result."""
    skipped = Skipped(registered_name=registered_name, reason=reason, news=news)
    create_markdown_artifact(skipped_markdown(skipped), key="skipped", description=reason)
    return Completed(name="Skipped", message=reason, data=skipped)
