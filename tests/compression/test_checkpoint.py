"""A folder's facts are its files', and what cannot be compressed is refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tasks.compression.checkpoint import Checkpoint, check_supported, linear_count
from tasks.compression.folder_facts import describe
from tasks.compression.writing import FolderWriter
from tasks.errors import Refused, RefusedModel
from tests.compression.small import LINEARS, prune, quantize


@pytest.fixture
def copy(llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(llama, tmp_path / "copy"))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_facts_of_a_dense_folder(llama: Path) -> None:
    facts = describe(llama)
    model = AutoModelForCausalLM.from_pretrained(llama)
    assert facts.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert facts.bytes == sum(path.stat().st_size for path in llama.iterdir())
    assert (facts.architecture, facts.dtype, facts.sparsity, facts.bits) == ("LlamaForCausalLM", "float32", 0.0, 32.0)
    assert linear_count(llama) == len(LINEARS)


def test_facts_of_a_compressed_folder(llama: Path, tmp_path: Path) -> None:
    dense = describe(llama)
    packed = describe(quantize(prune(llama, tmp_path / "pruned", 0.5), tmp_path / "packed", bits=3))
    assert (packed.parameters, packed.dtype, packed.bits) == (dense.parameters, "float16", 3.0)
    assert packed.sparsity >= 0.5
    assert packed.bytes < 0.5 * dense.bytes


def test_a_tied_head_that_is_stored_twice_counts_once(copy: Path) -> None:
    before = describe(copy).parameters
    tensors = load_file(copy / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    assert describe(copy).parameters == before
    assert "lm_head.weight" not in Checkpoint(copy).outer_names()


def test_an_unknown_architecture_is_refused(copy: Path) -> None:
    edit(copy / "config.json", architectures=["BloomForCausalLM"])
    with pytest.raises(RefusedModel, match="BloomForCausalLM"):
        check_supported(copy)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_of_the_models_own_is_refused(copy: Path, file: str) -> None:
    edit(copy / file, auto_map={"AutoModelForCausalLM": "modeling.Mine"})
    with pytest.raises(RefusedModel, match="code of its own"):
        check_supported(copy)


def test_pickled_weights_are_refused_unopened(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(b"never read")
    with pytest.raises(RefusedModel, match=r"pytorch_model\.bin"):
        check_supported(copy)


def test_a_missing_tokenizer_is_refused(copy: Path) -> None:
    (copy / "tokenizer.json").unlink()
    with pytest.raises(RefusedModel, match=r"tokenizer\.json"):
        check_supported(copy)


def test_a_cut_shard_is_refused(copy: Path) -> None:
    whole = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RefusedModel, match=r"model\.safetensors cannot be read"):
        check_supported(copy)


def test_a_missing_shard_is_refused(llama: Path, tmp_path: Path) -> None:
    folder = prune(llama, tmp_path / "pruned")
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(RefusedModel, match="model-00002"):
        check_supported(folder)


def test_a_missing_tensor_is_refused(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RefusedModel, match=r"model\.layers\.1\.mlp\.up_proj"):
        check_supported(copy)


def test_shards_are_one_a_block_and_config_is_last(llama: Path, tmp_path: Path) -> None:
    folder = prune(llama, tmp_path / "pruned")
    shards = sorted(path.name for path in folder.glob("*.safetensors"))
    assert shards == [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    assert set(load_file(folder / shards[2])) == {"model.embed_tokens.weight", "model.norm.weight"}
    times = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert times["config.json"] == max(times.values())
    assert (folder / "tokenizer.json").read_bytes() == (llama / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("existed", [True, False])
def test_a_write_that_fails_leaves_nothing(llama: Path, tmp_path: Path, existed: bool) -> None:
    folder = tmp_path / "out"
    if existed:
        folder.mkdir()
    with pytest.raises(KeyboardInterrupt), FolderWriter(Checkpoint(llama), folder) as writer:
        writer.write_block(0, {"model.layers.0.x": torch.ones(2)})
        raise KeyboardInterrupt
    assert folder.exists() == existed
    assert not (existed and list(folder.iterdir()))


def test_a_folder_with_files_is_not_written_into(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(FileExistsError), FolderWriter(Checkpoint(llama), tmp_path):
        pass
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_refusals_are_refusals(copy: Path) -> None:
    (copy / "config.json").write_text("{")
    with pytest.raises(Refused):
        check_supported(copy)
