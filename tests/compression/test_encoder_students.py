"""Students of an encoder: which blocks they keep, and a head where there was none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForQuestionAnswering, DistilBertConfig, DistilBertForQuestionAnswering

from tasks.compression.encoder_students import add_reader_head, encoder_depth, keep_encoder_blocks, spread
from tasks.compression.question_answering import evaluate_reader
from tasks.compression.synthetic_questions import make_questions, write_encoder
from tasks.errors import RefusedModel
from tests.compression.small import write_llama


def test_kept_blocks_are_evenly_spaced_from_the_first() -> None:
    assert spread(2, 4) == (0, 2)
    assert spread(6, 12) == (0, 2, 4, 6, 8, 10)
    assert spread(4, 6) == (0, 1, 3, 4)
    assert spread(1, 3) == (0,)


def test_an_encoder_without_a_head_gets_one_and_keeps_its_own_weights(tmp_path: Path) -> None:
    source = write_encoder(tmp_path / "source", blocks=2, width=32)
    bare = AutoModel.from_pretrained(source, add_pooling_layer=False)
    bare.save_pretrained(tmp_path / "bare")
    (tmp_path / "bare" / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())
    for out, seed in (("one", 0), ("same", 0), ("other", 1)):
        add_reader_head(tmp_path / "bare", tmp_path / out, seed)
    one, same, other = (AutoModelForQuestionAnswering.from_pretrained(tmp_path / n) for n in ("one", "same", "other"))
    assert torch.equal(one.qa_outputs.weight, same.qa_outputs.weight)
    assert not torch.equal(one.qa_outputs.weight, other.qa_outputs.weight)
    for name, weight in bare.state_dict().items():
        assert torch.equal(one.base_model.state_dict()[name], weight), name
    keep_encoder_blocks(tmp_path / "one", tmp_path / "student", (1,))
    student = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "student")
    kept = student.base_model.encoder.layer[0].output.dense.weight
    assert torch.equal(kept, one.base_model.encoder.layer[1].output.dense.weight)


def test_a_head_that_is_there_is_kept_and_a_damaged_encoder_is_refused(tmp_path: Path) -> None:
    source = write_encoder(tmp_path / "source", blocks=2, width=32)
    add_reader_head(source, tmp_path / "again", seed=9)
    before, after = (AutoModelForQuestionAnswering.from_pretrained(folder) for folder in (source, tmp_path / "again"))
    assert torch.equal(before.qa_outputs.weight, after.qa_outputs.weight)
    from safetensors.torch import load_file, save_file

    tensors = load_file(source / "model.safetensors")
    del tensors["bert.encoder.layer.1.output.dense.weight"]
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RefusedModel, match="missing"):
        add_reader_head(source, tmp_path / "out", seed=0)
    assert not (tmp_path / "out").exists()


def test_distilbert_names_its_blocks_otherwise(tmp_path: Path) -> None:
    config = DistilBertConfig(
        vocab_size=90, dim=32, n_layers=3, n_heads=4, hidden_dim=64, max_position_embeddings=96, pad_token_id=0
    )
    DistilBertForQuestionAnswering(config).save_pretrained(tmp_path / "source")
    tokenizer = write_encoder(tmp_path / "bert", blocks=1) / "tokenizer.json"
    (tmp_path / "source" / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    assert encoder_depth(tmp_path / "source") == 3
    keep_encoder_blocks(tmp_path / "source", tmp_path / "student", spread(2, 3))
    assert encoder_depth(tmp_path / "student") == 2
    assert (
        evaluate_reader(tmp_path / "student", make_questions(3, seed=0, facts=1), length=96, stride=16).questions == 3
    )


def test_a_decoder_is_not_taken_for_an_encoder(tmp_path: Path) -> None:
    llama = write_llama(tmp_path / "llama")
    with pytest.raises(RefusedModel, match="encoder"):
        add_reader_head(llama, tmp_path / "out", seed=0)
