"""An engine in miniature: rounds to nearest in numpy and writes the GPTQ format (bits 4, groups along the columns), or
cuts the smallest weights of each row. Run by the Python of a real environment; imports nothing of Slimline.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.append(os.environ["STAND_IN_SITE"])

import numpy as np
from safetensors.numpy import load_file, save_file


def words(codes: Any) -> Any:
    """(n, m) 4-bit codes → (n / 8, m) int32, low bits first."""
    parts = codes.reshape(-1, 8, codes.shape[1]).astype(np.uint32) << (4 * np.arange(8, dtype=np.uint32))[None, :, None]
    return np.ascontiguousarray(np.bitwise_or.reduce(parts, axis=1)).view(np.int32)


def quantized(name: str, weight: Any, group: int) -> dict[str, Any]:
    rows, columns = weight.shape
    grouped = weight.reshape(rows, columns // group, group)
    scale = (np.abs(grouped).max(-1) / 7).astype(np.float16)
    codes = np.clip(np.round(grouped / scale[..., None].astype(np.float32)) + 8, 0, 15).reshape(rows, columns)
    return {
        f"{name}.qweight": words(codes.T.astype(np.int64)),
        f"{name}.qzeros": np.full((columns // group, rows // 8), 0x77777777, dtype=np.int32),
        f"{name}.scales": np.ascontiguousarray(scale.T),
        f"{name}.g_idx": (np.arange(columns) // group).astype(np.int32),
    }


def pruned(weight: Any, share: float) -> Any:
    limit = np.quantile(np.abs(weight), share, axis=1, keepdims=True)
    return np.where(np.abs(weight) > limit, weight, 0)


def main(job: dict[str, Any]) -> None:
    source, raw, recipe = Path(job["source"]), Path(job["destination"]), job["recipe"]
    assert np.load(job["tokens"]).ndim == 2
    tensors = {}
    for path in source.glob("*.safetensors"):
        tensors |= load_file(path)
    linears = [name for name in tensors if "_proj.weight" in name]
    config = json.loads((source / "config.json").read_text())
    for number, name in enumerate(linears, start=1):
        sys.stderr.write(f"({number}/{len(linears)}): Calibrating\n")
        if recipe["prune"]:
            tensors[name] = pruned(tensors[name], recipe["prune"]["sparsity"]).astype(np.float32)
        else:
            prefix, weight = name.removesuffix(".weight"), tensors.pop(name)
            tensors |= quantized(prefix, weight, recipe["quantize"]["group_size"])
    raw.mkdir()
    if recipe["quantize"]:
        group = recipe["quantize"]["group_size"]
        config["quantization_config"] = {
            "quant_method": "gptq", "bits": 4, "group_size": group, "sym": True, "dataset": ["private text"],
        }  # fmt: skip
    save_file(tensors, raw / "model.safetensors", metadata={"format": "pt"})
    (raw / "config.json").write_text(json.dumps(config))
    shutil.copy(job["tokens"], raw / "calibration.npy")  # left lying about, as engines do
    Path(job["report"]).write_text(json.dumps({"work_wall_s": 1, "work_cpu_s": 1, "versions": {"stand-in": "1.0"}}))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
