"""optimum's ``GPTQQuantizer`` on one model folder. A file that the engine's own Python runs; it imports nothing of
Slimline.

Called with the path of a job, a JSON object (see ``tasks/adapters/engines.py``): ``source`` and ``destination``
folders, ``tokens`` (.npy, int64, blocks × block_tokens), ``recipe``, ``threads``, ``seed`` and ``report``, the file
that says what was done. API: ``optimum/gptq/quantizer.py``, release 2.3, whose only backend is GPTQModel.
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
from optimum.gptq import GPTQQuantizer
from transformers import AutoModelForCausalLM


def main(job: dict[str, Any]) -> None:
    torch.set_num_threads(job["threads"])
    torch.manual_seed(job["seed"])
    imported = time.perf_counter(), time.process_time()
    choice = job["recipe"]["quantize"]
    tokens = np.load(job["tokens"], allow_pickle=False)
    model = AutoModelForCausalLM.from_pretrained(
        job["source"], dtype="auto", local_files_only=True, use_safetensors=True, trust_remote_code=False
    )
    quantizer = GPTQQuantizer(
        bits=choice["bits"],
        dataset=[{"input_ids": [row], "attention_mask": [[1] * len(row)]} for row in tokens.tolist()],
        group_size=choice["group_size"],
        damp_percent=choice["damping"],
        # Columns are settled by size inside their groups, so that they are stored in their own order all the same.
        desc_act=False,
        act_group_aware=choice.get("act_order", True),
        sym=True,
        model_seqlen=tokens.shape[1],
        batch_size=job["recipe"].get("batch_blocks", 1),
        pad_token_id=0,
        backend="auto",
    )
    quantizer.quantize_model(model)
    # Its own configuration holds every calibration token, and still says gptq_v2 after save() has turned the weights
    # into gptq; whoever reloads that folder computes with wrong zero points and is not told.
    quantizer.dataset = None
    model.config.quantization_config = {**quantizer.to_dict(), "format": "gptq", "checkpoint_format": "gptq"}
    quantizer.save(model, job["destination"])
    if quantizer.format != "gptq":
        raise RuntimeError(f"the weights were saved as {quantizer.format}, not as gptq")
    report = {
        "versions": {name: version(name) for name in ("optimum", "gptqmodel", "transformers", "torch")},
        "work_wall_s": time.perf_counter() - imported[0],
        "work_cpu_s": time.process_time() - imported[1],
    }
    Path(job["report"]).write_text(json.dumps(report))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
