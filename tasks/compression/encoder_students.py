"""Smaller students of an encoder: some of its blocks, everything else as it was (DistilBERT takes every other one)."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from tasks.compression.hidden_matching import KEPT_BLOCKS
from tasks.compression.loading import load_reader, quiet
from tasks.errors import RefusedModel, RefusedRecipe


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
    for path in (*source.glob("tokenizer*"), *source.glob("vocab.*"), *source.glob("special_tokens_map.json")):
        shutil.copyfile(path, destination / path.name)
