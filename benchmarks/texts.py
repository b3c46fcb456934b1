"""What a text costs before anything is computed on it: ``python -m benchmarks.texts``.

Over the 10,033 introductions of ``wiki-leads``: reading them, looking for near duplicates, and comparing halves for
leakage, each in milliseconds a document. ``planted``: each document is copied with one word in a hundred changed; how
many copies are near duplicates by an exact comparison, and how many were found. ``--quick`` takes documents that ship
with Python.
"""

from __future__ import annotations

import argparse
import json
import random
import time

from tasks.adapters.duplicates import SHINGLE, Duplicates, leakage, sequences, words_in
from tasks.adapters.texts import read_text
from tasks.settings import settings

LEAST = 0.8


def main() -> None:
    parser = argparse.ArgumentParser(description="Milliseconds a document of reading, near duplicates and leakage.")
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    parser.add_argument("--quick", action="store_true", help="the text that ships with Python, in seconds")
    options = parser.parse_args()
    source = "python-docs" if options.quick else "wiki-leads"
    began = time.perf_counter()
    documents = list(read_text(source, settings().downloads).documents)
    show(options.json, "read", documents, began)
    documents = documents[:: 5 if options.quick else 1]

    began, seen = time.perf_counter(), Duplicates(LEAST)
    for document in documents:
        seen.seen(document)
    show(options.json, "near duplicates", documents, began)

    began = time.perf_counter()
    leakage(documents[::2], documents[1::2])
    show(options.json, "leakage", documents, began)

    long = [document for document in documents if len(words_in(document)) >= 40]
    copies = [copied(document, seed) for seed, document in enumerate(long)]
    expected = sum(similarity(one, other) >= LEAST for one, other in zip(long, copies, strict=True))
    found = sum(seen.seen(copy) for copy in copies)
    row = {"what": "planted", "copies": len(copies), "exact": expected, "found": found}
    print(json.dumps(row) if options.json else f"planted: {found} of {expected} found, {len(copies)} copies")


def copied(text: str, seed: int) -> str:
    """``text`` with one word in a hundred changed, at least one."""
    words, chance = text.split(), random.Random(seed)
    for place in chance.sample(range(len(words)), max(1, len(words) // 100)):
        words[place] = "changed"
    return " ".join(words)


def similarity(one: str, other: str) -> float:
    """Share of five-word sequences that both have, of all."""
    a, b = (set(sequences(words_in(text), SHINGLE).tolist()) for text in (one, other))
    return len(a & b) / len(a | b)


def show(lines: bool, what: str, documents: list[str], began: float) -> None:
    """One row: documents, and milliseconds of each."""
    each = round(1000 * (time.perf_counter() - began) / len(documents), 3)
    row = {"what": what, "documents": len(documents), "ms_a_document": each}
    print(json.dumps(row) if lines else f"{what:16}{len(documents):8,} documents{each:8.3f} ms each")


if __name__ == "__main__":
    main()
