"""Every architecture that has an entry: the engine's pass is the model's own, and what is written is read again."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tasks.compression.architectures import supported
from tasks.compression.checkpoint import Checkpoint, check_supported, describe
from tasks.compression.decoder import Decoder
from tasks.compression.hessian import InputStatistics
from tasks.compression.layerwise import compress_folder, prune_folder, quantize_folder
from tasks.compression.transforms import Changed
from tests.compression.families import DECODERS, ENCODERS, FAMILIES, model_of, write_family
from tests.compression.small import blocks

TRANSPOSED = ("gpt2",)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Read them, do not write to them."""
    root = tmp_path_factory.mktemp("families")
    return {family: write_family(family, root / family.replace(" ", "-")) for family in FAMILIES}


@torch.no_grad()
def answers(folder: Path, tokens: Tensor) -> Tensor:
    """Every logit that the model gives, in one matrix."""
    output = model_of(folder)(tokens, return_dict=True)
    return torch.cat([value.flatten(1) for key, value in output.items() if key.endswith("logits")], dim=1)


@dataclass(frozen=True)
class Nothing:
    """A transform that changes no weight."""

    method: str = "nothing"
    packing: None = None
    others: None = None

    def apply(self, prefix: str, weight: Tensor, statistics: InputStatistics, stored: torch.dtype) -> Changed:
        return Changed(weight, {f"{prefix}.weight": weight.clone()}, 32.0, None)


def test_every_supported_name_has_a_family_here() -> None:
    assert {name for name, _, _ in FAMILIES.values()} == set(supported())


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_block_by_block_is_the_model(folders: dict[str, Path], family: str) -> None:
    """After every block, on rows longer than the sliding windows."""
    tokens, checkpoint = blocks(3, seed=4), Checkpoint(folders[family])
    model, wanted = model_of(folders[family]), []
    for block in model.get_submodule(checkpoint.architecture.blocks):
        block.register_forward_hook(lambda module, given, output: wanted.append(output))
    model(tokens)
    decoder = Decoder(checkpoint)
    states, calls = decoder.embed(tokens), decoder.calls(tokens.shape[1])
    assert len(calls) == len(wanted) == checkpoint.blocks
    for index, expected in enumerate(wanted):
        states = calls[index](decoder.take_block(index), states)
        torch.testing.assert_close(states, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pass_that_changes_nothing_writes_the_model_again(
    folders: dict[str, Path], family: str, tmp_path: Path
) -> None:
    tokens, source = blocks(2, seed=9), folders[family]
    list(compress_folder(Checkpoint(source), Nothing(), tmp_path / "out", blocks(3)))
    assert torch.equal(answers(tmp_path / "out", tokens), answers(source, tokens))
    assert describe(tmp_path / "out").parameters == describe(source).parameters
    model = model_of(source)
    assert describe(source).parameters == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_pruned_and_packed_folders_are_read_by_plain_transformers(
    folders: dict[str, Path], family: str, tmp_path: Path
) -> None:
    tokens, pruned, packed = blocks(2, seed=9), tmp_path / "pruned", tmp_path / "packed"
    reports = list(prune_folder(folders[family], pruned, blocks(4), method="sparsegpt", sparsity=0.2))
    assert [report.sparsity for report in reports] == pytest.approx([0.2] * len(reports), abs=1e-2)
    assert 0.005 < apart(pruned, folders[family], tokens) < 1
    if family in TRANSPOSED:
        return
    list(quantize_folder(pruned, packed, blocks(4), method="gptq", bits=8, group_size=32))
    assert describe(packed).bits == 8.0
    assert describe(packed).sparsity >= 0.2
    assert 0 < apart(packed, pruned, tokens) < 0.02


def apart(folder: Path, other: Path, tokens: Tensor) -> float:
    """Relative square difference of all logits."""
    wanted = answers(other, tokens)
    return float((answers(folder, tokens) - wanted).square().mean() / wanted.var())
