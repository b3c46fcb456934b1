"""What of a text is new since the last version, and blocks of it to train, calibrate and measure on.

Decided by the digests of the documents that stand with each version's run in MLflow, never by a file's time.
"""

from __future__ import annotations

import json

from prefect.artifacts import create_markdown_artifact
from prefect.states import Completed, State

from tasks.adapters import document_digests
from tasks.adapters.lineage_books import VersionFacts
from tasks.adapters.store import Store
from tasks.adapters.tokens import TokenSplits, cut_blocks, write_dataset
from tasks.caching import StageKey
from tasks.contracts import DatasetRef, ModelRef
from tasks.errors import RefusedData
from tasks.fetch import ref_of, text_again
from tasks.lineage import books
from tasks.provenance import DOCUMENTS
from tasks.recipes import DataChoice
from tasks.register import registry
from tasks.retraining import News, Retrained, Seen, Skipped, news_markdown, skipped_markdown
from tasks.retrying import network_task
from tasks.settings import settings

NEW = "new.txt"


@network_task("look-for-new-{choice.source}")
def look_for_new(choice: DataChoice, text_digest: str, name: str, minimum: int) -> News:
    """Compare the text as it is now with what the champion and the newest version of ``name`` were made with.

    The newest counts too: text that a version has been made from, and that was then taken back, is not new.
    """
    now = document_digests.read(document_digests.written(text_again(choice, text_digest).documents))
    seen, known = _seen(name, text_digest, now)
    new = now - known
    with Store(settings().store).draft("news") as draft:
        draft.made_from = {"text": text_digest, "seen": [each.title for each in seen]}
        (draft.path / NEW).write_text(document_digests.lines(new), encoding="utf-8")
    news = News(
        uri=draft.stored.uri, digest=draft.stored.digest, text_digest=text_digest, source=choice.source,
        documents=len(now), new=len(new), minimum=minimum, seen=seen,
    )  # fmt: skip
    create_markdown_artifact(news_markdown(news), key="new-data", description=news.sentence)
    return news


def _seen(name: str, text_digest: str, now: frozenset[str]) -> tuple[tuple[Seen, ...], frozenset[str]]:
    """The versions that are asked, and every document that one of them was made with."""
    entries = registry()
    numbers = {"champion": entries.champion(name), "newest": entries.newest(name)}
    if numbers["newest"] == numbers["champion"]:
        del numbers["newest"]
    seen, known = [], frozenset[str]()
    for alias, number in numbers.items():
        if number is not None:
            each, theirs = _documents_of(books().version(name, number), alias, text_digest, now)
            seen.append(each)
            known |= theirs
    return tuple(seen), known


def _documents_of(
    version: VersionFacts, alias: str, text_digest: str, now: frozenset[str]
) -> tuple[Seen, frozenset[str]]:
    ledger = books()
    text = ledger.run(version.run_id).tags.get("slimline.text_digest", "")
    known: frozenset[str] | None = now if text == text_digest else None
    if known is None and (told := ledger.file(version.run_id, DOCUMENTS)) is not None:
        known = document_digests.read(told)
    count = None if known is None else len(known)
    seen = Seen(name=version.name, version=version.version, alias=alias, text_digest=text, documents=count)
    return seen, known or frozenset()


@network_task(
    "fetch-new-{choice.source}-{choice.training_blocks}x{choice.block_tokens}",
    cache_policy=StageKey(
        stage="fetch-new",
        modules=("tasks.news", "tasks.adapters.tokens", "tasks.adapters.texts", "tasks.adapters.document_digests"),
    ),
)
def fetch_new(
    choice: DataChoice, text_digest: str, tokenizer: ModelRef, news: News, held_out_share: float
) -> DatasetRef:
    """Cut the text into blocks, new documents first among those that are learnt from.

    Unlike ``fetch``, a document's split is decided by its own text: one that was held out for an earlier version is
    never learnt from, nor is one held out that an earlier version has learnt.

    Raises:
        RefusedData: a split's documents have too few tokens.
    """
    store = Store(settings().store)
    text = text_again(choice, text_digest)
    new = document_digests.read((store.open(news.uri, news.digest) / NEW).read_text(encoding="utf-8"))
    dealt = document_digests.pools(text.documents, new, choice.seed, held_out_share)
    folder = store.open(tokenizer.uri, tokenizer.digest)
    vocabulary = int(json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"])

    def cut(split: str, documents: tuple[str, ...], blocks: int) -> TokenSplits:
        if not documents:
            raise RefusedData(
                f"no document fell to the {split} split", observed=f"{len(text.documents)} documents in all",
                limit=f"at least one of them, at a held-out share of {held_out_share:.0%}",
                remedy="give more documents, or raise retraining.held_out_share",
            )  # fmt: skip
        wanted = {each: blocks if each == split else 0 for each in ("calibration", "training", "evaluation")}
        return cut_blocks(
            documents, folder / "tokenizer.json", vocabulary=vocabulary, block_tokens=choice.block_tokens, seed=None,
            **wanted,
        )  # fmt: skip

    held_out = cut("evaluation", dealt.evaluation, choice.evaluation_blocks)
    splits = TokenSplits(
        calibration=cut("calibration", dealt.calibration, choice.calibration_blocks).calibration,
        training=cut("training", dealt.training, choice.training_blocks).training,
        evaluation=held_out.evaluation,
        prompts=held_out.prompts,
    )
    with store.draft("datasets") as draft:
        draft.made_from = {"text": text_digest, "tokenizer": tokenizer.digest, "choice": choice.model_dump(),
                           "new": news.digest, "held_out_share": held_out_share}  # fmt: skip
        card = write_dataset(draft.path, splits, text, seed=choice.seed)
    return ref_of(draft.stored, text, card)


def skip(registered_name: str, reason: str, news: News | None = None) -> State[Retrained | Skipped]:
    """End the flow here, well and under a name of its own: on the run page, as its state, and as its result."""
    skipped = Skipped(registered_name=registered_name, reason=reason, news=news)
    create_markdown_artifact(skipped_markdown(skipped), key="skipped", description=reason)
    return Completed(name="Skipped", message=reason, data=skipped)
