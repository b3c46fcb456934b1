"""The exported graph computes what the folder computes, from the very same integers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tasks.compression.checkpoint import Checkpoint
from tasks.compression.loading import load_for_compute
from tasks.compression.onnx_decoder import DecoderGraph, Head
from tasks.compression.onnx_export import export_onnx
from tasks.compression.onnx_graph import GraphWriter
from tasks.compression.packing import Packing
from tasks.compression.quantization import round_to_nearest
from tasks.errors import RefusedModel
from tasks.serving.onnx_session import Cache, OnnxDecoder
from tests.compression.small import LINEARS, VOCABULARY, blocks, quantize, write_tokenizer


@pytest.fixture(scope="module")
def packed(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quantize(llama, tmp_path_factory.mktemp("packed") / "int4")


def meant_logits(folder: Path, tokens: torch.Tensor) -> torch.Tensor:
    """Logits of plain transformers with weights of exactly ``code · scale`` in float32.

    What transformers loads by itself is rounded to float16 once more, which the graph does not do.
    """
    model, checkpoint = load_for_compute(folder), Checkpoint(folder)
    for name in checkpoint.architecture.all_linears(checkpoint.config):
        model.get_submodule(name).weight.data = checkpoint.linear(name)
    with torch.inference_mode():
        return model(input_ids=tokens).logits


def exported(folder: Path, into: Path, *, head: Head = "float32", accuracy_level: int = 0) -> OnnxDecoder:
    export_onnx(folder, into, head=head, accuracy_level=accuracy_level)
    return OnnxDecoder(into, 1)


def difference(observed: Any, expected: torch.Tensor) -> float:
    """Largest difference, in standard deviations of the expected logits."""
    return float((torch.as_tensor(observed) - expected).abs().max() / expected.std())


@pytest.mark.parametrize(("accuracy_level", "head", "limit"), [(0, "float32", 1e-4), (4, "float32", 0.4)])
def test_logits_are_those_of_the_folder(
    packed: Path, tmp_path: Path, accuracy_level: int, head: Head, limit: float
) -> None:
    tokens = blocks(1, 40)
    decoder = exported(packed, tmp_path / "onnx", head=head, accuracy_level=accuracy_level)
    assert difference(decoder.logits(tokens.numpy()), meant_logits(packed, tokens)) < limit


def rounded(llama: Path, folder: Path, packing: Packing, dense: tuple[str, ...] = ()) -> Path:
    """``llama`` with every linear layer rounded, but those named in ``dense``."""
    shutil.copytree(llama, folder)
    stored = load_file(llama / "model.safetensors")
    for name in LINEARS:
        if name not in dense:
            stored |= round_to_nearest(stored.pop(f"{name}.weight"), packing).to_tensors(name)
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    said = {"quantization_config": packing.to_config(("lm_head", *dense))}
    (folder / "config.json").write_text(json.dumps(config | said))
    return folder


@pytest.mark.parametrize(
    ("bits", "symmetric", "group"), [(8, True, 32), (4, False, 32), (3, True, 64), (2, False, 64), (4, True, 0)]
)
def test_every_grid_is_carried_over(llama: Path, tmp_path: Path, bits: int, symmetric: bool, group: int) -> None:
    folder = rounded(llama, tmp_path / "packed", Packing(bits, group, symmetric))
    tokens = blocks(1, 12)
    decoder = exported(folder, tmp_path / "onnx")
    assert difference(decoder.logits(tokens.numpy()), meant_logits(folder, tokens)) < 1e-4


def test_layers_that_do_not_share_a_grid_are_multiplied_one_by_one(llama: Path, tmp_path: Path) -> None:
    dense = ("model.layers.0.self_attn.v_proj", "model.layers.1.mlp.gate_proj")
    folder = rounded(llama, tmp_path / "packed", Packing(4, 32, True), dense)
    tokens = blocks(1, 12)
    shutil.copytree(folder, tmp_path / "onnx")
    with GraphWriter(tmp_path / "onnx") as graph:  # no stage writes such a folder yet, so export_onnx refuses it
        DecoderGraph(graph, Checkpoint(folder), AutoConfig.from_pretrained(folder), "float32", 0).write(
            lambda share: None
        )
        graph.save({})
    decoder = OnnxDecoder(tmp_path / "onnx", 1)
    assert difference(decoder.logits(tokens.numpy()), meant_logits(folder, tokens)) < 1e-4
    written = {node.op_type for node in onnx.load(tmp_path / "onnx" / "model.onnx").graph.node}
    assert {"FusedMatMul", "MatMulNBits", "Concat"} <= written


def test_a_tied_rounded_head_is_the_embedding_too_and_is_stored_once(packed: Path, tmp_path: Path) -> None:
    tokens = blocks(1, 12)
    rounded_head = exported(packed, tmp_path / "int8", head="int8", accuracy_level=4)
    record = json.loads((tmp_path / "int8" / "onnx.json").read_text())
    assert (record["head"], record["embedding"]) == ("int8", "the head's")
    table = {
        item.name: item
        for item in onnx.load(tmp_path / "int8" / "model.onnx", load_external_data=False).graph.initializer
    }
    assert "model.embed_tokens.weight" not in table
    offsets = [
        {entry.key: entry.value for entry in table[name].external_data}["offset"]
        for name in ("head.rows", "head.codes")
    ]
    assert offsets[0] == offsets[1]
    assert difference(rounded_head.logits(tokens.numpy()), meant_logits(packed, tokens)) < 0.4


def test_a_dense_folder_is_exported_too(llama: Path, tmp_path: Path) -> None:
    tokens = blocks(1, 12)
    decoder = exported(llama, tmp_path / "onnx")
    assert difference(decoder.logits(tokens.numpy()), meant_logits(llama, tokens)) < 1e-4


def test_the_files_integers_and_scales_are_the_folders_bit_for_bit(packed: Path, tmp_path: Path) -> None:
    export_onnx(packed, tmp_path / "onnx")
    model = onnx.load(tmp_path / "onnx" / "model.onnx")
    stored = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    checkpoint = Checkpoint(packed)
    for index in range(checkpoint.blocks):
        for together in (
            "self_attn.q_proj+k_proj+v_proj",
            "self_attn.o_proj",
            "mlp.gate_proj+up_proj",
            "mlp.down_proj",
        ):
            module, _, names = together.rpartition(".")
            layers = [checkpoint.packed(f"model.layers.{index}.{module}.{name}") for name in names.split("+")]
            blob = stored[f"model.layers.{index}.{together}.codes"]
            codes = np.stack([blob & 15, blob >> 4], axis=-1).reshape(len(blob), -1).astype(np.int16) - 8
            assert np.array_equal(codes, torch.cat([layer.codes for layer in layers if layer]).numpy())
            scales = stored[f"model.layers.{index}.{together}.scales"]
            assert np.array_equal(scales, torch.cat([layer.scale for layer in layers if layer]).float().numpy())
    assert {item.op_type for item in model.graph.node} >= {"MatMulNBits", "GroupQueryAttention"}


def test_what_was_chosen_is_recorded_and_the_head_is_what_was_chosen(packed: Path, tmp_path: Path) -> None:
    record = export_onnx(packed, tmp_path / "onnx", head="int8")
    assert record == json.loads((tmp_path / "onnx" / "onnx.json").read_text())
    assert (record["head"], record["weights"], record["accuracy_level"]) == ("int8", "int4, groups of 32", 4)
    model = onnx.load(tmp_path / "onnx" / "model.onnx")
    head = next(node for node in model.graph.node if "head.codes" in node.input)
    assert {item.name: item.i for item in head.attribute}["bits"] == 8
    stored = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    expected = round_to_nearest(Checkpoint(packed).values("model.embed_tokens.weight"), Packing(8, 32, True))
    assert np.array_equal(stored["head.codes"].reshape(VOCABULARY, -1).astype(np.int16) - 128, expected.codes.numpy())
    assert "quantization_config" not in json.loads((tmp_path / "onnx" / "config.json").read_text())
    assert (tmp_path / "onnx" / "tokenizer.json").read_bytes() == (packed / "tokenizer.json").read_bytes()


def test_steps_with_a_cache_give_what_the_whole_text_gives(packed: Path, tmp_path: Path) -> None:
    tokens = blocks(2, 30).numpy()
    decoder = exported(packed, tmp_path / "onnx")
    whole = [decoder.logits(row[None])[0] for row in tokens]
    cache = Cache(decoder, 2, 30)
    # Two rows of different lengths, one of them in two parts, then together, then only the longer one.
    cache.feed(0, tokens[:1, :5])
    cache.feed(0, tokens[:1, 5:9])
    first = [list(cache.prefill(1, tokens[1, :20]))[-1]]
    assert np.allclose(first[0], whole[1][19], atol=1e-4)
    for offset in range(8):
        step = cache.step(tokens[[0, 1], [9 + offset, 20 + offset]], np.array([True, True]))
        assert np.allclose(step[0], whole[0][9 + offset], atol=1e-4)
        assert np.allclose(step[1], whole[1][20 + offset], atol=1e-4)
    step = cache.step(np.array([0, tokens[1, 28]]), np.array([False, True]))
    assert np.allclose(step[1], whole[1][28], atol=1e-4)
    assert cache.lengths.tolist() == [17, 29]


def save(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    write_tokenizer(folder, VOCABULARY)
    # Some families' tokenizer classes cut text in a way of their own: then tokenizer.json has to say so.
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    return folder


SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "initializer_range": 0.2,
    "head_dim": 32,
}  # fmt: skip


def test_biases_scaled_positions_and_an_own_head(tmp_path: Path) -> None:
    scaled = {
        "rope_type": "llama3", "rope_theta": 1e4, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }  # fmt: skip
    torch.manual_seed(3)
    llama = LlamaForCausalLM(LlamaConfig(**SIZES, rope_parameters=scaled, tie_word_embeddings=False))
    qwen = Qwen2ForCausalLM(Qwen2Config(**SIZES, tie_word_embeddings=False))
    for module in qwen.modules():
        if isinstance(module, torch.nn.Linear) and module.bias is not None:
            torch.nn.init.normal_(module.bias)
    tokens = blocks(1, 60)
    for name, model in (("llama", llama), ("qwen", qwen)):
        folder = save(model, tmp_path / name)
        decoder = exported(folder, tmp_path / f"{name}-onnx")
        assert difference(decoder.logits(tokens.numpy()), meant_logits(folder, tokens)) < 1e-4, name


def test_what_the_graph_does_not_know_is_refused_by_name_and_leaves_nothing(llama: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    cases = {
        "Qwen3ForCausalLM": Qwen3ForCausalLM(Qwen3Config(**SIZES)),
        "gelu": LlamaForCausalLM(LlamaConfig(**SIZES, hidden_act="gelu")),
        "24": LlamaForCausalLM(LlamaConfig(**SIZES | {"head_dim": 24})),
        "dynamic": LlamaForCausalLM(
            LlamaConfig(**SIZES, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})
        ),
    }
    for said, model in cases.items():
        with pytest.raises(RefusedModel, match=said):
            export_onnx(save(model, tmp_path / said), tmp_path / "onnx")
        assert not (tmp_path / "onnx").exists()


def test_a_tokenizer_that_its_json_does_not_wholly_describe_is_refused(packed: Path, tmp_path: Path) -> None:
    shutil.copytree(packed, tmp_path / "model")
    path = tmp_path / "model" / "tokenizer_config.json"
    # transformers then builds the cutting of words from the class, not from tokenizer.json.
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": "LlamaTokenizer"}))
    with pytest.raises(RefusedModel, match=r"tokenizer\.json alone"):
        export_onnx(tmp_path / "model", tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


def test_a_damaged_tensor_leaves_nothing_behind(llama: Path, tmp_path: Path) -> None:
    shutil.copytree(llama, tmp_path / "model")
    tensors = load_file(llama / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 3] = float("inf")
    save_file(tensors, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RefusedModel, match="not finite"):
        export_onnx(tmp_path / "model", tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()
