"""What a person chooses. Each class is a group in the form that Prefect draws: bounds, units and defaults are the
form.

The defaults run on a laptop as they are. Cross-field rules that a JSON schema cannot say are in ``preflight`` and
are checked before any work.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks.adapters.documents import Shape
from tasks.contracts import Place
from tasks.forms import FOLDED, as_form

CompressStage = Literal["prune", "quantize", "distill"]
CpuExport = Literal["auto", "onnx", "none"]


class Choice(BaseModel):
    """A group of the form: frozen, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=as_form)

    @model_validator(mode="before")
    @classmethod
    def _defaults_where_folded(cls, values: Any) -> Any:
        """The form sends null for a group that was left folded."""
        if not isinstance(values, dict):
            return values
        folded = {name for name, field in cls.model_fields.items() if field.json_schema_extra is FOLDED}
        return {name: value for name, value in values.items() if value is not None or name not in folded}


def short_source(source: str) -> str:
    """The last part of a folder's path or of a hub id: a whole path is no name for a run."""
    return source.rstrip("/").rpartition("/")[2] or source


ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,100}$")]


class ModelChoice(Choice):
    """The model to compress."""

    source: str = Field(
        default="smollm2-135m-instruct",
        title="Model",
        description="smollm2-135m-instruct (a real 135 M Llama from a package), tiny (seeded two-block model), "
        "a local Hugging Face folder, or a hub id such as org/name",
        min_length=1,
    )

    @property
    def short(self) -> str:
        """What run names show."""
        return short_source(self.source)


class DataChoice(Choice):
    """The text for calibration, training and held-out evaluation. The three never share a document."""

    # Where the text lies and how it is read are not part of what it is: the digest of its documents is.
    source: Annotated[str, Place] = Field(
        default="wiki-leads",
        title="Text",
        description="wiki-leads (10,033 Wikipedia introductions from a package), python-docs (ships with Python), "
        "a local .txt (paragraphs), .jsonl, .json, .csv, .tsv or .parquet (all but Parquet also .gz), a folder of "
        "them, a hub data set such as databricks/databricks-dolly-15k, Salesforce/wikitext:wikitext-2-raw-v1 or "
        "allenai/c4:en (name:configuration@revision), s3://bucket/prefix, or requests that an endpoint captured: "
        "capture://endpoint, capture+s3://bucket/prefix (?answers=true takes the answers too)",
        min_length=1,
    )
    split: Annotated[str, Place] = Field(
        "train", pattern=r"^[\w.-]+$", description="Split of a hub data set: train, validation, test, …"
    )
    document: Annotated[Shape, Place] = Field(
        "auto",
        description="What of a record (a line of JSON, a row) is a document. field: one field's text; template: "
        "several fields in one text; messages: a chat, written by the model's own chat template; turns: a field that "
        "asks and one that answers, as a chat. auto: the field text, else messages, else a pair such as instruction "
        "and response",
    )
    fields: Annotated[str, Place] = Field(
        "",
        description="field and messages: the field's name; turns: names with commas, the last one answers; template: "
        "a text with names in braces, such as {instruction}\\n{response}. Empty: the usual names",
    )
    most_documents: Annotated[int, Place] = Field(
        50_000,
        ge=1,
        le=2_000_000,
        description="Documents read at most: the first ones, of captures the newest; the seed draws from them",
    )
    evaluation_source: Annotated[str, Place] = Field(
        "", description="Another text for the held-out blocks; empty: held out of the same one"
    )
    evaluation_split: Annotated[str, Place] = Field(
        "",
        pattern=r"^[\w.-]*$",
        description="Split of the held-out text, of the same source unless that is another; empty: as above",
    )
    label: Annotated[str, Place] = Field(
        "",
        max_length=200,
        description="What the held-out figures are told apart by: a field of the records, such as topic, or / for the "
        "first folder below a folder or an S3 prefix. Its 12 values with most held-out tokens are slices; empty: none",
    )
    packing: Literal["packed", "whole"] = Field(
        "packed",
        description="packed: documents one after the other with the end-of-text token between them, cut into blocks; "
        "whole: a block is the beginning of one document, and shorter documents are left out (nothing is padded)",
    )
    near_duplicates: float = Field(
        0.8,
        ge=0,
        le=1,
        description="A document is dropped when it shares this part of its five-word sequences with one already dealt; "
        "0: only those of the same words are",
    )
    max_leakage: Annotated[float, Place] = Field(
        0.1,
        ge=0,
        le=1,
        description="The run stops when more of the held-out documents' 13-word sequences stand in calibration or "
        "training documents",
    )
    block_tokens: int = Field(256, ge=16, le=4096, description="Tokens a block")
    calibration_blocks: int = Field(32, ge=1, le=4096, description="Blocks that pruning and quantization look at")
    training_blocks: int = Field(32, ge=1, le=65536, description="Blocks that distillation learns from")
    evaluation_blocks: int = Field(16, ge=1, le=4096, description="Held-out blocks that the gate compares on")
    seed: int = Field(0, ge=0, description="Order of the documents")

    @property
    def short(self) -> str:
        """What run names show."""
        return short_source(self.source)

    def itself(self) -> DataChoice:
        """How the text itself is read: its labels are asked for where the held-out blocks come from it."""
        return self if self.held_out() is None else self.model_copy(update={"label": ""})

    def held_out(self) -> DataChoice | None:
        """How the held-out blocks' own text is read; none where they come from the same text."""
        if not self.evaluation_source and not self.evaluation_split:
            return None
        changed = {"source": self.evaluation_source or self.source, "split": self.evaluation_split or self.split}
        return self.model_copy(update={**changed, "evaluation_source": "", "evaluation_split": ""})


class PruneRecipe(Choice):
    """Take weights out of the decoder blocks: single ones become zero, or whole structures go and the model is
    smaller.
    """

    method: Literal["sparsegpt", "wanda", "magnitude", "structured"] = Field(
        "sparsegpt",
        description="sparsegpt repairs the remaining weights from calibration data; wanda weighs each weight by its "
        "input; magnitude only cuts the smallest; structured removes heads, channels and blocks and repairs the rest",
    )
    sparsity: float = Field(
        0.2, gt=0, lt=1, description="Zero share of each linear layer; a pattern n:m decides it instead"
    )
    pattern: str = Field(
        "unstructured",
        pattern=r"^(unstructured|[1-9][0-9]?:[1-9][0-9]?)$",
        description="unstructured, or n:m such as 2:4 or 4:8: of every m neighbouring weights n stay",
    )
    heads: float = Field(0.0, ge=0, lt=1, description="Structured: share of key-value heads removed")
    channels: float = Field(0.25, ge=0, lt=1, description="Structured: share of MLP channels removed")
    blocks: float = Field(0.0, ge=0, lt=1, description="Structured: share of decoder blocks removed")
    damping: float = Field(0.01, gt=0, le=1, description="Added to the Hessian's diagonal, share of its mean")
    allocation: Literal["uniform", "sensitivity"] = Field(
        "uniform",
        description="uniform: every layer has the same zero share; sensitivity: layers whose errors cost the model "
        "more lose fewer weights, with the same share over all (unstructured only; takes about three times as long)",
    )
    engine: Literal["slimline", "llm-compressor"] = Field(
        "slimline",
        description="What computes it. llm-compressor (sparsegpt, wanda) runs in an environment of its own, built when "
        "first used: minutes and more than a gigabyte",
    )

    @property
    def amount(self) -> str:
        """What run names show."""
        if self.method == "structured":
            removed = {"heads": self.heads, "channels": self.channels, "blocks": self.blocks}
            return "-".join(f"{name}{share:.0%}" for name, share in removed.items() if share)
        if self.allocation == "sensitivity":
            return f"{self.sparsity:.0%}-by-layer"
        return f"{self.sparsity:.0%}" if self.pattern == "unstructured" else self.pattern


class QuantizeRecipe(Choice):
    """Store the decoder blocks' weights as small integers, or the whole model in 16 bits."""

    method: Literal["gptq", "rtn", "w8a8", "float16", "bfloat16", "awq", "smoothquant", "fp8"] = Field(
        "gptq",
        description="gptq rounds column by column and repairs what is left from calibration data; rtn only rounds; "
        "w8a8 is gptq with 8 bits and one scale a row, served with activations in 8 bits too (bits, group size and "
        "symmetry are then given); float16 and bfloat16 cast every tensor and use no calibration. "
        "With the engine llm-compressor also: awq scales up what large inputs meet, then rounds; smoothquant: 8-bit "
        "weights and activations (8 bits, group size 0); fp8: 8-bit floats, fast on GPUs only (8 bits, group size 0)",
    )
    bits: Literal[8, 4, 3, 2] = Field(4, description="Bits a weight")
    group_size: Literal[0, 32, 64, 128] = Field(
        64, description="Input columns that share one scale; 0 is one scale a row (per channel)"
    )
    act_order: bool = Field(True, description="GPTQ settles the columns with the largest inputs first")
    damping: float = Field(0.01, gt=0, le=1, description="Added to the Hessian's diagonal, share of its mean")
    mean_bits: float = Field(
        0.0,
        ge=0,
        le=10,
        description="Budget of bits a weight over all layers together, scales counted: layers whose errors cost the "
        "model more get 8 or 4 bits, others 3 or 2. 4 bits in groups of 64 are 4.25. 0: every layer has `bits`",
    )
    symmetric: bool = Field(
        True, description="No zero points; without symmetry each group has one (format gptq or gptq_v2 only)"
    )
    # Not part of what the quantize stage makes: the integers are written in this format after the last stage.
    format: Annotated[Literal["compressed-tensors", "gptq", "gptq_v2"], Place] = Field(
        "compressed-tensors",
        description="How the finished model is stored: compressed-tensors (transformers, vLLM, LMI), or gptq, "
        "version 1 or 2 (transformers with GPTQModel; vLLM reads symmetric 4 and 8 bits)",
    )

    engine: Literal["slimline", "llm-compressor", "optimum", "auto-gptq"] = Field(
        "slimline",
        description="What computes it. The others run in an environment of their own, built when first used: minutes "
        "and more than a gigabyte. optimum (with GPTQModel) and auto-gptq: gptq without pruned zeros",
    )

    @property
    def integers(self) -> bool:
        """Whether weights become integers: not for casts."""
        return self.method not in ("float16", "bfloat16")

    @property
    def layout(self) -> Literal["int-quantized", "gptq", "gptq_v2"] | None:
        """What the finished folder is converted to, or none where it stays as the stages write it."""
        if self.method == "w8a8":
            return "int-quantized"
        return self.format if self.integers and self.format != "compressed-tensors" else None

    @property
    def columns_a_scale(self) -> int:
        """Input columns that share one scale; 0 for a whole row, and where there are no scales."""
        return self.group_size if self.method in ("gptq", "rtn", "awq") else 0

    @property
    def grid(self) -> str:
        """What run names show."""
        if self.method == "w8a8":
            return "channel"
        if not self.integers:
            return "cast"
        if self.mean_bits:
            return f"{self.mean_bits:g}bit-mixed"
        kind = "" if self.symmetric else "-asymmetric"
        return f"{self.bits}bit-g{self.group_size}{kind}" if self.group_size else f"{self.bits}bit-channel{kind}"

    @property
    def suffix(self) -> str:
        """What the made model's name ends with."""
        if self.method not in ("gptq", "rtn", "awq"):
            return self.method
        return f"mixed{self.mean_bits:g}" if self.mean_bits else f"int{self.bits}"


class DistillRecipe(Choice):
    """Teach the compressed model from the original. Zeros stay zero; integers stay as they are and scales and norms
    learn.
    """

    epochs: int = Field(1, ge=1, le=100, description="Passes over the training blocks")
    batch_blocks: int = Field(2, ge=1, le=256, description="Blocks a step")
    learning_rate: float = Field(3e-3, gt=0, le=0.1, description="Share by which a step changes a value, at its peak")
    temperature: float = Field(2.0, gt=0, le=20, description="Softens teacher and student alike")
    hard_share: float = Field(0.1, ge=0, le=1, description="Weight of the true next token, the rest is the teacher's")
    divergence: Literal["forward_kl", "reverse_kl", "jensen_shannon"] = Field(
        "forward_kl",
        description="forward_kl learns all that the teacher finds likely; reverse_kl keeps to what it finds likely; "
        "jensen_shannon lies between",
    )
    hidden_weight: float = Field(
        0.0,
        ge=0,
        le=100,
        description="Weight of the relative error of hidden states after each block, added to the loss; 0: left out",
    )
    cached_top_k: int = Field(
        0,
        ge=0,
        le=4096,
        description="Keep the teacher's so many most likely tokens a position on disk and ask it only once; 0 asks it "
        "in every epoch. Not with hidden_weight; best at temperature 1 with forward_kl",
    )


class Recipe(Choice):
    """How to make the model smaller: which stages, in which order, and how strongly."""

    name: Annotated[str, Place] = Field(
        "balanced",
        pattern=r"^[a-z0-9][a-z0-9-]{0,40}$",
        description="Shown in run names: lower-case letters, digits and dashes",
    )
    order: tuple[CompressStage, ...] = Field(
        ("prune", "quantize", "distill"),
        description="Stages in the order they run; leave one out to skip it. Pruning comes before quantization",
    )
    prune: PruneRecipe = PruneRecipe()
    quantize: QuantizeRecipe = QuantizeRecipe()
    distill: DistillRecipe = DistillRecipe()
    max_fallback_share: Annotated[float, Place] = Field(
        0.25, ge=0, le=1, description="A stage fails when more of its layers needed a numerical fallback"
    )
    seed: int = Field(0, ge=0, description="Seed of everything random")
    cpu_export: CpuExport = Field(
        "auto",
        description="What a CPU serves: onnx writes the compressed model once more, as an ONNX file with the same "
        "integers, several times as fast to decode; none serves it with torch; auto exports what is quantized and of a "
        "kind that can be exported",
    )

    @property
    def exports(self) -> bool:
        """Whether a CPU's file is to be expected; with auto it depends on the architecture too."""
        integers = "quantize" in self.order and self.quantize.integers
        return self.cpu_export == "onnx" or (self.cpu_export == "auto" and integers)


class Gate(Choice):
    """What the candidate must hold on the held-out items, compared with the original. Each limit is a margin: the
    interval's end must lie within it, not the figure alone.
    """

    max_perplexity_ratio: float = Field(1.25, ge=1, le=100, description="Candidate ÷ original, at most")
    min_agreement: float = Field(0.70, ge=0, le=1, description="Share of same next tokens, at least")
    max_bytes_ratio: float = Field(
        0.30, gt=0, le=2, description="Folder bytes, candidate ÷ original in float32, at most"
    )
    min_decode_speedup: float = Field(
        0.0, ge=0, le=1000, description="Tokens a second after the first, candidate ÷ original, at least; 0: not asked"
    )
    max_kl: float = Field(0.0, ge=0, le=100, description="Mean KL from the original, nats a token; 0: not asked")
    max_flip_rate: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of positions where one of both is right about the next token and the other is not, at "
        "most; 0: not asked",
    )
    max_degenerate_rise: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Share of generated answers that are empty or end in a loop, candidate less original (and less "
        "champion, where that is asked for), at most; 1: not asked",
    )
    max_task_drop: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Each lm-eval task's score, original (and champion, where that is asked for) less candidate, at "
        "most; 1: not asked",
    )
    confidence: float = Field(
        0.95,
        ge=0.5,
        le=0.999,
        description="Of each one-sided interval: a candidate outside a limit passes it in at most 1 − this share of "
        "runs. 0.5 holds the figures themselves against the limits",
    )
    max_gain: float = Field(
        0.10,
        gt=0,
        le=1,
        description="A perplexity that is surely lower than the original's by more than this share is suspect and "
        "stops too: held-out text was learnt, or the original is damaged",
    )
    baseline: Literal["original", "champion", "both"] = Field(
        "original",
        description="What it is held against: the original, the registered version that is champion now, or both. "
        "Without a champion it is the original",
    )
    max_champion_ratio: float = Field(
        1.05, ge=0.5, le=100, description="Perplexity, candidate ÷ champion, at most; where the champion is asked for"
    )
    max_champion_accuracy_drop: float = Field(
        0.05, ge=0, le=1, description="Share of true next tokens, champion less candidate, at most"
    )
    max_champion_agreement_drop: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Share of next tokens that are the original's, champion less candidate, at most; only where the "
        "champion was made from the same original, not after a retraining",
    )
