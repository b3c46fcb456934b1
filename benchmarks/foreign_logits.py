"""Logits of model folders by plain transformers and whatever library their format names. A file that any Python runs;
it imports nothing of Slimline.

Called with the path of a job, a JSON object: ``tokens`` (.npy, int64, blocks × length), ``folders``, ``kernels`` (of
GPTQModel, ``auto`` or ``torch``; null for a folder that it does not read), and ``logits``, the .npy that each folder's
logits go to. Beside each, ``<logits>.txt`` names the kinds of linear layer that did it, or the
error, on one line.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, GPTQConfig


def main(job: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    tokens = torch.from_numpy(np.load(job["tokens"], allow_pickle=False))
    for folder, kernel, logits in zip(job["folders"], job["kernels"], job["logits"], strict=True):
        try:
            said = _write(folder, kernel, logits, tokens)
        except Exception as error:  # noqa: BLE001 - a format that a library refuses is a row of the table
            said = " ".join(f"error: {type(error).__name__}: {error}".split())[:300]
        Path(f"{logits}.txt").write_text(said, encoding="utf-8")


def _write(folder: str, kernel: str | None, file: str, tokens: torch.Tensor) -> str:
    # The bits here are not used: those of config.json are.
    options = {"quantization_config": GPTQConfig(bits=4, backend=kernel)} if kernel else {}
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, use_safetensors=True, trust_remote_code=False, **options
    ).eval()
    with torch.inference_mode():
        logits = torch.cat([model(input_ids=row[None], use_cache=False).logits for row in tokens])
    np.save(file, logits.float().numpy(), allow_pickle=False)
    inside = (module for name, module in model.named_modules() if "layers." in name)
    return ", ".join(sorted({type(module).__name__ for module in inside if "inear" in type(module).__name__}))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
