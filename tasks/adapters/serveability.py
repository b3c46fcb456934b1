"""Can this folder be served by this container on these instances and be released this way? Asked before anything is
created; answered from a folder's headers, a vendored table of instances and the plan, without any call.
"""

from __future__ import annotations

from collections.abc import Iterator

from tasks.adapters import serve_formats
from tasks.adapters.images import cuda_of, repository
from tasks.adapters.instances import Instance, instance
from tasks.adapters.memory_need import (
    HOST_USE,
    OVERHEAD,
    UTILIZATION,
    cpu_need,
    divides,
    fitting,
    gpu_need,
    kv_bytes,
    neuron_need,
    tensor_parallel,
)
from tasks.adapters.obstacles import Obstacle, refuse, warn
from tasks.adapters.serve_rollout import rollout
from tasks.hosted import HubModel, ModelFacts
from tasks.plans import ReleasePlan

UNKNOWN = ModelFacts(format="dense")
_GB = 1e9
_PROMPT = 2048  # tokens
_DEVICES = {"lmi": ("gpu",), "neuron": ("neuron",), "huggingface": ("cpu", "gpu"), "own_cpu": ("cpu",)}
_EXAMPLES = {"lmi": "ml.g5.xlarge", "neuron": "ml.inf2.xlarge", "huggingface": "ml.m5.xlarge"}


def obstacles(facts: ModelFacts, plan: ReleasePlan, image: str = "", hub: HubModel | None = None) -> list[Obstacle]:
    """Everything that stands in the way, refusals first. ``image`` is known once it was resolved."""
    where = instance(plan.instance_type)
    found = [*rollout(plan, where), *_device(plan, where)]
    if not any(each.rule == "device" and each.severity == "refuse" for each in found):
        found += [*_container(facts, plan, where, hub), *_cuda(image, where)]
    found += _volume(facts, plan, where)
    return sorted(found, key=lambda each: each.severity)


def _device(plan: ReleasePlan, where: Instance) -> Iterator[Obstacle]:
    kind, wanted = plan.target.kind, _DEVICES.get(plan.target.kind)
    if kind == "own_cpu":
        if where.device in ("gpu", "neuron"):
            yield warn(
                "device", "Slimline's own container computes on the CPU", f"own_cpu on {plan.instance_type}",
                "the accelerator is idle", "choose plan.target.kind lmi or neuron, or a CPU instance",
            )  # fmt: skip
    elif wanted and where.device not in (*wanted, "unknown"):
        yield refuse(
            "device", f"the {kind} container does not run on this instance", f"{where.device}: {plan.instance_type}",
            " or ".join(wanted), f"set plan.instance_type, to {_EXAMPLES[kind]} for instance",
        )  # fmt: skip
    elif plan.serve == "onnx":
        yield refuse(
            "format", "the exported ONNX file is for Slimline's own container", f"plan.serve = onnx, target {kind}",
            "target own_cpu", "set plan.serve to auto",
        )  # fmt: skip


def _container(facts: ModelFacts, plan: ReleasePlan, where: Instance, hub: HubModel | None) -> Iterator[Obstacle]:
    kind = plan.target.kind
    if kind == "lmi":
        yield from _lmi(facts, plan, where)
    elif kind == "neuron":
        yield from _neuron(facts, plan, where)
    elif kind == "jumpstart":
        yield from _jumpstart(facts, plan, where, hub)
    else:
        if kind == "huggingface":
            yield from serve_formats.transformers(facts)
            yield from _one_gpu(facts, where)
        if where.device == "cpu":
            yield from _host_memory(facts, where)


def shards_of(facts: ModelFacts, plan: ReleasePlan, where: Instance) -> int:
    """GPUs that share the model, as the plan says or as they divide it."""
    return plan.target.lmi.tensor_parallel or tensor_parallel(facts, max(1, where.count))


def _lmi(facts: ModelFacts, plan: ReleasePlan, where: Instance) -> Iterator[Obstacle]:
    chosen = plan.target.lmi
    shards = shards_of(facts, plan, where)
    yield from serve_formats.vllm(facts, where, shards, chosen.dtype)
    if "OPTION_QUANTIZE" in chosen.options and facts.format != "dense":
        yield refuse(
            "quantize", "vLLM finds a quantized folder's format itself; naming one keeps it from its fast kernels",
            f"OPTION_QUANTIZE = {chosen.options['OPTION_QUANTIZE']} with a {facts.format} folder",
            "no OPTION_QUANTIZE", "remove it from plan.target.lmi.options",
        )  # fmt: skip
    if where.count and shards > where.count:
        yield refuse(
            "tensor parallel", "the instance has fewer GPUs", f"tensor_parallel = {shards}", f"{where.count}",
            "set plan.target.lmi.tensor_parallel to 0",
        )  # fmt: skip
    elif facts.heads and not divides(facts, shards):
        yield refuse(
            "tensor parallel", "heads, MLP width and groups do not divide evenly among the GPUs",
            f"{facts.heads} heads, {facts.kv_heads} KV heads, MLP {facts.intermediate} on {shards} GPUs",
            f"at most {tensor_parallel(facts, max(1, where.count))}", "set plan.target.lmi.tensor_parallel to 0",
        )  # fmt: skip
    if facts.context and chosen.max_model_len > facts.context:
        yield refuse(
            "context", "the model knows fewer positions", f"max_model_len = {chosen.max_model_len}",
            f"{facts.context} tokens", "set plan.target.lmi.max_model_len to 0",
        )  # fmt: skip
    if facts.layers and facts.bytes and where.memory:
        yield from _gpu_memory(facts, plan, where, shards)


def _gpu_memory(facts: ModelFacts, plan: ReleasePlan, where: Instance, shards: int) -> Iterator[Obstacle]:
    chosen = plan.target.lmi
    need = gpu_need(facts, shards, chosen.max_model_len, chosen.dtype, chosen.concurrency)
    usable = int(UTILIZATION * where.memory)
    requests = need.requests(usable)
    if requests >= chosen.concurrency:
        return
    good = fitting(facts, chosen.max_model_len, chosen.dtype, 1 if not requests else chosen.concurrency)
    instead = f"take {' or '.join(good[:3])}" if good else "no instance of the table has it"
    observed = (
        f"{need.weights / _GB:.2f} GB of weights, {need.overhead / _GB:.2f} GB beside them and {need.one / _GB:.2f} GB "
        f"a request of the greatest length, on each of {shards} GPU(s)"
    )
    limit = f"{usable / _GB:.2f} GB usable of each {where.accelerator}"
    shorter = "set a smaller plan.target.lmi.max_model_len"
    if not requests:
        yield refuse("memory", "the model does not fit this instance", observed, limit, f"{instead}, or {shorter}")
    else:
        yield warn(
            "memory", f"{requests} requests of the greatest length fit at once, others wait in the queue",
            observed, f"{limit}; asked for are {chosen.concurrency} at once", f"{instead}, or {shorter}",
        )  # fmt: skip


def _one_gpu(facts: ModelFacts, where: Instance) -> Iterator[Obstacle]:
    """The Hugging Face container puts the whole model on one GPU, in the checkpoint's type."""
    if where.memory and facts.layers and facts.format == "dense":
        need, usable = facts.bytes + kv_bytes(facts, _PROMPT, facts.dtype) + OVERHEAD, int(UTILIZATION * where.memory)
        if need > usable:
            yield refuse(
                "memory", "the model does not fit one GPU", f"{need / _GB:.2f} GB with a prompt of {_PROMPT} tokens",
                f"{usable / _GB:.2f} GB usable of each {where.accelerator}",
                "take an instance with larger GPUs, or target lmi, which shares a model among several",
            )  # fmt: skip


def _neuron(facts: ModelFacts, plan: ReleasePlan, where: Instance) -> Iterator[Obstacle]:
    chosen = plan.target.neuron
    yield from serve_formats.neuron(facts)
    if where.inf1:
        yield refuse(
            "device", "the Neuron container of today runs on the second generation", plan.instance_type,
            "ml.inf2 or ml.trn1", "take an ml.inf2 instance",
        )  # fmt: skip
        return
    cores = chosen.cores or where.cores
    if where.cores and cores > where.cores:
        yield refuse(
            "cores", "the instance has fewer NeuronCores", f"cores = {cores}", f"{where.cores}",
            "set plan.target.neuron.cores to 0",
        )  # fmt: skip
    elif facts.heads and cores and facts.heads % cores:
        yield refuse(
            "cores", "the model's heads do not divide evenly among the NeuronCores", f"{facts.heads} heads, {cores}",
            "a divisor", f"set plan.target.neuron.cores to {_divisor(facts.heads, cores)}",
        )  # fmt: skip
    if facts.context and chosen.sequence_length > facts.context:
        yield refuse(
            "context", "the model knows fewer positions", f"sequence_length = {chosen.sequence_length}",
            f"{facts.context} tokens", "set plan.target.neuron.sequence_length to that or less",
        )  # fmt: skip
    if facts.format == "dense" and not facts.neuron:
        yield warn(
            "compiled", "the folder is not compiled for Neuron; the container compiles it when it starts only where "
            "its cache has the graph", "no neuron entry in config.json", "a compiled folder, or up to an hour",
            f"compile it on a Neuron machine: {export_command(plan, cores)}",
        )  # fmt: skip
    if facts.parameters and facts.layers and where.memory and cores:
        need = neuron_need(facts, cores, chosen.batch_size, chosen.sequence_length, chosen.cast)
        usable = where.memory * where.count // max(1, where.cores)
        if need.total(chosen.batch_size) > usable:
            yield refuse(
                "memory", "the compiled model does not fit these NeuronCores",
                f"{need.total(chosen.batch_size) / _GB:.2f} GB on each of {cores}", f"{usable / _GB:.2f} GB",
                "take a larger ml.inf2, or a smaller batch_size or sequence_length",
            )  # fmt: skip


def export_command(plan: ReleasePlan, cores: int) -> str:
    """optimum-neuron's export with the plan's shapes; needs the Neuron SDK, on any instance with it."""
    chosen = plan.target.neuron
    return (
        f"optimum-cli export neuron --model FOLDER --task text-generation --batch_size {chosen.batch_size} "
        f"--sequence_length {chosen.sequence_length} --num_cores {max(1, cores)} --auto_cast_type {chosen.cast} OUT"
    )


def _jumpstart(facts: ModelFacts, plan: ReleasePlan, where: Instance, hub: HubModel | None) -> Iterator[Obstacle]:
    if not plan.target.jumpstart.model_id:
        yield refuse(
            "hub model", "no hub model is named", "plan.target.jumpstart.model_id is empty", "a HubContentName",
            "name one, as SageMaker Studio's JumpStart lists it",
        )  # fmt: skip
    if hub is None:
        return
    if hub.instance_types and plan.instance_type not in hub.instance_types:
        yield refuse(
            "device", f"{hub.model_id} is not offered on this instance", plan.instance_type,
            ", ".join(hub.instance_types), "take one of those",
        )  # fmt: skip
    if hub.gated and not plan.target.jumpstart.accept_eula:
        yield refuse(
            "licence", f"{hub.model_id} has a licence agreement that must be accepted", "accept_eula = False",
            "accept_eula = True",
            f"read {hub.eula or 'it in SageMaker Studio'} and set plan.target.jumpstart.accept_eula",
        )  # fmt: skip
    if repository(hub.image) == "djl-inference":
        yield from serve_formats.vllm(facts, where, tensor_parallel(facts, max(1, where.count)), "auto")
    elif facts.format != "dense":
        yield warn(
            "format", "whether this hub container reads the format is not known here",
            f"{facts.format} in {repository(hub.image)}", "a dense folder is safe", "try it on an endpoint of its own",
        )  # fmt: skip


def _host_memory(facts: ModelFacts, where: Instance) -> Iterator[Obstacle]:
    if not (facts.parameters or facts.format == "onnx") or not where.host:
        return
    need, usable = cpu_need(facts), int(HOST_USE * where.host)
    if need > usable:
        yield refuse(
            "memory", "the model does not fit this instance's memory",
            f"{need / _GB:.2f} GB (float32 weights, and 1 GiB for the process)", f"{usable / _GB:.2f} GB usable",
            "take a larger instance, or one of the r family; an exported version needs less",
        )  # fmt: skip


def _cuda(image: str, where: Instance) -> Iterator[Obstacle]:
    if cuda_of(image) >= 13 and 0 < where.capability < 7.5:
        yield refuse(
            "cuda", f"CUDA 13 has no code for {where.accelerator}", repository(image), "CUDA capability 7.5",
            "take a g4dn or newer instance, or an LMI version before 0.36.0",
        )  # fmt: skip


def _volume(facts: ModelFacts, plan: ReleasePlan, where: Instance) -> Iterator[Obstacle]:
    room = where.store or (512 - 30) * 10**9
    if plan.target.kind != "own_cpu" and facts.bytes > 0.9 * room:
        yield refuse(
            "disk", "the model's files do not fit the instance's storage", f"{facts.bytes / _GB:.0f} GB",
            f"{0.9 * room / _GB:.0f} GB", "take an instance with more local storage",
        )  # fmt: skip


def _divisor(number: int, most: int) -> int:
    return next(each for each in range(most, 0, -1) if number % each == 0)
