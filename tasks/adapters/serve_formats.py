"""Which stored formats which container reads, and with which kernels.

vLLM: pull requests 38288 (GPTQ keeps the Marlin kernels: 4 and 8 bits, symmetric) and 36799 (the 2:4 sparse kernels are
gone), and https://docs.vllm.ai/en/latest/features/quantization/. Neuron: optimum-neuron compiles dense weights.
"""

from __future__ import annotations

from collections.abc import Iterator

from tasks.adapters.instances import Instance
from tasks.adapters.obstacles import Obstacle, refuse, warn
from tasks.hosted import ModelFacts

MARLIN_BITS = (4.0, 8.0)
MARLIN_GROUPS = (-1, 32, 64, 128)
_K, _N = 128, 64  # Marlin's least multiples of a layer's columns and rows on one GPU
_QUANTIZED = ("gptq", "compressed-tensors", "other")


def vllm(facts: ModelFacts, where: Instance, shards: int, dtype: str) -> Iterator[Obstacle]:
    """What vLLM does with the folder on this GPU, ``shards`` of them together."""
    if facts.format == "onnx":
        yield _onnx("the LMI container")
        return
    if facts.format == "other":
        yield refuse(
            "format", "vLLM's reader of this format is not known here", "quant_method of config.json",
            "dense, gptq or compressed-tensors", "quantize with recipe.quantize.format compressed-tensors or gptq",
        )  # fmt: skip
        return
    if facts.pattern:
        yield warn(
            "2:4", "vLLM has no kernel for 2:4 zeros any more: the layers are multiplied as if they had none",
            "2 of every 4 weights are zero", "no speed and no memory from zeros",
            "quantize too, or prune in structures (recipe.prune.method structured)",
        )  # fmt: skip
    if facts.activations:
        yield from _eight_bits(facts, where)
    elif facts.bits:
        yield from _weights(facts, shards)
    computes = facts.dtype if dtype == "auto" else dtype
    if computes == "bfloat16" and 0 < where.capability < 8.0:
        yield refuse(
            "dtype", f"{where.accelerator} has no bfloat16", f"{computes} on CUDA capability {where.capability}",
            "capability 8.0 for bfloat16", "set plan.target.lmi.dtype to float16, or take a g5, g6 or newer instance",
        )  # fmt: skip


def _weights(facts: ModelFacts, shards: int) -> Iterator[Obstacle]:
    if wrong := [bits for bits in facts.bits if bits not in MARLIN_BITS]:
        yield refuse(
            "bits", "vLLM's kernels for integer weights (Marlin) take 4 and 8 bits",
            f"{', '.join(f'{bits:g}' for bits in wrong)} bits", "4 or 8 bits in every layer",
            "set recipe.quantize.bits to 4 and mean_bits to 0, or serve it with own_cpu",
        )  # fmt: skip
    if wrong_sizes := [size for size in facts.group_sizes if size not in MARLIN_GROUPS]:
        yield refuse(
            "group size", "vLLM's Marlin kernels take other group sizes", f"groups of {wrong_sizes}",
            "32, 64, 128 or one scale a row", "set recipe.quantize.group_size to 32, 64, 128 or 0",
        )  # fmt: skip
    if facts.format == "gptq" and not facts.symmetric:
        yield refuse(
            "zero points", "vLLM reads GPTQ folders without zero points only", "sym = false", "symmetric grids",
            "set recipe.quantize.symmetric to True",
        )  # fmt: skip
    if facts.act_order:
        yield warn(
            "act order", "columns out of order: kernels gather, and with several GPUs each holds every scale",
            "desc_act = true", "slower than without", "quantize again: Slimline writes columns in order",
        )  # fmt: skip
    if facts.hidden and not _marlin_shape(facts, shards):
        yield warn(
            "layer widths", "Marlin does not take layers of these widths; vLLM looks for another, slower kernel",
            f"width {facts.hidden}, MLP {facts.intermediate}, on {shards} GPU(s)",
            f"columns in multiples of {_K} and rows of {_N} on each GPU",
            "try it on a small endpoint first, or serve it dense or with own_cpu",
        )  # fmt: skip


def _marlin_shape(facts: ModelFacts, shards: int) -> bool:
    queries = facts.heads * facts.head_dim
    columns = (facts.hidden, facts.intermediate // shards, queries // shards)
    rows = (facts.hidden, facts.intermediate // shards, queries // shards)
    return all(each % _K == 0 for each in columns) and all(each % _N == 0 for each in rows)


def _eight_bits(facts: ModelFacts, where: Instance) -> Iterator[Obstacle]:
    """Rounded inputs: int8 needs Turing's, fp8 Ada's tensor cores."""
    if facts.activations == "int8" and 0 < where.capability < 7.5:
        yield refuse(
            "W8A8", f"{where.accelerator} has no 8-bit integer kernels", f"CUDA capability {where.capability}",
            "7.5", "take a g4dn, g5 or newer instance",
        )  # fmt: skip
    if facts.activations == "fp8" and 0 < where.capability < 8.9:
        fallback = where.capability >= 8.0
        yield (warn if fallback else refuse)(
            "FP8", f"{where.accelerator} has no FP8 arithmetic" + (": weights only, inputs as 16 bits" * fallback),
            f"CUDA capability {where.capability}", "8.9", "take a g6, g6e or p5 instance",
        )  # fmt: skip


def transformers(facts: ModelFacts) -> Iterator[Obstacle]:
    """The Hugging Face container holds transformers without the libraries that quantized folders need."""
    if facts.format == "onnx":
        yield _onnx("the Hugging Face container")
    elif facts.format in _QUANTIZED:
        needs = {"gptq": "GPTQModel", "compressed-tensors": "compressed-tensors"}.get(facts.format, "its own library")
        yield refuse(
            "format", f"transformers asks for {needs}, which AWS does not list among the image's packages",
            f"{facts.format} folder", "a dense folder",
            "use target lmi for it, or release a pruned or cast version without quantization",
        )  # fmt: skip


def neuron(facts: ModelFacts) -> Iterator[Obstacle]:
    """optimum-neuron compiles dense weights; integer checkpoints have no kernels on NeuronCores."""
    if facts.format == "onnx":
        yield _onnx("the Neuron container")
    elif facts.format in _QUANTIZED:
        yield refuse(
            "format", "NeuronCores have no kernels for GPTQ and compressed-tensors weights", f"{facts.format} folder",
            "dense float32, float16 or bfloat16 weights",
            "release the pruned and distilled version without quantize (recipe.order), or quantize to bfloat16: "
            "plan.target.neuron.cast decides what it computes in",
        )  # fmt: skip


def _onnx(container: str) -> Obstacle:
    return refuse(
        "format", f"{container} reads safetensors, not the exported ONNX file", "model.onnx",
        "the compressed folder", "set plan.serve to auto or torch",
    )  # fmt: skip
