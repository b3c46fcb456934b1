"""Peak memory against depth: ``python -m benchmarks.memory``.

A Llama of one width is written with random weights at several depths, pruned and then quantized, each in a child
process of its own, which is what is measured: peak resident memory of the whole process (``VmHWM`` on Linux), its
imports and compiled loops with it. ``spread`` is the largest peak over the smallest, less 1. ``--quick`` takes a width
and depths so small that it takes seconds and its figures mean nothing.

Where there is a CUDA device the work is done there, and its peak memory stands beside the host's. A 7-billion-parameter
Llama's blocks, four of them, on 128 blocks of 2,048 tokens:

    python -m benchmarks.memory --width 4096 --inner 11008 --depths 2 4 --token-blocks 128 --block-tokens 2048
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.compression_runs import child_variables
from tasks.adapters.children import run_child

STAGES: dict[str, dict[str, Any]] = {
    "prune": {"prune": {"method": "sparsegpt", "sparsity": 0.5, "damping": 0.01}},
    "quantize": {"quantize": {"method": "gptq", "bits": 4, "group_size": 64, "damping": 0.01}},
}
VOCABULARY = 8192


@dataclass(frozen=True)
class Row:
    """One stage at one depth; bytes of the model's weights on disk, of resident memory and of the device's at their
    peaks; seconds of the work alone.
    """

    stage: str
    blocks: int
    width: int
    tokens: int
    model_bytes: int
    peak_bytes: int
    cpu_s: float
    wall_s: float
    device: str
    device_peak_bytes: int


def main() -> None:
    parser = argparse.ArgumentParser(description="Peak memory of prune and quantize at several depths.")
    parser.add_argument("--width", type=int, default=512, help="hidden size")
    parser.add_argument("--inner", type=int, help="width of the MLP; three times the hidden size when left out")
    parser.add_argument("--depths", type=int, nargs="+", default=[8, 16, 32], help="numbers of blocks")
    parser.add_argument("--token-blocks", type=int, default=8, help="calibration blocks")
    parser.add_argument("--block-tokens", type=int, default=256, help="tokens a block")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    parser.add_argument("--quick", action="store_true", help="width 64, 2 and 4 blocks, in seconds")
    options = parser.parse_args()
    if options.quick:
        options.width, options.inner, options.depths, options.token_blocks = 64, None, [2, 4], 2
    if not options.json:
        head = f"{'stage':10}{'blocks':>7}{'width':>7}{'model MB':>10}{'peak MB':>9}{'device MB':>11}"
        print(f"{head}{'CPU s':>8}{'wall s':>8}  device", flush=True)
    rows = []
    for row in measure(options):
        rows.append(row)
        memory = f"{row.model_bytes / 1e6:10,.0f}{row.peak_bytes / 1e6:9,.0f}{row.device_peak_bytes / 1e6:11,.0f}"
        figures = f"{memory}{row.cpu_s:8.1f}{row.wall_s:8.1f}  {row.device}"
        print(json.dumps(asdict(row)) if options.json else f"{row.stage:10}{row.blocks:7}{row.width:7}{figures}")
        sys.stdout.flush()
    for stage in STAGES:
        peaks = [row.peak_bytes for row in rows if row.stage == stage]
        share = max(peaks) / min(peaks) - 1
        print(
            json.dumps({"stage": stage, "spread": round(share, 4)}) if options.json else f"{stage}: spread {share:.1%}"
        )


def measure(options: argparse.Namespace) -> Iterator[Row]:
    """A row a stage and depth, quantize on what prune made."""
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, (options.token_blocks, options.block_tokens))
    for blocks in options.depths:
        with tempfile.TemporaryDirectory(prefix="slimline-benchmark-") as name:
            work = Path(name)
            source = work / "model"
            write_random(source, options.width, blocks, options.inner)
            size = sum(file.stat().st_size for file in source.glob("*.safetensors"))
            for stage in STAGES:
                print(f"{stage}, {blocks} blocks …", file=sys.stderr, flush=True)
                yield _stage(work, source, stage, tokens, options, blocks=blocks, model_bytes=size)
                source = work / stage


def _stage(
    work: Path, source: Path, stage: str, tokens: NDArray[np.int64], options: argparse.Namespace, **known: int
) -> Row:
    np.save(work / "tokens.npy", tokens, allow_pickle=False)
    files = {
        "source": source,
        "destination": work / stage,
        "tokens": work / "tokens.npy",
        "report": work / "report.json",
    }
    job = {name: str(path) for name, path in files.items()} | {"recipe": STAGES[stage], "seed": 0}
    (work / "job.json").write_text(json.dumps(job | {"threads": options.threads}))
    ran = run_child(
        [sys.executable, "-m", "benchmarks.own_child", work / "job.json"],
        what="Slimline's run",
        log=work / "log",
        variables=child_variables(options.threads),
    )
    said = json.loads((work / "report.json").read_text())
    return Row(
        stage=stage,
        width=options.width,
        tokens=tokens.size,
        peak_bytes=ran.peak_bytes,
        cpu_s=round(said["work_cpu_s"], 1),
        wall_s=round(said["work_wall_s"], 1),
        device=said["device"],
        device_peak_bytes=said["device_peak_bytes"],
        **known,
    )


def write_random(folder: Path, width: int, blocks: int, inner: int | None = None) -> None:
    """A Llama folder with seeded random weights, float32, one shard a block; no tokenizer that means anything."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    inner, heads = inner or width * 3, max(1, width // 64)
    drawn = torch.Generator().manual_seed(0)
    linears = dict.fromkeys(("q", "k", "v", "o"), (width, width))
    shapes = {f"self_attn.{name}_proj.weight": shape for name, shape in linears.items()}
    shapes |= {"mlp.gate_proj.weight": (inner, width), "mlp.up_proj.weight": (inner, width)}
    shapes |= {"mlp.down_proj.weight": (width, inner)}
    placed: dict[str, str] = {}

    def write(tensors: dict[str, torch.Tensor]) -> None:
        file = f"model-{len(set(placed.values())) + 1:05d}.safetensors"
        save_file(tensors, folder / file, metadata={"format": "pt"})
        placed.update(dict.fromkeys(tensors, file))

    for index in range(blocks):
        prefix = f"model.layers.{index}."
        block = {prefix + name: torch.randn(shape, generator=drawn) * 0.02 for name, shape in shapes.items()}
        norms = ("input_layernorm.weight", "post_attention_layernorm.weight")
        write(block | {prefix + name: torch.ones(width) for name in norms})
    table = torch.randn((VOCABULARY, width), generator=drawn) * 0.02
    write({"model.embed_tokens.weight": table, "model.norm.weight": torch.ones(width)})
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": width, "intermediate_size": inner,
        "num_hidden_layers": blocks, "num_attention_heads": heads, "num_key_value_heads": heads,
        "vocab_size": VOCABULARY, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
        "hidden_act": "silu", "dtype": "float32",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))


if __name__ == "__main__":
    main()
