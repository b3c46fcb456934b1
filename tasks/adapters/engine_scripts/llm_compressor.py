"""llm-compressor on one model folder. A file that the engine's own Python runs; it imports nothing of Slimline.

Called with the path of a job, a JSON object (see ``tasks/adapters/engines.py``): ``source`` and ``destination``
folders, ``tokens`` (.npy, int64, blocks × block_tokens), ``recipe``, ``threads``, ``seed`` and ``report``, the file
that says what was done. API: https://docs.vllm.ai/projects/llm-compressor, ``oneshot`` and its modifiers, release 0.14.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform.awq import AWQModifier
from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier
from llmcompressor.pipelines.cache import IntermediatesCache
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM

IGNORED = ["lm_head"]
SMOOTHING = 0.8  # as in llm-compressor's W8A8 example; SmoothQuant's own default is 0.5


def main(job: dict[str, Any]) -> None:
    torch.set_num_threads(job["threads"])
    torch.manual_seed(job["seed"])
    imported = time.perf_counter(), time.process_time()
    if not torch.accelerator.is_available():
        # AWQ pins its cache for copies to a device, and torch refuses to pin where there is none.
        IntermediatesCache.pin_memory = lambda *_: None
    recipe = job["recipe"]
    tokens = torch.from_numpy(np.load(job["tokens"], allow_pickle=False))
    model = AutoModelForCausalLM.from_pretrained(
        job["source"], dtype="auto", local_files_only=True, use_safetensors=True, trust_remote_code=False
    )
    oneshot(
        model=model,
        recipe=modifiers(recipe),
        dataset=batches(tokens, recipe.get("batch_blocks", 1)),
        num_calibration_samples=len(tokens),
    )
    model.save_pretrained(job["destination"], save_compressed=recipe.get("quantize") is not None)
    report = {
        "versions": {name: version(name) for name in ("llmcompressor", "compressed-tensors", "transformers", "torch")},
        "work_wall_s": time.perf_counter() - imported[0],
        "work_cpu_s": time.process_time() - imported[1],
    }
    Path(job["report"]).write_text(json.dumps(report))


def batches(tokens: torch.Tensor, size: int) -> DataLoader[Any]:
    """Token blocks as the model's keyword arguments, in their order."""

    def collate(rows: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        ids = torch.stack(rows)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    return DataLoader(list(tokens), batch_size=size, shuffle=False, collate_fn=collate)  # type: ignore[arg-type]


def modifiers(recipe: dict[str, Any]) -> list[Any]:
    """The modifiers of each stage, prune first."""
    made: list[Any] = []
    if recipe.get("prune"):
        made.append(pruning(recipe["prune"]))
    if recipe.get("quantize"):
        made += quantization(recipe["quantize"])
    return made


def pruning(choice: dict[str, Any]) -> Any:
    unstructured = choice["pattern"] == "unstructured"
    kept, of = (0, 0) if unstructured else map(int, choice["pattern"].split(":"))
    common = {
        "sparsity": choice["sparsity"] if unstructured else 1 - kept / of,
        # Zeros of every m here, weights that stay of every m in the recipe.
        "mask_structure": "0:0" if unstructured else f"{of - kept}:{of}",
        "targets": ["Linear"],
        "ignore": IGNORED,
    }
    if choice["method"] == "wanda":
        return WandaPruningModifier(**common)
    return SparseGPTModifier(**common, dampening_frac=choice["damping"])


def quantization(choice: dict[str, Any]) -> list[Any]:
    grid = {"num_bits": choice["bits"], "type": "int", "strategy": "group", "group_size": choice["group_size"]}
    if not choice["group_size"]:
        grid = {"num_bits": choice["bits"], "type": "int", "strategy": "channel"}
    by_gptq = {
        "ignore": IGNORED,
        "dampening_frac": choice["damping"],
        "actorder": "static" if choice.get("act_order", True) else None,
    }
    if choice["method"] == "awq":
        groups = scheme({**grid, "symmetric": False})
        return [AWQModifier(), QuantizationModifier(config_groups=groups, ignore=IGNORED)]
    if choice["method"] == "smoothquant":
        tokens = {"num_bits": 8, "type": "int", "strategy": "token", "symmetric": True, "dynamic": True}
        groups = scheme({**grid, "symmetric": True}, tokens)
        return [SmoothQuantModifier(smoothing_strength=SMOOTHING), GPTQModifier(config_groups=groups, **by_gptq)]
    if choice["method"] == "fp8":
        floats = {"num_bits": 8, "type": "float", "symmetric": True}
        groups = scheme({**floats, "strategy": "channel"}, {**floats, "strategy": "token", "dynamic": True})
        return [QuantizationModifier(config_groups=groups, ignore=IGNORED)]
    return [GPTQModifier(config_groups=scheme({**grid, "symmetric": True}), **by_gptq)]


def scheme(weights: dict[str, Any], inputs: dict[str, Any] | None = None) -> dict[str, QuantizationScheme]:
    """One group of every linear layer: how its weights are stored, and how its inputs are rounded when it runs."""
    rounded = None if inputs is None else QuantizationArgs(**inputs)
    return {
        "group_0": QuantizationScheme(
            targets=["Linear"], weights=QuantizationArgs(**weights), input_activations=rounded
        )
    }


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
