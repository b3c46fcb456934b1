"""auto-gptq on one model folder. A file that the engine's own Python runs; it imports nothing of Slimline.

Called with the path of a job, a JSON object (see ``tasks/adapters/engines.py``): ``source`` and ``destination``
folders, ``tokens`` (.npy, int64, blocks × block_tokens), ``recipe``, ``threads``, ``seed`` and ``report``, the file
that says what was done. API: ``auto_gptq/modeling/_base.py``, release 0.7.1, the last one.

Where there is no CUDA two of its assumptions are replaced: ``from_pretrained`` refuses to load, so its class is made
around a model that transformers loaded; and it moves each block to ``cuda:0``, which is made to mean the processor.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import auto_gptq.modeling._base as base
import auto_gptq.modeling._utils as utils
import numpy as np
import torch
from auto_gptq import BaseQuantizeConfig
from auto_gptq.modeling.auto import GPTQ_CAUSAL_LM_MODEL_MAP
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM


def main(job: dict[str, Any]) -> None:
    torch.set_num_threads(job["threads"])
    torch.manual_seed(job["seed"])
    imported = time.perf_counter(), time.process_time()
    choice = job["recipe"]["quantize"]
    tokens = np.load(job["tokens"], allow_pickle=False)
    if not torch.cuda.is_available():
        base.CUDA_0 = utils.CUDA_0 = torch.device("cpu")
        torch.cuda.synchronize = lambda *_: None
    config = readable_config(Path(job["source"]))
    model = AutoModelForCausalLM.from_pretrained(
        job["source"], config=config, torch_dtype="auto", local_files_only=True, use_safetensors=True,
        trust_remote_code=False,
    )  # fmt: skip
    act_order = choice.get("act_order", True)
    grid = BaseQuantizeConfig(
        bits=choice["bits"],
        group_size=choice["group_size"],
        damp_percent=choice["damping"],
        # With static groups the columns are settled by size and stored in their own order, so that any kernel reads it.
        desc_act=act_order,
        static_groups=act_order,
        sym=True,
    )
    wrapped = GPTQ_CAUSAL_LM_MODEL_MAP[config.model_type](model.eval(), False, grid)
    examples = [{"input_ids": row, "attention_mask": [1] * len(row)} for row in tokens.tolist()]
    config.pad_token_id = 0  # nothing is padded, but auto-gptq wants one
    wrapped.quantize(examples, batch_size=job["recipe"].get("batch_blocks", 1), cache_examples_on_gpu=False)
    save(wrapped, Path(job["source"]), Path(job["destination"]), grid)
    report = {
        "versions": {name: version(name) for name in ("auto-gptq", "transformers", "torch")},
        "work_wall_s": time.perf_counter() - imported[0],
        "work_cpu_s": time.process_time() - imported[1],
    }
    Path(job["report"]).write_text(json.dumps(report))


def readable_config(source: Path) -> Any:
    """The model's configuration as transformers 4 spells it.

    transformers 5 writes ``rope_parameters``; 4 passes over the word and computes with a base of 10,000, and the
    weights are then fitted to another model's activations.
    """
    config = AutoConfig.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    written = json.loads((source / "config.json").read_text())
    rope = dict(written.get("rope_parameters") or {})
    if rope:
        config.rope_theta = rope.pop("rope_theta", getattr(config, "rope_theta", 10000.0))
        config.rope_scaling = None if rope.get("rope_type", "default") == "default" else rope
    if "dtype" in written:
        config.torch_dtype = getattr(torch, written["dtype"])
    return config


def save(wrapped: Any, source: Path, destination: Path, grid: BaseQuantizeConfig) -> None:
    wrapped.save_quantized(str(destination), use_safetensors=True)
    (written,) = destination.glob("*.safetensors")
    tensors = load_file(written)
    written.unlink()
    # Its layers always store a bias, and zeros in a place that the architecture does not have make loaders complain.
    known = {name for path in source.glob("*.safetensors") for name in names(path)}
    kept = {name: tensor for name, tensor in tensors.items() if not name.endswith(".bias") or name in known}
    if any(bool(tensors[name].any()) for name in tensors.keys() - kept.keys()):
        raise RuntimeError("auto-gptq made up biases that are not zero")
    save_file(kept, destination / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "gptq",
        "bits": grid.bits,
        "group_size": grid.group_size,
        "damp_percent": grid.damp_percent,
        "desc_act": False,
        "sym": True,
        "true_sequential": grid.true_sequential,
        "checkpoint_format": "gptq",
    }
    (destination / "config.json").write_text(json.dumps(config))


def names(path: Path) -> list[str]:
    with safe_open(path, framework="pt") as file:
        return list(file.keys())


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
