"""Which documents a text has, by what they say: to find what is new, and to hold out the same ones for ever.

Where a document lies in the file, when the file was written and what else is in it play no part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

_HEX = 16  # 64 bits: among two million documents two different ones share a digest with probability 1e-7


def digest_of(document: str) -> str:
    """The first 16 hex digits of SHA-256 of the document's text."""
    return hashlib.sha256(document.encode("utf-8", "surrogatepass")).hexdigest()[:_HEX]


def written(documents: Iterable[str]) -> str:
    """The digests of the documents as a file: one a line, in their order, each once."""
    return "".join(f"{digest}\n" for digest in dict.fromkeys(map(digest_of, documents)))


def lines(digests: Iterable[str]) -> str:
    """Digests that have no order as such a file: sorted, each once."""
    return "".join(f"{digest}\n" for digest in sorted(set(digests)))


def read(text: str) -> frozenset[str]:
    """The digests of such a file."""
    return frozenset(text.split())


def in_order(text: str) -> tuple[str, ...]:
    """As ``read``, in the order of the documents; runs of earlier versions have it sorted."""
    return tuple(text.split())


@dataclass(frozen=True)
class Pools:
    """Documents by what they may be used for. A document's pool depends on its own text, the seed and the share."""

    evaluation: tuple[str, ...]
    calibration: tuple[str, ...]
    training: tuple[str, ...]


def pools(documents: Sequence[str], new: Collection[str], seed: int, held_out_share: float) -> Pools:
    """Deal ``documents`` out, each by a number in [0, 1) that is drawn from its text and the seed.

    Numbers below ``held_out_share`` are held out, as many above that are for calibration, and the rest is learnt from:
    when documents come and go, none changes sides. Within a pool they stand in the order of their numbers; among those
    to learn from, the ones whose digest is in ``new`` come first, for blocks may end before the documents do.
    """
    fresh = frozenset(new)
    drawn = sorted((_number(document, seed), document) for document in documents)

    def between(low: float, high: float) -> list[str]:
        return [document for number, document in drawn if low <= number < high]

    training = between(2 * held_out_share, 1.0)
    training.sort(key=lambda document: digest_of(document) not in fresh)  # stable
    return Pools(
        evaluation=tuple(between(0.0, held_out_share)),
        calibration=tuple(between(held_out_share, 2 * held_out_share)),
        training=tuple(training),
    )


def _number(document: str, seed: int) -> float:
    drawn = hashlib.sha256(f"{seed}:{digest_of(document)}".encode()).digest()
    return float(int.from_bytes(drawn[:6]) / 2**48)
