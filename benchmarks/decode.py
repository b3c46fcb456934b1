"""How fast a compressed model is served on a CPU: ``python -m benchmarks.decode --packed FOLDER --dense FOLDER``.

Every variant is loaded the way the container loads it, in a child process of its own: the dense folder and the packed
one with torch (``Generator``), the packed one exported to ONNX (``OnnxGenerator``), and a llama.cpp file when one is
given and ``llama_cpp`` is installed. Decode is one token a step for one text with a key-value cache; its rate is that
of the median step. CPU seconds leave out time that other jobs took, but not their share of caches and memory; wall
seconds leave out neither. Resident memory is the child's after decoding, its Python and libraries included.

llama.cpp is for comparison and no dependency: ``pip install llama-cpp-python`` compiles it for this machine (20 minutes
on two cores). Some virtual machines say that they have AMX and fault at its first instruction: there
``CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX512=ON -DGGML_AVX512_VNNI=ON -DGGML_AMX_INT8=OFF"`` leaves it out. The same
bit width is a q4_0 file: ``llama_model_quantize`` of that package, or llama.cpp's own ``llama-quantize
--allow-requantize FILE.gguf q4_0.gguf Q4_0``, makes one of the GGUF file inside the model's package (``downloads``
below Slimline's home).

Then the exported file itself is scored beside the packed folder on held-out tokens. ``--quick`` takes the seeded
two-block model and random tokens: it shows that the benchmark works, and its figures mean nothing else.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.children import in_child
from benchmarks.decode_speed import Speed, measure_speed

PROMPT_TOKENS, STEPS = 256, 64
QUICK_PROMPT_TOKENS, QUICK_STEPS = 32, 16
SCORED_BLOCKS = 4
SERVED = "packed, ONNX integers"


@dataclass(frozen=True)
class Quality:
    """The exported file beside the packed folder, on the same held-out positions.

    Attributes:
        agreement: share of positions where both would say the same next token.
        kl: mean KL(packed ‖ exported), nats.
    """

    exported: str
    positions: int
    packed_perplexity: float
    exported_perplexity: float
    agreement: float
    kl: float


def main() -> None:
    parser = argparse.ArgumentParser(description="Decode and prefill rates of one model in several forms.")
    parser.add_argument("--dense", type=Path, help="the original, a Hugging Face folder")
    parser.add_argument("--packed", type=Path, help="the compressed folder that quantize or distill wrote")
    parser.add_argument("--gguf", type=Path, help="a llama.cpp file of the same model, such as q4_0")
    parser.add_argument(
        "--tokens", type=Path, help="held-out tokens, .npy int64 (blocks, length); random when left out"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of every variant")
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    parser.add_argument("--quick", action="store_true", help="the seeded two-block model, in seconds")
    options = parser.parse_args()
    if not options.quick and not (options.dense and options.packed):
        parser.error("give --dense and --packed, or --quick")
    rows: list[Speed] = []
    for row in measure(options):
        if options.json:
            print(json.dumps({type(row).__name__.lower(): asdict(row)}), flush=True)
        elif isinstance(row, Speed):
            _show(row, rows)
        else:
            print(f"{row.exported}, {row.positions:,} positions: {_sentence(row)}", flush=True)
        if isinstance(row, Speed):
            rows.append(row)
    if not options.json:
        print(_compared(rows))


def _compared(rows: list[Speed]) -> str:
    """What is asked of the served form: its rate beside the others', in tokens a CPU second."""
    rates = {row.variant: row.decode_per_cpu_s for row in rows}
    served = rates.pop(SERVED)
    return f"{SERVED}: " + ", ".join(f"{served / rate:.2f} × {variant}" for variant, rate in rates.items())


def _sentence(row: Quality) -> str:
    perplexities = f"perplexity {row.exported_perplexity:.3f} (packed {row.packed_perplexity:.3f})"
    return f"{perplexities}, agreement {row.agreement:.4f}, KL {row.kl:.2e}"


def _show(row: Speed, before: list[Speed]) -> None:
    if not before:
        print(f"{'':26}{'decode tokens/s':>22}{'prefill tokens/s':>20}{'':>9}{'folder':>8}{'resident':>10}{'load':>7}")
        print(f"{'':26}{'wall':>7}{'CPU':>7}{'× first':>8}{'wall':>10}{'CPU':>10}{'':>9}{'MB':>8}{'MB':>10}{'s':>7}")
    times = row.decode_per_cpu_s / (before[0] if before else row).decode_per_cpu_s
    decode = f"{row.decode_per_wall_s:7.1f}{row.decode_per_cpu_s:7.1f}{times:8.2f}"
    prefill = f"{row.prefill_per_wall_s:10.0f}{row.prefill_per_cpu_s:10.0f}"
    sizes = f"{row.folder_bytes / 1e6:8.0f}{row.resident_bytes / 1e6:10.0f}{row.load_s:7.1f}"
    print(f"{row.variant:26}{decode}{prefill}{'':>9}{sizes}", flush=True)


def measure(options: argparse.Namespace) -> Iterator[Speed | Quality]:
    """Export, then a ``Speed`` for each variant, then the ``Quality`` of the exported file."""
    import numpy as np

    with tempfile.TemporaryDirectory(prefix="slimline-benchmark-") as name:
        work = Path(name)
        dense, packed = _quick(work) if options.quick else (options.dense, options.packed)
        vocabulary = json.loads((packed / "config.json").read_text())["vocab_size"]
        length, steps = (QUICK_PROMPT_TOKENS, QUICK_STEPS) if options.quick else (PROMPT_TOKENS, STEPS)
        if options.tokens is None:
            tokens = np.random.default_rng(0).integers(0, vocabulary, (1, length))
        else:
            tokens = np.load(options.tokens, allow_pickle=False)[:SCORED_BLOCKS].astype(np.int64)
        exported = work / "onnx"
        in_child(_export, packed, exported)
        for variant, kind, folder in (
            ("dense, torch float32", "torch", dense),
            ("packed, torch float32", "torch", packed),
            (SERVED, "onnx", exported),
        ):
            yield in_child(measure_speed, variant, kind, folder, tokens[:1, :length], steps, options.threads)
        if options.gguf is None or importlib.util.find_spec("llama_cpp") is None:
            print("llama.cpp not measured: give --gguf, and install llama-cpp-python", file=sys.stderr, flush=True)
        else:
            yield in_child(
                measure_speed, "llama.cpp", "gguf", options.gguf, tokens[:1, :length], steps, options.threads
            )
        yield in_child(_quality, exported, packed, tokens, options.threads)


def _quick(work: Path) -> tuple[Path, Path]:
    """The seeded two-block model, dense and rounded to 4 bits."""
    dense, packed = work / "dense", work / "packed"
    in_child(_make_tiny, dense, packed)
    return dense, packed


def _make_tiny(dense: Path, packed: Path) -> None:
    import torch

    from tasks.adapters import tiny_model
    from tasks.compression.layerwise import quantize_folder

    dense.mkdir()
    tiny_model.write(dense)
    tokens = torch.zeros((1, QUICK_PROMPT_TOKENS), dtype=torch.int64)
    settings: dict[str, Any] = {"method": "rtn", "bits": 4, "group_size": 32, "symmetric": True, "damping": 0.01}
    list(quantize_folder(dense, packed, tokens, **settings))


def _export(packed: Path, exported: Path) -> None:
    from tasks.compression.onnx_export import export_onnx

    export_onnx(packed, exported)


def _quality(exported: Path, packed: Path, tokens: Any, threads: int) -> Quality:
    """Score ``tokens`` (blocks, length) with both; the packed folder in torch, float32."""
    import numpy as np
    import torch

    from tasks.compression.loading import load_for_compute
    from tasks.serving.onnx_session import OnnxDecoder

    torch.set_num_threads(threads)
    decoder, model = OnnxDecoder(exported, threads), load_for_compute(packed)
    sums = np.zeros(4)
    for block in tokens:
        targets = torch.from_numpy(block[1:, None].copy())
        with torch.inference_mode():
            mine = torch.from_numpy(decoder.logits(block[None])[0, :-1]).log_softmax(-1)
            its = model(input_ids=torch.from_numpy(block[None])).logits[0, :-1].log_softmax(-1)
            nll = [-float(each.gather(1, targets).sum()) for each in (its, mine)]
            agreed = int((mine.argmax(-1) == its.argmax(-1)).sum())
            sums += (*nll, agreed, float((its.exp() * (its - mine)).sum()))
    positions = len(tokens) * (tokens.shape[1] - 1)
    means = sums / positions
    packed_perplexity, exported_perplexity = (float(value) for value in np.exp(means[:2]))
    return Quality(SERVED, positions, packed_perplexity, exported_perplexity, float(means[2]), float(means[3]))


if __name__ == "__main__":
    main()
