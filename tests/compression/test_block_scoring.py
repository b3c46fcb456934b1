"""Block by block: parts are what the whole is, to the last bit; slices are parts of it; what is written is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.compression.block_scoring import quality, score_blocks
from tasks.compression.items import (
    BASELINE,
    CANDIDATE,
    Item,
    Scores,
    SliceSums,
    joined,
    read_scores,
    slice_change,
    slice_totals,
    write_scores,
)
from tasks.compression.loading import load_for_compute
from tasks.compression.paired import PairedMean
from tasks.compression.scoring import Scored, TorchScored
from tasks.compression.slices import slices
from tests.compression.small import blocks, quantize, write_llama

END = 2


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scored]:
    home = tmp_path_factory.mktemp("blocks")
    write_llama(home / "teacher")
    quantize(home / "teacher", home / "packed")
    return {
        CANDIDATE: TorchScored(load_for_compute(home / "packed")),
        BASELINE: TorchScored(load_for_compute(home / "teacher")),
    }


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    made = blocks(7, 150, seed=5)  # more than one chunk a block
    made[:, [40, 120, 130]] = END
    return made


@pytest.fixture(scope="module")
def whole(forms: dict[str, Scored], tokens: torch.Tensor) -> Scores:
    return score_blocks(forms, tokens, end=END)


def test_parts_in_any_order_are_the_whole(forms: dict[str, Scored], tokens: torch.Tensor, whole: Scores) -> None:
    parts = [score_blocks(forms, tokens[first:last], first=first, end=END) for first, last in ((5, 7), (0, 2), (2, 5))]
    together = joined(parts)
    assert together.items == whole.items
    assert (together.token_kl[CANDIDATE] == whole.token_kl[CANDIDATE]).all()
    assert quality(together, CANDIDATE, 1) == quality(whole, CANDIDATE, 1)


def test_what_is_written_is_read_to_the_last_bit(whole: Scores, tmp_path: Path) -> None:
    write_scores(tmp_path, whole)
    back = read_scores(tmp_path)
    assert back.items == whole.items and quality(back, CANDIDATE, 1) == quality(whole, CANDIDATE, 1)


def test_flips_accuracy_and_the_tail_of_kl(whole: Scores) -> None:
    now, was = quality(whole, CANDIDATE, 1), quality(whole, BASELINE, 1)
    assert was.flip_rate == was.kl == was.kl_p99 == 0.0 and was.agreement == 1.0
    lost, won = (whole.sums(CANDIDATE, lambda each, name=name: getattr(each, name)).sum() for name in ("lost", "won"))
    assert now.flip_rate == pytest.approx((lost + won) / now.tokens)
    assert now.accuracy is not None and was.accuracy is not None
    assert now.accuracy - was.accuracy == pytest.approx((won - lost) / now.tokens)
    assert now.flip_rate is not None and now.flip_rate <= 1 - now.agreement, "a flip is another token"
    assert now.kl_p99 is not None and now.kl_p99 > 3 * now.kl
    assert whole.token_kl[CANDIDATE].mean() == pytest.approx(now.kl, rel=1e-5)


def test_slices_by_document_and_by_place_share_out_all_positions(whole: Scores) -> None:
    totals = slice_totals(whole.items)
    by_place = {name: sums for name, sums in totals.items() if "document" not in name}
    by_document = {name: sums for name, sums in totals.items() if "document" in name}
    for group in (by_place, by_document):
        assert sum(sums.positions for sums in group.values()) == 7 * 149
        wanted = whole.sums(CANDIDATE, lambda sums: sums.nll).sum()
        assert sum(sums.candidate_nll for sums in group.values()) == pytest.approx(wanted)


def test_a_slice_has_the_interval_of_the_blocks_that_it_stands_in() -> None:
    """Of ten blocks, each with its own change, the slice stands in four: the other six say nothing of it."""
    changes = [0.1, 0.2, 0.3, 0.4] + [9.0] * 6
    items = [
        Item(number, 10, {}, {"here" if number < 4 else "there": SliceSums(10, 20.0, 20.0 + 10 * change, 9)})
        for number, change in enumerate(changes)
    ]
    found, alone = slice_change(items, "here"), PairedMean(changes[:4])
    assert found.value == pytest.approx(0.25)
    assert (found.lower(0.95), found.upper(0.95)) == pytest.approx((alone.lower(0.95), alone.upper(0.95)))
    assert slice_change(items[:1], "here").upper(0.95) is None, "one block has no spread"


def test_slices_by_label_are_those_of_the_predicted_tokens(forms: dict[str, Scored], tokens: torch.Tensor) -> None:
    left = np.zeros((2, 150), dtype=bool)
    left[0] = left[1, :30] = True
    labels = {"left": left, "right": ~left}
    totals = slice_totals(score_blocks(forms, tokens[:2], end=END, labels=labels).items)
    plain = score_blocks(forms, tokens[:2], end=END)
    assert {name: sums.positions for name, sums in totals.items() if "label" in name} == {
        "label left": 149 + 29, "label right": 120,
    }  # fmt: skip
    whole = plain.sums(CANDIDATE, lambda sums: sums.nll).sum()
    assert totals["label left"].candidate_nll + totals["label right"].candidate_nll == pytest.approx(whole)
    first = score_blocks(forms, tokens[:1], end=END).sums(BASELINE, lambda sums: sums.nll)[0]
    assert totals["label left"].baseline_nll > first
    assert not [name for name in slice_totals(plain.items) if "label" in name]


def test_a_document_is_as_long_as_what_stands_between_its_ends() -> None:
    block = torch.full((300,), 5)
    block[[9, 109, 119]] = END  # cut at 0 to 9; 100 tokens; 10 tokens; cut to the block's edge
    found = {name: int(mask.sum()) for name, mask in slices(block, END).items()}
    assert found == {
        "first 64 tokens of a block": 64,
        "after 64 tokens": 235,
        "documents that a block's edge cuts": 9 + 180,
        "whole documents of 1 to 63 tokens": 10,
        "whole documents of 64 to 127 tokens": 100,
    }
    assert "document" not in "".join(slices(block, None))
