"""The blocked way agrees with the plain way, and repairing beats cutting."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tasks.compression.hessian import BLOCK_COLUMNS, InputStatistics, accumulate, empty, inverse_factor, output_error
from tasks.compression.pruning import Pattern, magnitude, smallest, sparsegpt, wanda
from tests.compression.conftest import correlated, random_weight


def prune_by_the_definition(
    weight: Tensor, statistics: InputStatistics, sparsity: float, damping: float, block: int
) -> Tensor:
    """Optimal brain surgeon, column by column, inverting the Hessian of the open columns each time; what is cut of each
    ``block`` columns is chosen when the first of them is reached.
    """
    gram = statistics.gram.double()
    gram = gram + damping * gram.diagonal().mean() * torch.eye(gram.shape[0], dtype=torch.float64)
    work = weight.double().clone()
    inverses = [torch.linalg.inv(gram[column:, column:]) for column in range(gram.shape[0])]
    pivots = torch.stack([inverse[0, 0] for inverse in inverses])
    for column, inverse in enumerate(inverses):
        if column % block == 0:
            part = slice(column, column + block)
            cut = smallest(work[:, part].square() / pivots[part], sparsity)
        settled = work[:, column].masked_fill(cut[:, column % block], 0.0)
        error = (work[:, column] - settled) / inverse[0, 0]
        work[:, column:] -= error[:, None] * inverse[0][None]
        work[:, column] = settled
    return work.float()


@pytest.mark.parametrize(("sparsity", "columns"), [(0.2, 24), (0.5, 24), (0.8, 24), (0.5, 2 * BLOCK_COLUMNS + 32)])
def test_sparsegpt_is_the_plain_method(sparsity: float, columns: int) -> None:
    statistics, weight = correlated(columns), random_weight(10, columns)
    fast = sparsegpt(weight, inverse_factor(statistics, 0.01), sparsity)
    plain = prune_by_the_definition(weight, statistics, sparsity, 0.01, BLOCK_COLUMNS)
    assert torch.equal(fast == 0, plain == 0)
    torch.testing.assert_close(fast, plain, rtol=1e-3, atol=1e-4)


def test_lazy_updates_change_nothing_but_the_choice_of_the_mask() -> None:
    statistics, weight = correlated(96), random_weight(16, 96)
    pruned = sparsegpt(weight, inverse_factor(statistics, 0.01), 0.5)
    factor = inverse_factor(statistics, 0.01)
    masked = weight.masked_fill(pruned == 0, 0.0)
    blocked = sparsegpt(masked, factor, 1e-9, block=16)
    whole = sparsegpt(masked, factor, 1e-9, block=96)
    torch.testing.assert_close(blocked, whole, rtol=1e-3, atol=1e-4)


def test_every_block_of_columns_has_the_sparsity() -> None:
    pruned = sparsegpt(random_weight(20, 256), inverse_factor(correlated(256), 0.01), 0.3)
    for block in pruned.split(128, dim=1):
        assert int((block == 0).sum()) == round(0.3 * block.numel())


def test_zeros_stay_zero_and_count() -> None:
    weight = magnitude(random_weight(20, 128), 0.25)
    pruned = sparsegpt(weight, inverse_factor(correlated(128), 0.01), 0.5)
    assert bool((pruned[weight == 0] == 0).all())
    assert int((pruned == 0).sum()) == round(0.5 * pruned.numel())


def test_repairing_beats_cutting_on_correlated_inputs() -> None:
    statistics, weight = correlated(128), random_weight(32, 128)
    repaired = sparsegpt(weight, inverse_factor(statistics, 0.01), 0.5)
    cut = magnitude(weight, 0.5)
    assert output_error(weight, repaired, statistics.gram) < 0.6 * output_error(weight, cut, statistics.gram)


def test_magnitude_cuts_the_smallest_and_leaves_the_rest() -> None:
    weight = torch.tensor([[0.1, -3.0, 0.5], [-0.2, 2.0, 1.0]])
    assert torch.equal(magnitude(weight, 0.5), torch.tensor([[0.0, -3.0, 0.0], [0.0, 2.0, 1.0]]))


def prune_groups_by_the_definition(
    weight: Tensor, statistics: InputStatistics, pattern: Pattern, damping: float
) -> Tensor:
    """As above; each group's cut is chosen, with the Hessians of the open columns, when its first column is reached."""
    gram = statistics.gram.double()
    gram = gram + damping * gram.diagonal().mean() * torch.eye(gram.shape[0], dtype=torch.float64)
    work = weight.double().clone()
    inverses = [torch.linalg.inv(gram[column:, column:]) for column in range(gram.shape[0])]
    for column, inverse in enumerate(inverses):
        if column % pattern.of == 0:
            group = slice(column, column + pattern.of)
            scores = work[:, group].square() / torch.stack([each[0, 0] for each in inverses[group]])
            cut = scores.argsort(1).argsort(1) < pattern.of - pattern.kept
        settled = work[:, column].masked_fill(cut[:, column % pattern.of], 0.0)
        error = (work[:, column] - settled) / inverse[0, 0]
        work[:, column:] -= error[:, None] * inverse[0][None]
        work[:, column] = settled
    return work.float()


@pytest.mark.parametrize("text", ["2:4", "4:8", "1:3"])
def test_sparsegpt_with_a_pattern_is_the_plain_method(text: str) -> None:
    pattern = Pattern.parse(text)
    assert pattern is not None
    statistics, weight = correlated(24), random_weight(40, 24)
    fast = sparsegpt(weight, inverse_factor(statistics, 0.01), pattern, block=12)
    plain = prune_groups_by_the_definition(weight, statistics, pattern, 0.01)
    torch.testing.assert_close(fast, plain, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
@pytest.mark.parametrize("text", ["2:4", "4:8", "3:16"])
def test_every_group_of_a_pattern_has_its_zeros(method: str, text: str) -> None:
    pattern = Pattern.parse(text)
    assert pattern is not None
    statistics, weight = correlated(144), random_weight(20, 144)
    weight[:, 5] = 0
    done = {
        "magnitude": lambda: magnitude(weight, pattern),
        "wanda": lambda: wanda(weight, statistics.gram.diagonal(), pattern),
        "sparsegpt": lambda: sparsegpt(weight, inverse_factor(statistics, 0.01), pattern),
    }[method]()
    zeros = (done == 0).view(20, -1, pattern.of).sum(2)
    assert bool((zeros == pattern.of - pattern.kept).all())
    assert bool((done[:, 5] == 0).all())


def test_a_pattern_keeps_all_zeros_that_were_there() -> None:
    weight = random_weight(20, 64)
    weight[:, :3] = 0
    pattern = Pattern(2, 4)
    done = sparsegpt(weight, inverse_factor(correlated(64), 0.01), pattern)
    assert bool((done[:, :3] == 0).all())
    assert bool(((done == 0).view(20, -1, 4).sum(2)[:, 1:] == 2).all())


@pytest.mark.parametrize("text", ["4:4", "0:4", "2:100", "half", "2:4:8"])
def test_what_is_no_pattern_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="n:m"):
        Pattern.parse(text)


def test_wanda_weighs_by_the_input_and_compares_within_a_row() -> None:
    weight = torch.tensor([[1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0]])
    squared = torch.tensor([100.0, 1.0, 1.0, 0.01])
    expected = torch.tensor([[1.0, 0.0, 3.0, 0.0], [10.0, 0.0, 30.0, 0.0]])
    assert torch.equal(wanda(weight, squared, 0.5), expected)


@pytest.mark.parametrize("zeros", [0.5, Pattern(2, 4)], ids=["unstructured", "2:4"])
def test_repairing_beats_weighing_beats_cutting(zeros: float | Pattern) -> None:
    statistics, weight = correlated(128), random_weight(32, 128)
    # Inputs of very different size, as real layers have them: what magnitude does not see.
    size = torch.logspace(-1, 1, 128)[torch.randperm(128, generator=torch.Generator().manual_seed(0))]
    statistics.gram.mul_(size).mul_(size[:, None])
    done = (
        sparsegpt(weight, inverse_factor(statistics, 0.01), zeros),
        wanda(weight, statistics.gram.diagonal(), zeros),
        magnitude(weight, zeros),
    )
    repaired, weighed, cut = (output_error(weight, each, statistics.gram) for each in done)
    assert repaired < 0.8 * weighed
    assert weighed < 0.8 * cut


def test_a_singular_hessian_is_damped_more_and_says_so() -> None:
    statistics = empty(64)
    accumulate(statistics, torch.randn(3, 64, generator=torch.Generator().manual_seed(0)) * 100)
    factor = inverse_factor(statistics, 1e-10)
    assert factor.damping > 1e-10
    assert "damping raised from 1e-10" in str(factor.fallback)
    assert inverse_factor(correlated(64), 0.01).fallback is None


def test_silent_input_columns_are_reported_and_harmless() -> None:
    statistics = correlated(32)
    statistics.gram[5] = 0
    statistics.gram[:, 5] = 0
    factor = inverse_factor(statistics, 0.01)
    assert factor.fallback == "1 input columns are zero on every calibration token"
    assert bool(torch.isfinite(sparsegpt(random_weight(8, 32), factor, 0.5)).all())


def test_output_error_is_that_of_the_outputs() -> None:
    inputs = torch.randn(200, 16, generator=torch.Generator().manual_seed(3))
    statistics = empty(16)
    accumulate(statistics, inputs[:120].view(2, 60, 16))
    accumulate(statistics, inputs[120:])
    weight, changed = random_weight(8, 16), random_weight(8, 16) + 0.1
    expected = (inputs @ (weight - changed).T).square().sum() / (inputs @ weight.T).square().sum()
    assert statistics.tokens == 200
    assert output_error(weight, changed, statistics.gram) == pytest.approx(float(expected), rel=1e-4)


def test_statistics_of_a_sample_keep_every_tokens_squares() -> None:
    """What Wanda needs of all tokens, and enough of H for the error in its report."""
    inputs = torch.randn(8, 256, 32, generator=torch.Generator().manual_seed(3)) * torch.arange(1, 33)
    whole, sample = empty(32), empty(32, sampled=True)
    for rows in inputs:
        accumulate(whole, rows)
        accumulate(sample, rows)
    torch.testing.assert_close(sample.squares, whole.gram.diagonal())
    assert sample.tokens == whole.tokens == 2048
    weight = random_weight(16, 32)
    cut = magnitude(weight, 0.5)
    assert not torch.allclose(sample.gram, whole.gram)
    assert output_error(weight, cut, sample.gram) == pytest.approx(output_error(weight, cut, whole.gram), rel=0.1)
