"""How much memory a model needs to be served, and which instance types have it.

vLLM takes ``gpu_memory_utilization`` (0.9) of each GPU, puts the weights there, measures what a forward pass needs, and
gives the rest to the KV cache; a request of the greatest length must fit, or it does not start
(https://docs.vllm.ai/en/latest/configuration/conserving_memory.html).
"""

from __future__ import annotations

from dataclasses import dataclass

from tasks.adapters.instances import Instance, instances
from tasks.hosted import ModelFacts

UTILIZATION = 0.9
OVERHEAD = 3 << 29  # bytes a GPU: CUDA context, graphs and activations, 1.5 GiB
HOST_USE = 0.85  # of an instance's memory, beside the system and SageMaker's agents
PROCESS = 1 << 30  # of a CPU container: Python, torch, buffers
_BYTES = {"float16": 2, "bfloat16": 2, "fp16": 2, "bf16": 2, "float32": 4, "fp32": 4}
_CONTEXT = 2048  # where config.json names none


@dataclass(frozen=True)
class Need:
    """Bytes on each of ``shards`` accelerators. ``one``: KV cache of one request of the greatest length."""

    weights: int
    one: int
    overhead: int
    shards: int
    concurrency: int

    def total(self, requests: int) -> int:
        return self.weights + self.overhead + requests * self.one

    def requests(self, memory: int) -> int:
        """How many requests of the greatest length fit an accelerator with so many usable bytes; 0: not even one."""
        return max(0, (memory - self.weights - self.overhead) // max(1, self.one))


def kv_bytes(facts: ModelFacts, tokens: int, dtype: str) -> int:
    """Keys and values of ``tokens`` tokens: 2 · layers · KV heads · head width · bytes a value."""
    return 2 * facts.layers * facts.kv_heads * facts.head_dim * _BYTES.get(dtype, 2) * tokens


def tensor_parallel(facts: ModelFacts, accelerators: int) -> int:
    """The most accelerators that heads, KV heads, MLP width and groups of columns divide evenly among."""
    if not facts.heads:
        return accelerators
    fits = (each for each in range(accelerators, 0, -1) if divides(facts, each))
    return next(fits, 1)


def divides(facts: ModelFacts, shards: int) -> bool:
    """Whether the model can be cut into so many equal parts, as vLLM cuts it."""
    groups = [size for size in facts.group_sizes if size > 0] or [1]
    heads = facts.heads % shards == 0 and (facts.kv_heads % shards == 0 or shards % facts.kv_heads == 0)
    return heads and all(facts.intermediate % (shards * size) == 0 for size in groups)


def gpu_need(facts: ModelFacts, shards: int, max_model_len: int, dtype: str, concurrency: int) -> Need:
    """Of vLLM. ``dtype``: auto takes the checkpoint's; float32 checkpoints are computed in float16."""
    tokens = max_model_len or facts.context or _CONTEXT
    compute = dtype if dtype != "auto" else "bfloat16" if facts.dtype == "bfloat16" else "float16"
    weights = facts.bytes
    if facts.format == "dense" and facts.dtype == "float32":
        weights //= 2
    copies = max(1, -(-shards // max(1, facts.kv_heads)))  # more GPUs than KV heads hold the same ones
    one = kv_bytes(facts, tokens, compute) * copies // shards
    return Need(-(-weights // shards), one, OVERHEAD, shards, concurrency)


def neuron_need(facts: ModelFacts, cores: int, batch: int, tokens: int, cast: str) -> Need:
    """Of a compiled model: weights in the cast's width and a KV cache for the whole batch, shared by ``cores``."""
    weights = facts.parameters * _BYTES[cast]
    return Need(weights // cores, kv_bytes(facts, tokens, cast) // cores, OVERHEAD // 4, cores, batch)


def cpu_need(facts: ModelFacts) -> int:
    """Bytes of a CPU container: an exported file as it is, everything else as float32."""
    weights = facts.bytes if facts.format == "onnx" else 4 * facts.parameters
    return int(weights * 1.1) + PROCESS


def fitting(facts: ModelFacts, max_model_len: int, dtype: str, concurrency: int) -> list[str]:
    """NVIDIA instance types of the table on which so many requests of the greatest length fit, least memory first."""
    good: list[tuple[int, str]] = []
    for each in instances().values():
        if each.device == "gpu" and _fits(facts, each, max_model_len, dtype, concurrency):
            good.append((each.memory * each.count, each.name))
    return [name for _, name in sorted(good)]


def _fits(facts: ModelFacts, each: Instance, max_model_len: int, dtype: str, concurrency: int) -> bool:
    need = gpu_need(facts, tensor_parallel(facts, each.count), max_model_len, dtype, concurrency)
    return need.total(concurrency) <= UTILIZATION * each.memory
