"""Pieces of large tensors: the same values and bytes as the whole, and batches that wait the same as those that begin
again.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.compression import blocks as block_pass
from tasks.compression import streaming, walking
from tasks.compression.checkpoint import Checkpoint
from tasks.compression.layerwise import quantize_folder
from tasks.compression.streaming import gather_rows, pieces, range_of, save_streamed, streamed
from tests.compression.small import VOCABULARY, blocks

NAMES = ("model.embed_tokens.weight", "model.norm.weight")


@pytest.fixture(params=[1, 1000, 8 << 20], ids=["a row", "a few rows", "whole"])
def checkpoint(request: pytest.FixtureRequest, llama: Path, monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    monkeypatch.setattr(streaming, "PIECE_BYTES", request.param)
    return Checkpoint(llama)


def test_pieces_are_the_tensor(checkpoint: Checkpoint) -> None:
    for name in NAMES:
        assert torch.equal(torch.cat(list(pieces(checkpoint, name))), checkpoint.tensor(name))


def test_rows_are_gathered_at_any_places(checkpoint: Checkpoint) -> None:
    places = torch.randint(0, VOCABULARY, (3, 7), generator=torch.Generator().manual_seed(0))
    table = checkpoint.tensor(NAMES[0])
    assert torch.equal(gather_rows(checkpoint, NAMES[0], places), table[places])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_streamed_file_has_the_bytes_of_the_library(
    checkpoint: Checkpoint, dtype: torch.dtype, tmp_path: Path
) -> None:
    wanted = {NAMES[0]: dtype, NAMES[1]: torch.float32}
    save_streamed(tmp_path / "a", {name: streamed(checkpoint, name, kind) for name, kind in wanted.items()})
    save_file(
        {name: checkpoint.tensor(name).to(kind) for name, kind in wanted.items()},
        tmp_path / "b",
        metadata={"format": "pt"},
    )
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_range_of_a_tensor(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "PIECE_BYTES", 1000)
    file = llama / "model.safetensors"
    tensors = load_file(file)
    tensors[NAMES[0]][50, 3] = -7e4
    tensors[NAMES[0]][0] = 0.0
    tensors[NAMES[1]][5] = float("nan")
    for path in llama.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    save_file(tensors, tmp_path / file.name)
    checkpoint = Checkpoint(tmp_path)
    assert range_of(checkpoint, NAMES[0]).largest == 7e4
    assert range_of(checkpoint, NAMES[0]).zeros == pytest.approx(1 / VOCABULARY)
    assert range_of(checkpoint, NAMES[1]).largest != range_of(checkpoint, NAMES[1]).largest


def test_batches_that_pause_give_what_batches_that_begin_again_give(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walking, "_BATCH_BYTES", 1)
    recipe = {"method": "gptq", "bits": 4, "group_size": 32, "symmetric": True, "damping": 0.01}
    list(quantize_folder(llama, tmp_path / "pausing", blocks(6), **recipe))
    monkeypatch.setattr(block_pass, "HELD_BYTES", 0)
    list(quantize_folder(llama, tmp_path / "again", blocks(6), **recipe))
    for file in (tmp_path / "pausing").glob("*.safetensors"):
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()
