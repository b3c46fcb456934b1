"""What a container needs to know of a model: read from its folder, or from a hub's document. Plain frozen values."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Format = Literal["dense", "gptq", "compressed-tensors", "onnx", "other"]


class Hosted(BaseModel):
    """Frozen, strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelFacts(Hosted):
    """Of one model folder. 0 and empty: not known (a recipe whose model has not been made, say)."""

    format: Format = Field(description="How the weights of the blocks are stored")
    bytes: int = Field(default=0, description="Of all files")
    parameters: int = Field(default=0, description="Weights as stored dense, tied ones once")
    dtype: str = Field(default="", description="Of what is not quantized: float32, float16, bfloat16")
    layers: int = 0
    hidden: int = 0
    intermediate: int = 0
    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    context: int = Field(default=0, description="Tokens, max_position_embeddings")
    bits: tuple[float, ...] = Field(default=(), description="Of quantized weights, each width that occurs, ascending")
    group_sizes: tuple[int, ...] = Field(default=(), description="Input columns a scale; -1: a whole row")
    symmetric: bool = True
    act_order: bool = Field(default=False, description="desc_act: the columns of a group are not beside each other")
    activations: Literal["", "int8", "fp8"] = Field(default="", description="Whether inputs are rounded too")
    pattern: str = Field(default="", description="2:4 where the zeros lie so; empty otherwise")
    neuron: bool = Field(default=False, description="The folder is compiled for Neuron")


class HubModel(Hosted):
    """A hub model as it is hosted: what DescribeHubContent's document says for one instance type."""

    model_id: str
    version: str
    image: str
    s3_uri: str
    data_type: Literal["S3Prefix", "S3Object"] = "S3Prefix"
    compression: Literal["None", "Gzip"] = "None"
    environment: dict[str, str]
    instance_types: tuple[str, ...] = Field(default=(), description="SupportedInferenceInstanceTypes")
    gated: bool = Field(default=False, description="Its licence agreement must be accepted")
    eula: str = Field(default="", description="Where that agreement lies")
    network_isolation: bool = False
    volume_gb: int = 0
    ami: str = ""
    download_seconds: int = 0
    startup_seconds: int = 0
