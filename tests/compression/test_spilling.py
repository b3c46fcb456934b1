"""Hidden states in a file: the same values, the same folders, and nothing left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tasks.compression import spilling, walking
from tasks.compression.layerwise import prune_folder
from tasks.compression.resuming import Partial
from tasks.compression.spilling import HiddenStates, allocate
from tests.compression.small import blocks, write_llama


@pytest.fixture
def tokens() -> torch.Tensor:
    return blocks(6)


def mapped_files() -> set[str]:
    """Files without a name that this process maps."""
    return {line.split()[-2] for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith("(deleted)")}


def test_few_stay_in_memory_and_many_lie_in_a_file_without_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = mapped_files()
    assert allocate((4, 8), tmp_path).shape == (4, 8)
    assert mapped_files() == before
    monkeypatch.setattr(spilling, "SPILL_BYTES", 64)
    states = allocate((4, 8), tmp_path)
    assert any(str(tmp_path) in name for name in mapped_files() - before)
    assert list(tmp_path.iterdir()) == []
    states.fill_(3.0)
    assert float(states.sum()) == 96.0
    assert allocate((4, 8), None).shape == (4, 8)


def test_what_replaces_a_batch_goes_to_its_place_in_the_file() -> None:
    room = torch.arange(12.0).view(6, 2)
    batches = HiddenStates([room], on_disk=True)
    batches.cut(4)
    assert [len(batch) for batch in batches] == [4, 2]
    batches.replace(1, torch.empty(0))
    assert room[4:].tolist() == [[8.0, 9.0], [10.0, 11.0]], "letting a batch go changes nothing in the file"
    batches.replace(1, torch.full((2, 2), 7.0))
    assert room[4:].eq(7).all() and batches[1].data_ptr() == room[4:].data_ptr()


@pytest.mark.parametrize("held", [0, 1 << 30])
def test_a_pass_with_spilled_states_writes_the_same_bytes(
    tmp_path: Path, tokens: torch.Tensor, monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    source = write_llama(tmp_path / "source")
    monkeypatch.setattr(walking, "_BATCH_BYTES", 1)  # a batch a row
    monkeypatch.setattr(walking.blocks, "HELD_BYTES", held)

    def pruned(name: str) -> dict[str, bytes]:
        folder = tmp_path / name
        for _ in prune_folder(source, folder, tokens, method="sparsegpt", sparsity=0.5):
            pass
        return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}

    in_memory = pruned("memory")
    monkeypatch.setattr(spilling, "SPILL_BYTES", 64)
    assert pruned("disk") == in_memory


def test_another_process_goes_on_with_spilled_states(
    tmp_path: Path, tokens: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_llama(tmp_path / "source")

    def whole(name: str) -> list[bytes]:
        return [path.read_bytes() for path in sorted((tmp_path / name).glob("*.safetensors"))]

    for _ in prune_folder(source, tmp_path / "whole", tokens, method="sparsegpt", sparsity=0.5):
        pass
    monkeypatch.setattr(spilling, "SPILL_BYTES", 64)
    passing = prune_folder(
        source, tmp_path / "cut", tokens, method="sparsegpt", sparsity=0.5, partial=Partial(tmp_path / "partial")
    )
    for _ in range(7):  # the first block's seven layers: the second is not begun
        next(passing)
    passing.close()
    again = Partial(tmp_path / "partial")
    for _ in prune_folder(source, tmp_path / "rest", tokens, method="sparsegpt", sparsity=0.5, partial=again):
        pass
    assert again.resumed == 1
    assert whole("rest") == whole("whole")
