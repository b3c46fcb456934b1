"""Smaller students of an encoder: some of its blocks, everything else as it was (DistilBERT takes every other one)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForQuestionAnswering
from transformers.utils import logging

from tasks.compression.checkpoint import Checkpoint
from tasks.compression.hidden_matching import KEPT_BLOCKS
from tasks.compression.loading import load_reader, quiet
from tasks.errors import RefusedModel, RefusedRecipe

HEAD = "qa_outputs."
"""What transformers calls the head, whatever the encoder."""


def encoder_depth(folder: Path) -> int:
    """Blocks that the folder's config.json announces, or 0; DistilBERT has a name of its own for them."""
    config = Checkpoint(folder).config
    return int(config.get("num_hidden_layers") or config.get("n_layers") or 0)


def spread(kept: int, depth: int) -> tuple[int, ...]:
    """Numbers of ``kept`` of ``depth`` blocks, evenly spaced from the first: 0, 2, 4 of six."""
    return tuple(number * depth // kept for number in range(kept))


def add_reader_head(source: Path, destination: Path, seed: int) -> None:
    """Write the encoder in ``source`` with a question-answering head that has learnt nothing, drawn from ``seed``.

    A folder that has such a head already keeps it.

    Args:
        source: an encoder that ``AutoModelForQuestionAnswering`` knows, with any head or none.
        destination: absent.

    Raises:
        RefusedModel: it does not, or tensors of the encoder are missing.
    """
    Checkpoint(source)
    torch.manual_seed(seed)
    try:
        with quiet(), _no_load_report():
            model, info = AutoModelForQuestionAnswering.from_pretrained(
                source, dtype=torch.float32, local_files_only=True, use_safetensors=True, trust_remote_code=False,
                output_loading_info=True,
            )  # fmt: skip
    except ValueError as error:  # transformers: no question-answering class for this configuration
        raise _no_encoder(str(error).splitlines()[0]) from error
    missing = sorted(name for name in info["missing_keys"] if not name.startswith(HEAD))
    if missing:
        raise _no_encoder(f"{len(missing)} tensors are missing, first {missing[0]}")
    with quiet():
        model.save_pretrained(destination)
    copy_tokenizer(source, destination)


@contextmanager
def _no_load_report() -> Iterator[None]:
    """transformers warns of a new head and of a pooler that is left out: both are meant, the rest is checked."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _no_encoder(observed: str) -> RefusedModel:
    return RefusedModel(
        "the model cannot be given a question-answering head",
        observed=observed,
        limit="an encoder for which transformers has a question-answering class",
        remedy="use a BERT-type encoder, such as BERT, DistilBERT, RoBERTa or MiniLM",
    )


def copy_tokenizer(source: Path, destination: Path) -> None:
    """Copy what the tokenizer needs; the folders are encoders'."""
    for path in (*source.glob("tokenizer*"), *source.glob("vocab.*"), *source.glob("special_tokens_map.json")):
        shutil.copyfile(path, destination / path.name)


def keep_encoder_blocks(source: Path, destination: Path, kept: Sequence[int]) -> None:
    """Write a question-answering encoder with only these of its blocks; config.json says so.

    Args:
        source: folder that ``AutoModelForQuestionAnswering`` loads.
        destination: absent.
        kept: numbers of blocks, ascending.

    Raises:
        RefusedModel: the folder cannot be read, or its blocks are not one list.
        RefusedRecipe: a number that is no block's, or not ascending.
    """
    model = load_reader(source)
    config: Any = model.config
    depth = int(config.num_hidden_layers)
    if not kept or list(kept) != sorted(set(kept)) or not 0 <= kept[0] <= kept[-1] < depth:
        raise RefusedRecipe(
            "these blocks cannot be kept",
            observed=f"{list(kept)}",
            limit=f"different numbers from 0 to {depth - 1}, ascending",
            remedy="name blocks that the encoder has",
        )
    lists = [
        (name, module)
        for name, module in model.base_model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth
    ]
    if len(lists) != 1:
        raise RefusedModel(
            "the encoder's blocks were not found",
            observed=f"{len(lists)} lists of {depth} modules",
            limit="one",
            remedy="use a BERT-type encoder",
        )
    name, blocks = lists[0]
    model.base_model.set_submodule(name, nn.ModuleList(blocks[number] for number in kept))
    config.num_hidden_layers = len(kept)
    setattr(config, KEPT_BLOCKS, list(kept))
    with quiet():
        model.save_pretrained(destination)
    copy_tokenizer(source, destination)
