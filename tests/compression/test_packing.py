"""What is packed comes back, and the configuration says what was packed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tasks.compression.packing import PackedLinear, Packing, read_packed
from tasks.errors import RefusedModel

PACKINGS = st.builds(Packing, st.sampled_from([2, 3, 4, 8]), st.sampled_from([8, 32, 64]), st.booleans())


class Held(dict[str, Tensor]):
    def tensor(self, name: str) -> Tensor:
        return self[name]


def random_packed(packing: Packing, rows: int, groups: int, seed: int) -> PackedLinear:
    generator = torch.Generator().manual_seed(seed)

    def codes(*shape: int) -> Tensor:
        return torch.randint(packing.lowest, packing.highest + 1, shape, generator=generator).to(torch.int8)

    scale = (torch.rand(rows, groups, generator=generator) + 0.01).to(torch.float16)
    zero = None if packing.symmetric else codes(rows, groups)
    columns = groups * packing.group_size
    return PackedLinear(codes(rows, columns), scale, zero, packing.bits, packing.group_size, packing.symmetric)


@settings(deadline=None, max_examples=60)
@given(packing=PACKINGS, rows=st.integers(1, 40), groups=st.integers(1, 5), seed=st.integers(0, 1000))
def test_packed_tensors_come_back_as_they_were(packing: Packing, rows: int, groups: int, seed: int) -> None:
    packed = random_packed(packing, rows, groups, seed)
    read = read_packed(Held(packed.to_tensors("layer")), "layer", packing)
    assert torch.equal(read.codes, packed.codes)
    assert torch.equal(read.dequantize(), packed.dequantize())


@given(packing=PACKINGS)
def test_the_configuration_says_what_was_packed(packing: Packing) -> None:
    assert Packing.from_config({"quantization_config": packing.to_config()}) == packing


def test_packed_words_hold_the_bits_that_they_promise() -> None:
    packed = random_packed(Packing(3, 32, True), rows=8, groups=4, seed=0).to_tensors("layer")
    assert packed["layer.weight_packed"].shape == (8, 128 * 3 // 32)


def test_dequantize_is_code_minus_zero_point_times_scale() -> None:
    packed = random_packed(Packing(4, 8, False), rows=3, groups=2, seed=5)
    weight = packed.dequantize()
    assert packed.zero_point is not None
    for row, column in ((0, 0), (1, 7), (2, 8), (2, 15)):
        code, zero = int(packed.codes[row, column]), int(packed.zero_point[row, column // 8])
        assert weight[row, column] == (code - zero) * packed.scale[row, column // 8].float()


def test_a_damaged_scale_is_refused() -> None:
    packing = Packing(4, 32, True)
    tensors = random_packed(packing, rows=4, groups=2, seed=0).to_tensors("layer")
    tensors["layer.weight_scale"][2, 1] = torch.nan
    with pytest.raises(RefusedModel, match="scales of layer are damaged"):
        read_packed(Held(tensors), "layer", packing)


def test_other_quantized_formats_are_refused() -> None:
    with pytest.raises(RefusedModel, match="gptq"):
        Packing.from_config({"quantization_config": {"quant_method": "gptq", "bits": 4}})
