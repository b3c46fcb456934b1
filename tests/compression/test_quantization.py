"""GPTQ against its plain form, grids, and zeros."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tasks.compression.hessian import BLOCK_COLUMNS, InputStatistics, inverse_factor, output_error
from tasks.compression.packing import Packing
from tasks.compression.pruning import magnitude
from tasks.compression.quantization import choose_grids, gptq, round_to_nearest
from tests.compression.conftest import correlated, random_weight

BITS = [8, 4, 3, 2]


def quantize_by_the_definition(
    weight: Tensor, statistics: InputStatistics, packing: Packing, damping: float, order: list[int]
) -> Tensor:
    """Optimal brain quantization in the given order, the Hessian of the open columns inverted for each (float64)."""
    gram = statistics.gram.double()
    gram = gram + damping * gram.diagonal().mean() * torch.eye(gram.shape[0], dtype=torch.float64)
    work = weight.double().clone()
    scales, zeros = choose_grids(weight, packing, torch.float16)
    for step, column in enumerate(order):
        scale, zero = scales[:, column // packing.group_size], zeros[:, column // packing.group_size]
        code = (work[:, column] / scale + zero).round().clamp(packing.lowest, packing.highest)
        settled = (code - zero) * scale
        open_columns = order[step:]
        inverse = torch.linalg.inv(gram[open_columns][:, open_columns])
        work[:, open_columns] -= ((work[:, column] - settled) / inverse[0, 0])[:, None] * inverse[0][None]
        work[:, column] = settled
    return work.float()


@pytest.mark.parametrize("largest_first", [True, False])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", BITS)
def test_gptq_is_the_plain_method(bits: int, symmetric: bool, largest_first: bool) -> None:
    packing = Packing(bits, 8, symmetric)
    statistics, weight = correlated(24), random_weight(6, 24)
    factor = inverse_factor(statistics, 0.01, largest_first=largest_first)
    fast = gptq(weight, factor, packing).dequantize()
    plain = quantize_by_the_definition(weight, statistics, packing, 0.01, factor.order.tolist())
    # A weight in the middle between two codes may go either way by rounding, and take the rest of its row with it.
    agreeing = (fast - plain).abs().amax(1) < 1e-3
    assert int(agreeing.sum()) >= 5


def test_gptq_is_the_plain_method_over_several_blocks_of_columns() -> None:
    packing = Packing(4, 16, True)
    statistics, weight = correlated(288), random_weight(6, 288)
    factor = inverse_factor(statistics, 0.01, largest_first=True)
    assert len(factor.order) > 2 * BLOCK_COLUMNS
    fast = gptq(weight, factor, packing).dequantize()
    plain = quantize_by_the_definition(weight, statistics, packing, 0.01, factor.order.tolist())
    agreeing = (fast - plain).abs().amax(1) < 1e-3
    assert int(agreeing.sum()) >= 5


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", BITS)
def test_gptq_beats_rounding_on_correlated_inputs(bits: int, symmetric: bool) -> None:
    packing = Packing(bits, 32, symmetric)
    statistics, weight = correlated(128), random_weight(32, 128)
    fed = gptq(weight, inverse_factor(statistics, 0.01), packing).dequantize()
    rounded = round_to_nearest(weight, packing).dequantize()
    assert output_error(weight, fed, statistics.gram) < 0.9 * output_error(weight, rounded, statistics.gram)


@settings(deadline=None, max_examples=40)
@given(
    bits=st.sampled_from(BITS),
    symmetric=st.booleans(),
    sparsity=st.floats(0.05, 0.95),
    seed=st.integers(0, 1000),
)
def test_pruned_weights_stay_exactly_zero(bits: int, symmetric: bool, sparsity: float, seed: int) -> None:
    weight = magnitude(random_weight(9, 64, seed=seed), sparsity)
    packed = gptq(weight, inverse_factor(correlated(64, seed=seed), 0.01), Packing(bits, 32, symmetric))
    assert bool((packed.dequantize()[weight == 0] == 0).all())
    assert bool(packed.zeros[weight == 0].all())


@settings(deadline=None, max_examples=40)
@given(bits=st.sampled_from(BITS), symmetric=st.booleans(), size=st.floats(1e-6, 1e4), seed=st.integers(0, 1000))
def test_the_grid_is_stored_exactly_and_near_enough(bits: int, symmetric: bool, size: float, seed: int) -> None:
    packing = Packing(bits, 32, symmetric)
    weight = size * random_weight(5, 64, seed=seed)
    packed = round_to_nearest(weight, packing)
    assert packed.scale.dtype == torch.float16
    steps = (weight - packed.dequantize()).abs() / packed.scale.float().repeat_interleave(32, dim=1)
    # Inside the grid a weight moves by at most half a step; clipped ones by what the search found worth it.
    inside = (packed.codes > packing.lowest) & (packed.codes < packing.highest)
    assert bool((steps[inside] <= 0.5001).all())


def test_a_searched_range_is_never_worse_than_the_full_one() -> None:
    packing = Packing(3, 64, True)
    values = random_weight(20, 64)
    scale, zero = choose_grids(values, packing, torch.float16)
    full = (values.abs().amax(1, keepdim=True) / packing.highest).half().float()

    def error(step: Tensor) -> Tensor:
        codes = (values / step).round().clamp(packing.lowest, packing.highest)
        return (codes * step - values).square().sum(1)

    assert bool((zero == 0).all())
    assert bool((error(scale) <= error(full) + 1e-5).all())
    assert float(error(scale).sum()) < 0.9 * float(error(full).sum())


def test_a_group_of_zeros_has_a_usable_scale() -> None:
    weight = random_weight(4, 64)
    weight[:, :32] = 0
    packed = gptq(weight, inverse_factor(correlated(64), 0.01), Packing(4, 32, False))
    assert bool((packed.scale > 0).all())
    assert bool((packed.dequantize()[:, :32] == 0).all())


def test_scales_beyond_float16_stay_float32() -> None:
    packed = round_to_nearest(1e6 * random_weight(4, 32), Packing(4, 32, True))
    assert packed.scale.dtype == torch.float32
