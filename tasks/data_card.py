"""A run's data card: what the text is, what became of its documents, and what they look like."""

from __future__ import annotations

from tasks.adapters.labels import FOLDER, MOST, Runs, totals
from tasks.adapters.tokens import Account
from tasks.captured import is_captured
from tasks.contracts import DatasetRef
from tasks.data_contracts import DataText, TextRef
from tasks.evidence_tables import fenced
from tasks.recipes import DataChoice


def data_card(
    choice: DataChoice, data: DataText, blocks: DatasetRef, account: Account | None, marked: Runs = ()
) -> str:
    """The card in Markdown; ``account`` is none for blocks that an older version made. ``marked``: (label, tokens) of
    the held-out documents.
    """
    lines = [f"# Data: {data.text.name}", "", *_source("Text", choice, data.text)]
    apart = choice.held_out()
    if data.held_out is not None and apart is not None:
        lines += _source("Held-out text", apart, data.held_out)
    lines += ["", "| split | blocks | tokens | documents |", "|---|---|---|---|"]
    for split in ("calibration", "training", "evaluation"):
        count = getattr(blocks, f"{split}_blocks")
        documents = f"{getattr(account, f'{split}_documents'):,}" if account else "–"
        lines.append(f"| {split} | {count:,} | {count * blocks.block_tokens:,} | {documents} |")
    lines += ["", f"- Blocks of {blocks.block_tokens} tokens, {_packing(choice)}; dealt by seed {choice.seed}"]
    if choice.label:
        marks = "the first folder of its file" if choice.label == FOLDER else f"the field `{choice.label}`"
        lines += [f"- Labels: {marks}. Held-out tokens by label: {_by_label(marked)}"]
    if account is not None:
        lines += _account(choice, account)
    lines += [f"- Digest of the blocks: `{blocks.digest}`"]
    if account is not None and account.samples:
        lines += ["", "## Documents", ""]
        lines += [line for sample in account.samples for line in (*fenced(sample), "")]
    return "\n".join(lines).rstrip() + "\n"


def _source(title: str, choice: DataChoice, text: TextRef) -> list[str]:
    which = "newest" if is_captured(choice.source) else "first"
    more = f", the {which} ones of more (data.most_documents = {choice.most_documents:,})" if text.cut else ""
    return [
        f"- {title}: `{choice.source}`" + (f", revision `{text.revision}`" if text.revision else ""),
        f"- Licence: {text.licence}",
        f"- A document is {text.unit or 'a text of the source'}; {text.documents:,} different ones{more}, "
        f"{text.duplicates:,} exact duplicates dropped",
        *([f"- Left out: {text.left_out}"] if text.left_out else []),
        f"- Digest of its documents: `{text.digest}`",
    ]


def _packing(choice: DataChoice) -> str:
    if choice.packing == "whole":
        return "each the beginning of one document"
    return "documents one after the other with the end-of-text token between them"


def _by_label(marked: Runs) -> str:
    every = totals(marked)
    said = [f"{label} {count:,}" for label, count in every[:MOST]]
    rest = f", and {len(every) - MOST:,} other labels" if len(every) > MOST else ""
    return f"{', '.join(said) or 'none'}{rest}"


def _account(choice: DataChoice, account: Account) -> list[str]:
    near = f" and {account.near:,} near ones (from {choice.near_duplicates:.0%} on)" if choice.near_duplicates else ""
    short = f"; {account.too_short:,} left out as shorter than a block" if account.too_short else ""
    return [
        f"- Of {account.looked_at:,} documents looked at, {account.same:,} of the same words as another{near} were "
        f"dropped{short}",
        f"- Leakage: {account.leaked:.2%} of the held-out documents' 13-word sequences stand in calibration or "
        f"training documents ({account.leaked_documents:,} of {account.evaluation_documents:,} documents); at most "
        f"{choice.max_leakage:.0%} is allowed",
        f"- Tokenizer: {account.bytes_a_token:.2f} bytes a token, {account.unknown:.2%} unknown tokens, "
        f"{account.words_back:.1%} of the words come back",
    ]
