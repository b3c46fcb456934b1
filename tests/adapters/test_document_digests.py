"""What is new is decided by what documents say, and a document never changes sides."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tasks.adapters import document_digests as digests

DOCUMENTS = st.lists(st.text(min_size=1, max_size=8), unique=True, max_size=30)


@given(DOCUMENTS)
def test_the_list_says_which_documents_there_are_and_in_which_order(documents: list[str]) -> None:
    marks = [digests.digest_of(document) for document in documents]
    assert digests.in_order(digests.written(documents)) == tuple(marks)
    assert digests.written(documents) == digests.written(documents * 2)
    assert digests.read(digests.written(documents)) == digests.read(digests.lines(marks)) == set(marks)
    assert digests.lines(marks) == digests.lines(marks[::-1]), "what has no order is always the same file"


@given(DOCUMENTS, DOCUMENTS, st.integers(0, 3), st.floats(0.01, 0.49))
def test_documents_keep_their_pool_whatever_comes_beside_them(
    before: list[str], later: list[str], seed: int, share: float
) -> None:
    every = list(dict.fromkeys(before + later))
    first, second = digests.pools(before, (), seed, share), digests.pools(every, (), seed, share)
    for name in ("evaluation", "calibration", "training"):
        was, now = set(getattr(first, name)), set(getattr(second, name))
        assert was == now & set(before)
    assert sorted(second.evaluation + second.calibration + second.training) == sorted(every)


def test_what_is_new_is_learnt_first_and_the_share_is_held_out() -> None:
    documents = [f"document {number}" for number in range(1000)]
    new = {digests.digest_of(document) for document in documents[900:]}
    dealt = digests.pools(documents, new, 0, 0.2)
    assert 150 < len(dealt.evaluation) < 250 and 150 < len(dealt.calibration) < 250
    fresh = [digests.digest_of(document) in new for document in dealt.training]
    assert fresh == sorted(fresh, reverse=True) and 30 < sum(fresh) < 100
    assert digests.pools(documents, new, 1, 0.2).evaluation != dealt.evaluation
