"""What a version is served by: the target's group in the release form, and each target's own few options.

One group with a ``kind`` and a sub-group a kind, folded, not a union: the kind is chosen by name, with its help. What a
kind turns into is in ``adapters.serving_content``; what cannot work is refused by ``adapters.serveability`` before
anything is created.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tasks.forms import FOLDED
from tasks.recipes import Choice

Kind = Literal["own_cpu", "lmi", "huggingface", "neuron", "jumpstart"]
OptionName = Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]{0,100}$")]
OptionValue = Annotated[str, Field(max_length=1024)]


class Lmi(Choice):
    """Large Model Inference container (DJL Serving with vLLM), on NVIDIA GPUs."""

    tensor_parallel: int = Field(
        0, ge=0, le=16, description="GPUs that share one model; 0: as many of the instance's as divide the model"
    )
    max_model_len: int = Field(0, ge=0, le=1_048_576, description="Tokens of prompt and answer; 0: the model's own")
    dtype: Literal["auto", "float16", "bfloat16"] = Field(
        "auto", description="What it computes in; auto: the checkpoint's. T4 and V100 have no bfloat16"
    )
    concurrency: int = Field(
        32, ge=1, le=1024, description="Requests at once (OPTION_MAX_ROLLING_BATCH_SIZE); their KV cache needs memory"
    )
    version: Literal["0.38.0", "0.36.0", "0.35.0", "0.34.0", "0.33.0"] = Field(
        "0.38.0", description="Of the djl-inference image: LMI 29, 27, 17, 16, 15"
    )
    options: dict[OptionName, OptionValue] = Field(
        default={},
        description="More variables for the container: OPTION_ARGUMENT is vLLM's --argument. They win over the above",
    )


class HuggingFace(Choice):
    """Hugging Face inference container (plain transformers), on CPUs or GPUs. Reads dense folders."""

    version: Literal["5.5.3", "4.51.3"] = Field("5.5.3", description="Of transformers in the image")


class Neuron(Choice):
    """Hugging Face container for AWS Neuron (optimum-neuron), on Inferentia2 and Trainium. Shapes are compiled in."""

    batch_size: int = Field(1, ge=1, le=64, description="Requests at once that the model is compiled for")
    sequence_length: int = Field(
        4096, ge=128, le=131_072, description="Tokens of prompt and answer that the model is compiled for"
    )
    cores: int = Field(0, ge=0, le=64, description="NeuronCores that share one model; 0: all of the instance")
    cast: Literal["bf16", "fp16", "fp32"] = Field("bf16", description="What it computes in")
    version: Literal["0.3.0", "0.2.0"] = Field("0.3.0", description="Of optimum-neuron in the image")


class JumpStart(Choice):
    """A model of SageMaker's public hub: served first where the endpoint does not exist, then our version in the same
    container. The deployment ``hub-model`` serves the hub's model alone.
    """

    model_id: str = Field(
        "", pattern=r"^([a-zA-Z0-9](-*[a-zA-Z0-9]){0,62})?$", description="HubContentName in SageMakerPublicHub"
    )
    version: str = Field(
        "", pattern=r"^(\d{1,4}\.\d{1,4}\.\d{1,4})?$", description="HubContentVersion; empty: the newest"
    )
    accept_eula: bool = Field(False, description="I have read and accept the model's end-user licence agreement")
    max_new_tokens: int = Field(64, ge=1, le=8192, description="Of every request that a release sends itself")
    top_p: float = Field(0.9, gt=0, le=1, description="Of every request that a release sends itself")
    temperature: float = Field(0.6, gt=0, le=5, description="Of every request that a release sends itself")


class Target(Choice):
    """Which container serves the version. Only the group of the chosen kind is read."""

    kind: Kind = Field(
        "own_cpu",
        description="own_cpu: Slimline's own container. lmi: vLLM on NVIDIA GPUs. huggingface: transformers. neuron: "
        "Inferentia2, Trainium. jumpstart: the container of a hub model",
    )
    lmi: Lmi = Field(Lmi(), json_schema_extra=FOLDED)
    huggingface: HuggingFace = Field(HuggingFace(), json_schema_extra=FOLDED)
    neuron: Neuron = Field(Neuron(), json_schema_extra=FOLDED)
    jumpstart: JumpStart = Field(JumpStart(), json_schema_extra=FOLDED)
