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
from transformers import AutoConfig

from tasks.compression.architectures import supported
from tasks.compression.checkpoint import Checkpoint, check_supported
from tasks.compression.decoder import Decoder
from tasks.compression.device import HOST, compute_device
from tasks.compression.distillation import distill_folder
from tasks.compression.folder_facts import describe
from tasks.compression.hessian import InputStatistics
from tasks.compression.layerwise import compress_folder, prune_folder, quantize_folder
from tasks.compression.loading import load_for_compute, load_reader
from tasks.compression.onnx_support import refuse_unknown
from tasks.compression.scoring import score_pair
from tasks.compression.slimming import slim_folder
from tasks.compression.structured import check_shares
from tasks.compression.transforms import Changed
from tasks.errors import RefusedData, RefusedModel, RefusedRecipe
from tests.compression.families import ENCODERS, FAMILIES, model_of, write_family
from tests.compression.small import blocks

TRANSPOSED = ("gpt2",)
BLOCKS = [family for family in FAMILIES if not family.endswith(("classes", "wide"))]
"""One family of each kind of block."""


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
    needs_gram: bool = False

    def apply(self, prefix: str, weight: Tensor, statistics: InputStatistics, stored: torch.dtype) -> Changed:
        return Changed(weight, {f"{prefix}.weight": weight.clone()}, 32.0, None)


def test_every_supported_name_has_a_family_here() -> None:
    assert {name for name, _, _ in FAMILIES.values()} == set(supported())


def test_every_supported_name_is_in_the_table_of_the_docs() -> None:
    table = (Path(__file__).parents[2] / "docs" / "architectures.md").read_text(encoding="utf-8")
    rows = {line for line in table.splitlines() if line.startswith("| `")}
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])} == set(supported())


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
    near = 1e-5 if compute_device() == HOST else 1e-4  # a device sums in another order
    for index, expected in enumerate(wanted):
        states = calls[index](decoder.take_block(index), states.to(compute_device())).to(HOST)
        torch.testing.assert_close(states, expected, rtol=near, atol=near)


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


@pytest.mark.parametrize("family", BLOCKS)
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


@pytest.mark.parametrize("family", BLOCKS)
def test_structured_pruning_removes_what_does_nothing(folders: dict[str, Path], family: str, tmp_path: Path) -> None:
    """A quarter of the channels and half of the heads reach nothing; without them the model answers the same."""
    source = shutil.copytree(folders[family], tmp_path / "source")
    entry = Checkpoint(source).architecture
    heads = 0.5 if entry.heads else 0.0
    tensors, widths = load_file(source / "model.safetensors"), {}
    for name, share in ((entry.channels_out, 0.25), (entry.heads_out, heads)):
        for index in range(2):
            weight = tensors[f"{entry.block(index)}.{name}.weight"]
            columns = weight.T if entry.transposed else weight
            widths[name] = round(columns.shape[1] * (1 - share))
            columns[:, widths[name] :] = 0.0
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    list(slim_folder(source, tmp_path / "out", blocks(8), heads=heads, channels=0.25, blocks=0.0))
    slim = Checkpoint(tmp_path / "out")
    assert {name: slim.linear_shape(f"{entry.block(1)}.{name}")[1] for name in widths} == widths
    assert apart(tmp_path / "out", source, blocks(2, seed=9)) < 1e-6
    assert describe(tmp_path / "out").parameters < describe(source).parameters


@pytest.mark.parametrize("family", [family for family in FAMILIES if family in ENCODERS or family in ("opt", "gpt2")])
def test_heads_that_config_cannot_say_are_not_removed(folders: dict[str, Path], family: str) -> None:
    with pytest.raises(RefusedRecipe, match=f"heads of {FAMILIES[family][0]}"):
        slim_folder(folders[family], Path("never"), blocks(8), heads=0.5, channels=0.25, blocks=0.0)
    check_shares(folders[family], 0.0, 0.25, 0.0, 32)
    with pytest.raises(RefusedRecipe, match=f"heads of {FAMILIES[family][0]}"):
        check_shares(folders[family], 0.5, 0.25, 0.0, 32)


@pytest.mark.parametrize("family", ["gemma3", "qwen2", "opt", "bert", "distilbert"])
def test_a_model_with_fewer_blocks_keeps_the_attention_of_each(
    folders: dict[str, Path], family: str, tmp_path: Path
) -> None:
    """Also where config.json leaves the kinds of attention to a rule that counts blocks, as Gemma 3's does."""
    source = shutil.copytree(folders[family], tmp_path / "source")
    kept = {"gemma3": "full_attention", "qwen2": "full_attention"}.get(family)
    if family == "gemma3":
        edit(source / "config.json", layer_types=None, sliding_window_pattern=2)
    if kept:
        # The first block, with sliding attention in Gemma 3, changes nothing, so it goes.
        tensors = load_file(source / "model.safetensors")
        for name in tensors:
            if ".layers.0." in name and name.endswith(("layernorm.weight", "o_proj.weight", "down_proj.weight")):
                tensors[name].fill_(-1.0 if family == "gemma3" and "layernorm" in name else 0.0)
        save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    list(slim_folder(source, tmp_path / "out", blocks(8), heads=0.0, channels=0.0, blocks=0.5))
    assert Checkpoint(tmp_path / "out").blocks == 1
    if family == "gemma3":
        assert Checkpoint(tmp_path / "out").config["layer_types"] == ["full_attention"]
    if kept:
        assert apart(tmp_path / "out", source, blocks(2, seed=9)) < 1e-8
    else:
        assert torch.isfinite(answers(tmp_path / "out", blocks(2))).all()


def test_blocks_that_know_their_number_stay(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(RefusedRecipe, match=r"GPT2LMHeadModel.*number"):
        slim_folder(folders["gpt2"], tmp_path / "out", blocks(4), heads=0.0, channels=0.0, blocks=0.5)


def test_packing_conv1d_is_refused_before_work(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(RefusedRecipe, match=r"(?s)Conv1D.*GPT2LMHeadModel"):
        quantize_folder(folders["gpt2"], tmp_path / "out", blocks(4), method="rtn", bits=4, group_size=0)


@pytest.mark.parametrize("family", ["opt", "gpt2", "bert", "roberta", "distilbert"])
def test_blocks_beyond_the_table_of_positions_are_refused(folders: dict[str, Path], family: str) -> None:
    # One row more than the model has; RoBERTa's table has two rows that are no positions.
    most = {"bert": 130}.get(family, 128)
    with pytest.raises(RefusedData, match=f"(?s){most + 1} tokens.*{most} tokens"):
        prune_folder(folders[family], Path("never"), blocks(1, most + 1), method="wanda", sparsity=0.5)
    prune_folder(folders[family], Path("never"), blocks(1, most), method="wanda", sparsity=0.5)


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_a_folder_as_it_was_published(folders: dict[str, Path], family: str, tmp_path: Path) -> None:
    """Saved without its head, so that names lack their first part, with masks among the weights and a short config."""
    source = tmp_path / "bare"
    shutil.copytree(folders[family], source)
    tensors = load_file(source / "model.safetensors")
    base = Checkpoint(source).architecture.embeddings.partition(".")[0]
    bare = {name.removeprefix(f"{base}."): tensor for name, tensor in tensors.items() if not name.startswith("lm_head")}
    if family == "gpt2":
        bare |= {"h.0.attn.bias": torch.ones(1, 1, 8, 8), "h.0.attn.masked_bias": torch.tensor(-1e4)}
    save_file(bare, source / "model.safetensors", metadata={"format": "pt"})
    edit(source / "config.json", tie_word_embeddings=None, n_inner=None)
    check_supported(source)
    assert describe(source).parameters == describe(folders[family]).parameters
    load_for_compute(source)
    list(compress_folder(Checkpoint(source), Nothing(), tmp_path / "out", blocks(3)))
    assert torch.equal(answers(tmp_path / "out", blocks(2)), answers(folders[family], blocks(2)))


def edit(path: Path, **changes: Any) -> None:
    """``None`` takes a key out."""
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if changes.get(key, key) is not None}))


@pytest.mark.parametrize("family", ["gemma2", "opt", "gpt2", "qwen2"])
def test_a_folder_of_many_shards(family: str, tmp_path: Path) -> None:
    write_family(family, tmp_path / "shards", max_shard_size="60KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    list(compress_folder(Checkpoint(tmp_path / "shards"), Nothing(), tmp_path / "out", blocks(3)))
    assert torch.equal(answers(tmp_path / "out", blocks(2)), answers(tmp_path / "shards", blocks(2)))


@pytest.mark.parametrize("family", ["gemma2", "gemma3", "opt 350m", "gpt2"])
def test_language_models_are_scored_and_taught(folders: dict[str, Path], family: str, tmp_path: Path) -> None:
    source, student = folders[family], tmp_path / "pruned"
    list(prune_folder(source, student, blocks(4), method="magnitude", sparsity=0.3))
    steps = list(
        distill_folder(
            student, source, tmp_path / "out", blocks(8), epochs=3, batch_blocks=4, learning_rate=3e-3, temperature=1.0,
            hard_share=0.0, seed=0,
        )
    )  # fmt: skip
    assert steps[-1].soft_loss < 0.9 * steps[0].soft_loss
    assert describe(tmp_path / "out").sparsity == describe(student).sparsity
    before, after = (
        score_pair(folder, source, blocks(8), prompt=blocks(1, 4), new_tokens=2, repeats=1)[0]
        for folder in (student, tmp_path / "out")
    )
    assert after.kl < before.kl
    # The logits that plain transformers gives are those that were scored.
    log_p, log_q = (answers(folder, blocks(8)).view(8, 24, -1)[:, :-1].log_softmax(-1) for folder in (source, student))
    assert before.kl == pytest.approx(float((log_p.exp() * (log_p - log_q)).sum(-1).mean()), rel=1e-3)


def test_packed_students_learn_their_scales(folders: dict[str, Path], tmp_path: Path) -> None:
    source, student, taught = folders["opt"], tmp_path / "packed", tmp_path / "taught"
    list(quantize_folder(source, student, blocks(4), method="rtn", bits=3, group_size=32))
    steps = list(
        distill_folder(
            student, source, taught, blocks(8), epochs=3, batch_blocks=4, learning_rate=3e-3, temperature=1.0,
            hard_share=0.0, seed=0, hidden_weight=0.1,
        )
    )  # fmt: skip
    assert steps[-1].soft_loss < 0.99 * steps[0].soft_loss
    before, after = Checkpoint(student), Checkpoint(taught)
    for name in before.architecture.all_linears(before.config):
        one, other = before.packed(name), after.packed(name)
        assert one and other
        assert torch.equal(one.codes, other.codes)
    assert apart(taught, source, blocks(8)) < apart(student, source, blocks(8))


def test_a_capped_teacher_teaches_from_disk(folders: dict[str, Path], tmp_path: Path) -> None:
    source, student = folders["gemma2"], tmp_path / "pruned"
    list(prune_folder(source, student, blocks(4), method="magnitude", sparsity=0.3))
    numbers: dict[str, Any] = {
        "epochs": 1, "batch_blocks": 4, "learning_rate": 1e-4, "temperature": 1.0, "hard_share": 0.0, "seed": 0,
    }  # fmt: skip
    beside = list(distill_folder(student, source, tmp_path / "a", blocks(8), **numbers))
    kept = list(distill_folder(student, source, tmp_path / "b", blocks(8), cached_top_k=96, **numbers))
    assert kept[0].soft_loss == pytest.approx(beside[0].soft_loss, rel=1e-2)


@pytest.mark.parametrize("family", ENCODERS)
def test_an_encoder_is_no_language_model(folders: dict[str, Path], family: str, tmp_path: Path) -> None:
    with pytest.raises(RefusedModel, match=FAMILIES[family][0]):
        load_for_compute(folders[family])
    with pytest.raises(RefusedModel, match=FAMILIES[family][0]):
        distill_folder(
            folders[family], folders[family], tmp_path / "out", blocks(2), epochs=1, batch_blocks=1,
            learning_rate=1e-3, temperature=1.0, hard_share=0.0, seed=0,
        )  # fmt: skip


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_a_packed_reader_is_loaded_dense(folders: dict[str, Path], family: str, tmp_path: Path) -> None:
    list(quantize_folder(folders[family], tmp_path / "packed", blocks(4), method="rtn", bits=4, group_size=32))
    reader, checkpoint = load_reader(tmp_path / "packed"), Checkpoint(tmp_path / "packed")
    for name in checkpoint.architecture.all_linears(checkpoint.config):
        weight = reader.get_submodule(name).get_parameter("weight")
        torch.testing.assert_close(weight.data, checkpoint.linear(name), rtol=1e-3, atol=1e-5)
    with torch.inference_mode():
        found = reader(input_ids=blocks(2))
    assert torch.isfinite(found.start_logits).all()


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in ("llama", "mistral", "qwen2")])
def test_what_cannot_be_exported_to_onnx_is_refused_by_name(folders: dict[str, Path], family: str) -> None:
    checkpoint = Checkpoint(folders[family])
    with pytest.raises(RefusedModel, match=f"(?s)architecture cannot be exported.*{re.escape(FAMILIES[family][0])}"):
        refuse_unknown(checkpoint, AutoConfig.from_pretrained(folders[family]))
