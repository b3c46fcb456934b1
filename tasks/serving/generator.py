"""A Hugging Face folder that generates text on the CPU: plain transformers, float32, greedy by default.

Only torch, transformers and the standard library. Nothing is unpickled, no code of the model's own runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.compressors import decompress_module
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    CompressedTensorsConfig,
    GenerationConfig,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer

from tasks.gptq_codes import dense_state
from tasks.serving.payload import Interrupted, Request, Tell, before_stop, check_lengths
from tasks.serving.token_stream import Pieces


class _Stop(StoppingCriteria):
    def __init__(self, wanted: Callable[[], bool]) -> None:
        self.wanted = wanted

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self.wanted(), dtype=torch.bool)


class _Told(BaseStreamer):
    """Gets the prompt first, then every token."""

    def __init__(self, pieces: Pieces) -> None:
        self.pieces = pieces
        self.prompt = True

    def put(self, value: torch.Tensor) -> None:
        if self.prompt:
            self.prompt = False
        else:
            self.pieces.add(int(value.item()))

    def end(self) -> None:
        pass


def _unpack(model: Any) -> None:
    """Make layers that were loaded packed ordinary ones, each by its own grid."""
    for module in model.modules():
        decompress_module(module, leave_decompressed=False)
    model.hf_quantizer.compressor.remove_decompression_hook(model)
    model.hf_quantizer.remove_quantization_config(model)


def _load(folder: Path) -> Any:
    """The model and what was found of its tensors."""
    quantization = json.loads((folder / "config.json").read_text()).get("quantization_config") or {}
    options: dict[str, Any] = {"dtype": torch.float32, "output_loading_info": True, "trust_remote_code": False}
    if quantization.get("quant_method") == "gptq":
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        del config.quantization_config  # transformers would ask for GPTQModel
        options |= {"config": config, "state_dict": dense_state(folder, quantization)}
        # Tensors are taken from here only by a model's own class, and only where no folder is named.
        return AutoModelForCausalLM._model_mapping[type(config)].from_pretrained(None, **options)  # type: ignore[attr-defined]
    packed = quantization.get("quant_method") == "compressed-tensors"
    groups = list((quantization.get("config_groups") or {}).values())
    # Of several grids dequantize=True takes the first for every layer (transformers 5.23) and says nothing.
    mixed = packed and len(groups) > 1
    # Dequantized weights alone would lose the rounding of activations (W8A8), with which the quality was measured.
    if packed and not mixed and not any(group.get("input_activations") for group in groups):
        options["quantization_config"] = CompressedTensorsConfig(dequantize=True)
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, local_files_only=True, **options)
    if mixed:
        _unpack(loaded[0])
    return loaded


class Generator:
    """A loaded model and its tokenizer. Not thread-safe: one thread owns it."""

    def __init__(self, folder: Path) -> None:
        """Load ``folder``. Packed weights become dense float32 once, here, not at every step.

        Raises:
            OSError, ValueError: the folder is missing, incomplete, or of a kind that plain transformers does not load.
        """
        self.model: Any
        self.model, found = _load(folder)
        # transformers fills a missing tensor with random numbers and goes on, so what it found is looked at.
        wrong = {kind: sorted(map(str, names)) for kind, names in found.items() if kind.endswith("_keys") and names}
        if wrong:
            raise ValueError(f"tensors that do not fit the architecture: {str(wrong)[:500]}")
        self.model.eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token_id is None:
            # Padding is masked out; any token serves.
            self.tokenizer.pad_token_id = self.tokenizer.eos_token_id or 0
        self.context: int = int(getattr(self.model.config, "max_position_embeddings", 2048))

    def check(self) -> None:
        """Generate one real token. Raises what the model raises, and ``ValueError`` for weights that are not finite."""
        with torch.inference_mode():
            tokens = torch.tensor([[self.tokenizer.bos_token_id or 0]])
            logits = self.model(input_ids=tokens).logits
            if not torch.isfinite(logits).all():
                raise ValueError("the model's first logits are not finite: NaN or infinity in its weights")
        self.generate(Request(prompts=("Hello",), max_new_tokens=1), lambda: False)

    def generate(self, request: Request, stop: Callable[[], bool], tell: Tell | None = None) -> list[str]:
        """One text a prompt, in order. ``stop`` is asked after every token, ``tell`` is told each of an only prompt.

        Raises:
            BadRequest: a prompt has no tokens, or prompt and answer do not fit the model's context.
            Interrupted: ``stop`` said so.
        """
        encoded = self.tokenizer(list(request.prompts), return_tensors="pt", padding=True, return_token_type_ids=False)
        check_lengths(encoded["attention_mask"].sum(dim=1).tolist(), request.max_new_tokens, self.context)
        if request.seed is not None:
            torch.manual_seed(request.seed)
        streamer = _Told(Pieces(self._text, request.stop, tell)) if tell else None
        with torch.inference_mode():
            output = self.model.generate(
                **encoded,
                generation_config=self._config(request),
                tokenizer=self.tokenizer,
                stopping_criteria=StoppingCriteriaList([_Stop(stop)]),
                streamer=streamer,
            )
        if stop():
            raise Interrupted
        answers = self.tokenizer.batch_decode(output[:, encoded["input_ids"].shape[1] :], skip_special_tokens=True)
        texts = [before_stop(answer, request.stop) for answer in answers]
        if request.return_full_text:
            return [prompt + text for prompt, text in zip(request.prompts, texts, strict=True)]
        return texts

    def _text(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def _config(self, request: Request) -> GenerationConfig:
        own = self.model.generation_config
        sampling = {"temperature": request.temperature, "top_p": request.top_p, "top_k": 0} if request.do_sample else {}
        # Built afresh: a folder's own sampling defaults must not turn greedy into something else.
        return GenerationConfig(
            max_new_tokens=request.max_new_tokens,
            do_sample=request.do_sample,
            stop_strings=list(request.stop) or None,
            bos_token_id=own.bos_token_id,
            eos_token_id=own.eos_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
            **sampling,
        )


__all__ = ["Generator", "Interrupted"]
