"""Load a folder for computing: plain transformers, local files only, dense float32 whatever the folder holds.

A packed folder is decompressed once while it loads (``CompressedTensorsConfig(dequantize=True)``, transformers'
``quantizers/quantizer_compressed_tensors.py``), after which the model is ordinary ``nn.Linear`` layers. Without that
configuration the library decompresses at the first forward pass and leaves an offloading wrapper on every layer, which
costs about a third more time per token. The library multiplies codes and scales in the scales' own type, so a weight is
rounded to float16 once; that is how vLLM and others serve it too.

A folder with 8-bit inputs (W8A8, FP8; ``layouts.py``) computes with rounded activations wherever it is served, so it
does here too. A folder in the GPTQ format is dequantized here: transformers reads it through GPTQModel only, which does
not fit beside our versions.

A folder with several grids (``mixed``) is loaded packed, where each layer gets the grid of its own config group, and
made dense layer by layer; scales are float32 then, so nothing is rounded.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from compressed_tensors.compressors import decompress_module
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    CompressedTensorsConfig,
    PreTrainedModel,
)
from transformers.utils import logging

from tasks.compression.checkpoint import Checkpoint
from tasks.compression.device import HOST
from tasks.compression.eight_bits import Kind, eight_bits, round_inputs
from tasks.compression.heads import capped, head_cap
from tasks.compression.limits import check_language_model
from tasks.compression.mixed import Mixed
from tasks.errors import RefusedModel
from tasks.gptq_codes import dense_state

SHOWN = 3


def load_for_compute(folder: Path, device: torch.device = HOST) -> PreTrainedModel:
    """The causal language model in ``folder`` on ``device``, float32, in evaluation mode; no parameter asks for a
    gradient.

    Raises:
        RefusedModel: the folder cannot be read, is an encoder, or its tensors are not exactly those of its architecture
            (transformers would fill a missing one with random numbers and go on).
    """
    check_language_model(folder)
    wrong = ("missing_keys", "unexpected_keys", "mismatched_keys")
    model = _load(AutoModelForCausalLM, folder, wrong, _unpacking(folder))
    return model if device == HOST else cast(PreTrainedModel, cast(Any, model).to(device))


def _round_activations(model: PreTrainedModel, checkpoint: Checkpoint, kind: Kind) -> None:
    """Let the linear layers compute as 8-bit kernels do: rounded inputs, and scales that multiply in float32."""
    for name in checkpoint.architecture.all_linears(checkpoint.config):
        layer = model.get_submodule(name)
        layer.get_parameter("weight").copy_(checkpoint.linear(name))
        layer.register_forward_pre_hook(lambda _, inputs: (round_inputs(inputs[0], kind),))


def _dequantized(checkpoint: Checkpoint) -> dict[str, Any]:
    """What ``from_pretrained`` is told of a folder in the GPTQ format: its tensors, dense, and no quantization."""
    for name in checkpoint.architecture.all_linears(checkpoint.config):
        checkpoint.packed(name)  # refuses damage by the layer's name
    config = AutoConfig.from_pretrained(checkpoint.folder, local_files_only=True, trust_remote_code=False)
    quantization = config.quantization_config
    del config.quantization_config
    return {"config": config, "state_dict": dense_state(checkpoint.folder, quantization)}


def load_reader(folder: Path) -> PreTrainedModel:
    """The encoder with a question-answering head in ``folder``, dense, as ``load_for_compute`` loads a language model.

    Tensors that the head does not use (a pooler, another head) are left out.

    Raises:
        RefusedModel: the folder cannot be read, or tensors of the encoder or its head are missing.
    """
    return _load(AutoModelForQuestionAnswering, folder, ("missing_keys", "mismatched_keys"), _unpacking(folder))


def _unpacking(folder: Path) -> dict[str, Any]:
    """What makes a packed folder dense while it loads."""
    checkpoint = Checkpoint(folder)
    if checkpoint.packing is None:
        return {}
    if checkpoint.layout in ("gptq", "gptq_v2"):
        return _dequantized(checkpoint)
    alike = not isinstance(checkpoint.packing, Mixed)
    return {"quantization_config": CompressedTensorsConfig(dequantize=True)} if alike else {}


def _unpack(model: Any) -> None:
    """Make layers that were loaded packed ordinary ones: no hook, no wrapper, no packed tensor is left."""
    for module in model.modules():
        decompress_module(module, leave_decompressed=False)
    model.hf_quantizer.compressor.remove_decompression_hook(model)
    model.hf_quantizer.remove_quantization_config(model)


def _load(kind: Any, folder: Path, refused: tuple[str, ...], options: Mapping[str, Any]) -> PreTrainedModel:
    where: Path | None = folder
    if "state_dict" in options:
        # Tensors are taken from here only by a model's own class, and only where no folder is named.
        kind, where = kind._model_mapping[type(options["config"])], None
    with quiet():
        # With output_loading_info a pair comes back, which the published type does not say.
        model, info = kind.from_pretrained(
            where,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
    checkpoint = Checkpoint(folder)
    made = checkpoint.made
    wrong = {kind: sorted(str(name) for name in info[kind] if not str(name).endswith(made)) for kind in refused}
    if any(wrong.values()):
        shown = "; ".join(f"{kind} {len(names)}: {', '.join(names[:SHOWN])}" for kind, names in wrong.items() if names)
        raise RefusedModel(
            "the folder's tensors do not fit its architecture",
            observed=shown,
            limit="every tensor of the architecture, and no other",
            remedy="make or get the folder again",
        )
    if isinstance(checkpoint.packing, Mixed):
        _unpack(model)
    model.eval().requires_grad_(False)
    kind = eight_bits(checkpoint.config)
    if kind is not None:
        _round_activations(model, checkpoint, kind)
    return cast(PreTrainedModel, model)


def hidden_states(model: PreTrainedModel, tokens: Tensor) -> Tensor:
    """What the head reads: (blocks, length, width) for ``tokens`` (blocks, length)."""
    return cast(Tensor, model.base_model(input_ids=tokens, use_cache=False).last_hidden_state)


def head_weight(model: PreTrainedModel) -> Tensor:
    """The output head as one matrix (vocabulary, width), so that logits can be made in chunks.

    Raises:
        RefusedModel: this model's logits are not ``hidden @ head.T``, capped as ``heads.head_cap`` says (a bias, a
            factor).
    """
    weight = cast(Tensor, model.get_output_embeddings().weight)
    probe = torch.arange(min(4, weight.shape[0]), device=weight.device).unsqueeze(0)
    with torch.inference_mode():
        logits = model(input_ids=probe, use_cache=False).logits
        plain = capped(hidden_states(model, probe) @ weight.T, head_cap(model.config))
        error = float((logits - plain).abs().max() / logits.abs().max())
    if error >= 1e-3:  # not so when weights are NaN: whoever computes with them says that better
        raise RefusedModel(
            "the model's head is not a plain matrix",
            observed=f"relative difference {error:.1e} between its logits and hidden states times head",
            limit="1e-3",
            remedy="choose a model whose head has no bias or factor",
        )
    return weight


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, which would end up in a server's log, and no warning about the configuration that we mean."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="You passed `quantization_config`", category=UserWarning)
            yield
    finally:
        if shown:
            logging.enable_progress_bar()
