"""The GPTQ format, against a writer that follows AutoGPTQ's packing word by word."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tasks.compression.gptq_format import repack_gptq
from tasks.compression.loading import load_for_compute
from tasks.errors import RefusedModel
from tests.compression.small import LINEARS, blocks, write_llama

GROUP = 32


def _words(codes: Tensor, bits: int) -> Tensor:
    """(n, m) codes → (n · bits / 32, m) int32, low bits first, a code running over into the next word."""
    rows = []
    for column in codes.T.tolist():
        stream = sum(code << (bits * place) for place, code in enumerate(column))
        words = [(stream >> (32 * word)) & 0xFFFFFFFF for word in range(len(column) * bits // 32)]
        rows.append([word - (1 << 32) if word >> 31 else word for word in words])
    return torch.tensor(rows, dtype=torch.int32).T.contiguous()


def _write(folder: Path, bits: int, **config: object) -> dict[str, Tensor]:
    """A folder in the GPTQ format with random codes, and the weights that they stand for."""
    write_llama(folder)
    tensors = load_file(folder / "model.safetensors")
    weights, generator = {}, torch.Generator().manual_seed(bits)
    for name in LINEARS:
        rows, columns = tensors.pop(f"{name}.weight").shape
        codes = torch.randint(0, 1 << bits, (columns, rows), generator=generator)
        scales = (torch.rand(columns // GROUP, rows, generator=generator) * 0.1 + 0.01).half()
        order = torch.arange(columns, dtype=torch.int32) // GROUP
        zeros = torch.full((columns // GROUP, rows), (1 << (bits - 1)) - 1)
        tensors |= {
            f"{name}.qweight": _words(codes, bits),
            f"{name}.qzeros": _words(zeros.T, bits).T.contiguous(),
            f"{name}.scales": scales,
            f"{name}.g_idx": order,
        }
        weights[f"{name}.weight"] = (scales[order.long()] * (codes - (1 << (bits - 1)))).float().T
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    written = json.loads((folder / "config.json").read_text())
    described = {"quant_method": "gptq", "bits": bits, "group_size": GROUP, "sym": True, "format": "gptq"} | config
    (folder / "config.json").write_text(json.dumps(written | {"quantization_config": described}))
    return weights


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
def test_every_code_arrives(tmp_path: Path, bits: int) -> None:
    weights = _write(tmp_path / "gptq", bits)
    repack_gptq(tmp_path / "gptq", tmp_path / "packed")
    model = load_for_compute(tmp_path / "packed")
    for name, weight in weights.items():
        assert torch.equal(model.get_parameter(name), weight), name
    with torch.inference_mode():
        assert bool(torch.isfinite(model(input_ids=blocks(1)).logits).all())


@pytest.mark.parametrize(
    "config", [{"format": "gptq_v2"}, {"desc_act": True}, {"checkpoint_format": "marlin"}, {"group_size": -1}]
)
def test_what_would_be_read_wrongly_is_refused(tmp_path: Path, config: dict[str, object]) -> None:
    _write(tmp_path / "gptq", 4, **config)
    with pytest.raises(RefusedModel, match="GPTQ format cannot be read"):
        repack_gptq(tmp_path / "gptq", tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


def test_a_folder_saved_as_version_2_under_the_name_of_version_1_is_noticed(tmp_path: Path) -> None:
    _write(tmp_path / "gptq", 4)
    tensors = load_file(tmp_path / "gptq" / "model.safetensors")
    for name in LINEARS:  # zero points as they are, not less one
        tensors[f"{name}.qzeros"] = torch.full_like(tensors[f"{name}.qzeros"], -0x77777778)
    save_file(tensors, tmp_path / "gptq" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RefusedModel, match="zero points"):
        repack_gptq(tmp_path / "gptq", tmp_path / "packed")
