"""Format × container × instance type × release mode: what cannot be served is refused with what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.adapters.images import ami_of, resolve_image
from tasks.adapters.instances import instance, instances
from tasks.adapters.memory_need import fitting, gpu_need, kv_bytes, tensor_parallel
from tasks.adapters.model_facts import read_facts
from tasks.adapters.obstacles import require_none
from tasks.adapters.sagemaker_limits import service_model
from tasks.adapters.serveability import obstacles
from tasks.adapters.serving_content import variables, variant_extras, volume_gb
from tasks.errors import RefusedModel, RefusedRequest
from tasks.hosted import ModelFacts
from tasks.plans import ReleasePlan
from tasks.preflight_serving import check_target, facts_of
from tasks.recipes import Recipe
from tasks.targets import Lmi, Neuron, Target
from tests.adapters.golden import DENSE, PACKED, hub, packaged, plan
from tests.serving.tiny_folder import CONTEXT, write_tiny_folder

ONNX = ModelFacts(format="onnx", bytes=10**8)
GPTQ = PACKED.model_copy(update={"format": "gptq"})


def found(facts: ModelFacts, chosen: ReleasePlan, image: str = "") -> dict[str, str]:
    """rule → severity; the worst of each."""
    model = hub(chosen.instance_type) if chosen.target.kind == "jumpstart" else None
    seen: dict[str, str] = {}
    for each in obstacles(facts, chosen, image, model):
        assert each.cause and each.observed and each.limit and each.remedy
        seen.setdefault(each.rule, each.severity)
    return seen


def lmi(instance_type: str = "ml.g5.12xlarge", **options: Any) -> ReleasePlan:
    return plan("lmi", "CANARY", instance_type=instance_type, target=Target(kind="lmi", lmi=Lmi(**options)))


@pytest.mark.parametrize(
    ("facts", "chosen", "rule", "severity"),
    [
        (GPTQ.model_copy(update={"bits": (3.0,)}), lmi(), "bits", "refuse"),
        (PACKED.model_copy(update={"bits": (2.0, 4.0)}), lmi(), "bits", "refuse"),
        (GPTQ.model_copy(update={"group_sizes": (48,)}), lmi(), "group size", "refuse"),
        (GPTQ.model_copy(update={"symmetric": False}), lmi(), "zero points", "refuse"),
        (GPTQ.model_copy(update={"act_order": True}), lmi(), "act order", "warn"),
        (GPTQ.model_copy(update={"hidden": 576, "heads": 9, "head_dim": 64}), lmi(), "layer widths", "warn"),
        (DENSE.model_copy(update={"pattern": "2:4"}), lmi(), "2:4", "warn"),
        (ONNX, lmi(), "format", "refuse"),
        (ONNX, plan("huggingface", "CANARY"), "format", "refuse"),
        (ONNX, plan("neuron", "CANARY"), "format", "refuse"),
        (ModelFacts(format="other"), lmi(), "format", "refuse"),
        (PACKED, plan("huggingface", "CANARY"), "format", "refuse"),
        (GPTQ, plan("neuron", "CANARY"), "format", "refuse"),
        (PACKED, plan("neuron", "CANARY"), "format", "refuse"),
        (DENSE, plan("neuron", "CANARY"), "compiled", "warn"),
        (DENSE, lmi("ml.m5.xlarge"), "device", "refuse"),
        (DENSE, lmi("ml.inf2.xlarge"), "device", "refuse"),
        (DENSE, plan("neuron", "CANARY", instance_type="ml.g5.xlarge"), "device", "refuse"),
        (DENSE, plan("own_cpu", "CANARY", instance_type="ml.g5.xlarge"), "device", "warn"),
        (DENSE, plan("neuron", "CANARY", instance_type="ml.inf1.xlarge"), "inf1", "refuse"),
        (DENSE, plan("own_cpu", "ROLLING", instance_type="ml.inf1.xlarge"), "inf1", "refuse"),
        (DENSE, plan("own_cpu", "ALL_AT_ONCE", instance_type="ml.inf1.xlarge"), "inf1", "warn"),
        (DENSE, plan("lmi", "CANARY", instances=1), "instances", "refuse"),
        (DENSE, lmi("ml.g4dn.12xlarge"), "dtype", "refuse"),
        (PACKED.model_copy(update={"activations": "fp8"}), lmi("ml.g5.12xlarge"), "FP8", "warn"),
        (PACKED.model_copy(update={"activations": "int8"}), lmi("ml.p3.8xlarge"), "W8A8", "refuse"),
        (PACKED, lmi(options={"OPTION_QUANTIZE": "gptq"}), "quantize", "refuse"),
        (PACKED, lmi("ml.g5.xlarge", tensor_parallel=2), "tensor parallel", "refuse"),
        (PACKED, lmi(tensor_parallel=3), "tensor parallel", "refuse"),
        (PACKED, lmi(max_model_len=200_000), "context", "refuse"),
        (DENSE, lmi("ml.g5.xlarge"), "memory", "refuse"),  # 16 GB, and 131,072 tokens of 128 KiB each
        (PACKED, lmi(), "memory", "warn"),
        (DENSE, plan("own_cpu", "CANARY"), "memory", "refuse"),
        (DENSE, plan("huggingface", "CANARY", instance_type="ml.g4dn.xlarge"), "memory", "refuse"),
        (DENSE, plan("jumpstart", "CANARY", instance_type="ml.m5.xlarge"), "device", "refuse"),
        (DENSE, plan("jumpstart", "CANARY", target=Target(kind="jumpstart")), "hub model", "refuse"),
        (DENSE, plan("jumpstart", "CANARY", target=Target(kind="jumpstart")), "licence", "refuse"),
        (PACKED.model_copy(update={"bits": (3.0,)}), plan("jumpstart", "CANARY"), "bits", "refuse"),
    ],
)  # fmt: skip
def test_what_stands_in_the_way_is_told(facts: ModelFacts, chosen: ReleasePlan, rule: str, severity: str) -> None:
    assert found(facts, chosen).get(rule) == severity


@pytest.mark.parametrize(
    ("facts", "chosen"),
    [
        (PACKED, lmi(max_model_len=8192)),
        (PACKED, lmi("ml.g5.xlarge", max_model_len=4096, concurrency=8)),
        (DENSE, plan("neuron", "CANARY", instance_type="ml.inf2.8xlarge")),
        (ModelFacts(format="onnx", bytes=10**8), plan("own_cpu", "CANARY")),
        (GPTQ.model_copy(update={"bits": (3.0,), "parameters": 135_000_000}), plan("own_cpu", "CANARY")),
        (DENSE, plan("own_cpu", "WEIGHTS", instances=1, instance_type="ml.r5.4xlarge")),
    ],
)
def test_what_can_be_served_passes(facts: ModelFacts, chosen: ReleasePlan) -> None:
    assert "refuse" not in found(facts, chosen).values()


def test_every_refusal_is_in_the_error() -> None:
    chosen = plan("lmi", "CANARY", instances=1)
    with pytest.raises(RefusedRequest) as refused:
        require_none(obstacles(GPTQ.model_copy(update={"bits": (3.0,), "group_sizes": (48,)}), chosen))
    said = str(refused.value)
    for word in ("3 bits", "groups of [48]", "at least 2 instances", "plan.instances"):
        assert word in said


def test_cuda_13_is_not_for_volta_and_names_its_driver() -> None:
    image = resolve_image("lmi", "us-east-1", "0.36.0", "ml.p3.2xlarge")
    assert found(DENSE.model_copy(update={"dtype": "float16"}), lmi("ml.p3.2xlarge"), image)["cuda"] == "refuse"
    amis = service_model("sagemaker").shape_for("ProductionVariantInferenceAmiVersion").enum  # type: ignore[attr-defined]
    for version in ("0.38.0", "0.36.0", "0.35.0", "0.34.0", "0.33.0"):
        assert ami_of(resolve_image("lmi", "eu-west-1", version, "ml.g5.xlarge")) in amis


def test_images_are_found_by_region_version_and_device() -> None:
    assert resolve_image("lmi", "me-central-1", "0.38.0", "ml.g5.xlarge").startswith(
        "914824155844.dkr.ecr.me-central-1."
    )
    assert "-cpu-" in resolve_image("huggingface", "us-east-1", "5.5.3", "ml.c5.xlarge")
    assert "-gpu-" in resolve_image("huggingface", "us-east-1", "5.5.3", "ml.g6.xlarge")
    assert ".amazonaws.com.cn/" in resolve_image("neuron", "cn-north-1", "0.3.0", "ml.inf2.xlarge")
    with pytest.raises(RefusedRequest, match="no lmi image"):
        resolve_image("lmi", "mars-north-1", "0.38.0", "ml.g5.xlarge")
    assert resolve_image("lmi", "mars-north-1", "1", "ml.g5.xlarge", lambda *asked: "-".join(asked)).startswith(
        "lmi-mars"
    )


def test_every_vendored_instance_type_is_one_of_sagemakers() -> None:
    known = service_model("sagemaker").shape_for("ProductionVariantInstanceType").enum  # type: ignore[attr-defined]
    assert set(instances()) <= set(known)
    devices = {name: instance(name).device for name in known}
    assert {name.split(".")[1] for name, device in devices.items() if device == "unknown"} == set()
    assert (
        devices["ml.m7i.4xlarge"] == "cpu"
        and devices["ml.g7e.2xlarge"] == "gpu"
        and devices["ml.trn2.48xlarge"] == "neuron"
    )


def test_memory_is_weights_cache_and_what_lies_beside() -> None:
    assert kv_bytes(DENSE, 1, "bfloat16") == 2 * 32 * 8 * 128 * 2 == 131_072
    need = gpu_need(PACKED, 1, 4096, "auto", 8)
    assert need.weights == PACKED.bytes and need.one == 4096 * 131_072
    half = gpu_need(PACKED, 2, 4096, "auto", 8)
    assert (half.weights, half.one) == (PACKED.bytes // 2, 2048 * 131_072)
    assert tensor_parallel(PACKED, 8) == 8
    # 9 heads and 3 KV heads, as SmolLM2-135M has them, go by three or not at all.
    assert tensor_parallel(DENSE.model_copy(update={"heads": 9, "kv_heads": 3, "intermediate": 1536}), 8) == 3
    fits = fitting(PACKED, 4096, "auto", 8)
    assert fits[:2] and "ml.g4dn.xlarge" in fits and set(fitting(DENSE, 4096, "auto", 8)) < set(fits)
    assert fitting(DENSE.model_copy(update={"bytes": 10**13}), 4096, "auto", 1) == []


def test_lmi_is_told_what_the_plan_says_and_no_format() -> None:
    asked = lmi(max_model_len=8192, dtype="bfloat16", concurrency=16, options={"OPTION_SEED": "1"})
    assert variables(packaged(asked), asked) == {
        "HF_MODEL_ID": "/opt/ml/model", "TENSOR_PARALLEL_DEGREE": "4", "OPTION_DTYPE": "bfloat16",
        "OPTION_MAX_ROLLING_BATCH_SIZE": "16", "OPTION_MAX_MODEL_LEN": "8192", "OPTION_SEED": "1",
    }  # fmt: skip
    older = lmi(version="0.34.0")
    assert variables(packaged(older), older)["OPTION_ASYNC_MODE"] == "true"


def test_a_volume_is_asked_for_only_where_it_can_be_chosen() -> None:
    assert volume_gb(plan("neuron", "CANARY"), 16 * 10**9) == 42
    assert volume_gb(plan("neuron", "CANARY"), 10**9) == 0
    assert volume_gb(plan("lmi", "CANARY"), 16 * 10**9) == 0  # g5 has NVMe
    large = packaged(lmi()).model_copy(update={"facts": DENSE.model_copy(update={"bytes": 10**12})})
    extras = variant_extras(large, lmi())
    assert extras["ModelDataDownloadTimeoutInSeconds"] == extras["ContainerStartupHealthCheckTimeoutInSeconds"] == 3600


def test_a_folders_facts_are_read_from_its_files(tmp_path: Path) -> None:
    folder = write_tiny_folder(tmp_path / "tiny")
    facts = read_facts(folder)
    assert (facts.format, facts.dtype, facts.layers, facts.heads, facts.kv_heads) == ("dense", "float32", 2, 4, 2)
    assert (facts.context, facts.head_dim, facts.pattern) == (CONTEXT, 8, "")
    weights = load_file(folder / "model.safetensors")
    for name in weights:
        if name.endswith("proj.weight"):
            weights[name] = weights[name] * torch.tensor([1.0, 0.0, 0.0, 1.0]).repeat(weights[name].shape[1] // 4)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert read_facts(folder).pattern == "2:4"
    with pytest.raises(RefusedModel, match="no model folder"):
        read_facts(tmp_path)


def test_two_of_four_is_seen_in_packed_codes_too(tmp_path: Path) -> None:
    folder = write_tiny_folder(tmp_path / "tiny")
    codes = np.tile(np.array([8, 8, 3, 12]), (32, 16)).reshape(32, 8, 8)
    packed = (codes << (4 * np.arange(8))).sum(axis=2).astype(np.uint32).astype(np.int32)
    name = "model.layers.0.mlp.down_proj.weight_packed"
    save_file({name: torch.from_numpy(packed)}, folder / "model.safetensors", metadata={"format": "pt"})
    config = (folder / "config.json").read_text().rstrip().removesuffix("}")
    groups = '{"group_0": {"weights": {"num_bits": 4, "group_size": 32, "symmetric": true}}}'
    quantization = f'{{"quant_method": "compressed-tensors", "config_groups": {groups}}}'
    (folder / "config.json").write_text(f'{config}, "quantization_config": {quantization}}}')
    facts = read_facts(folder)
    assert (facts.format, facts.bits, facts.group_sizes, facts.pattern) == ("compressed-tensors", (4.0,), (32,), "2:4")


@pytest.mark.parametrize(
    ("recipe", "word"),
    [
        ({"quantize": {"bits": 3}}, "4 and 8 bits"),
        ({"quantize": {"mean_bits": 3.5}}, "4 and 8 bits"),
        ({"quantize": {"format": "gptq", "symmetric": False}}, "zero points"),
    ],
)
def test_a_recipe_whose_result_the_target_does_not_read_is_refused_before_it_is_made(
    recipe: dict[str, Any], word: str
) -> None:
    with pytest.raises(RefusedRequest, match=word):
        check_target(Recipe.model_validate(recipe), lmi())
    check_target(Recipe.model_validate(recipe), plan("own_cpu", "CANARY"))


def test_a_recipes_facts() -> None:
    made = facts_of(Recipe.model_validate({"prune": {"pattern": "2:4"}, "quantize": {"bits": 8, "group_size": 0}}))
    assert (made.format, made.bits, made.group_sizes, made.pattern) == ("compressed-tensors", (8.0,), (-1,), "2:4")
    cast = facts_of(Recipe.model_validate({"order": ["quantize"], "quantize": {"method": "float16"}}))
    assert (cast.format, cast.dtype) == ("dense", "float16")
    with pytest.raises(RefusedRequest, match="no kernels for GPTQ"):
        check_target(Recipe(), plan("neuron", "CANARY", target=Target(kind="neuron", neuron=Neuron())))
