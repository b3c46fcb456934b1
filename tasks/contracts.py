"""The values that tasks hand to one another: handles and digests, never models.

All are frozen, small and JSON. A ``uri`` says where inside the artifact store a thing lies and is *place*; a
``digest`` says what it is and is *identity*. Only identity enters a cache key (``identity``). Prefect writes the
dotted class name beside a result and hands back a plain dict when it no longer resolves, so classes here are never
moved or renamed without clearing the results.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tasks.evidence_contracts import Evidence, TrainingGain, Verdict, worst
from tasks.evidence_contracts import GateCheck as GateCheck
from tasks.hosted import HubModel, ModelFacts
from tasks.values import Place as Place
from tasks.values import Value as Value
from tasks.values import identity as identity

Stage = Literal[
    "fetch", "train", "prune", "quantize", "distill", "convert", "export", "evaluate", "register", "deploy",
    "train-teacher", "drop-blocks", "teach-reader",
]  # fmt: skip


Runtime = Literal["torch", "onnx"]


class DatasetRef(Value):
    """Token blocks cut from one text source for one tokenizer: three splits that share no document."""

    uri: Annotated[str, Place]
    digest: str = Field(description="SHA-256 over the artifact's files")
    name: Annotated[str, Place] = Field(description="What a person calls it: wiki-leads, python-docs, a file's name")
    licence: Annotated[str, Place]
    block_tokens: int = Field(description="Tokens a block")
    calibration_blocks: int
    training_blocks: int
    evaluation_blocks: int


class ImportedRef(Value):
    """A Hugging Face model folder in the artifact store. Name and licence are the importer's word."""

    uri: str
    digest: str
    name: str
    licence: str


class ModelRef(Value):
    """A Hugging Face model folder in the artifact store. Every figure was read from the folder's files, not from
    memory.
    """

    uri: Annotated[str, Place]
    digest: str
    name: Annotated[str, Place]
    licence: Annotated[str, Place]
    architecture: str = Field(description="As in config.json, LlamaForCausalLM")
    parameters: int = Field(description="Weights of the dense model, tied ones once")
    bytes: int = Field(description="All files of the folder")
    dtype: str = Field(description="Of the unquantized tensors: float32, float16, bfloat16")
    sparsity: float = Field(default=0.0, ge=0, le=1, description="Zero share of the decoder blocks' linear weights")
    bits: float = Field(default=32.0, description="Bits a weight in the decoder blocks' linears, scales not counted")
    runtime: Runtime = Field(default="torch", description="What a CPU container serves it with")


class LayerReport(Value):
    """What one linear layer went through."""

    layer: str
    method: str
    rows: int
    columns: int
    sparsity: float = Field(description="Zero share after the stage")
    bits: float
    error: float | None = Field(
        description="Relative squared error, 0 is exact: of the layer's output on the calibration tokens, of which "
        "magnitude, Wanda and rounding to nearest take the first 1,024 or a few more; for a cast, of the weights; none "
        "where an engine moved scale from one layer to another, so that layers cannot be compared"
    )
    seconds: float
    fallback: str | None = Field(default=None, description="A numerical fallback that was taken, or none")


class Compressed(Value):
    """What train, prune, quantize and distill return."""

    stage: Stage
    model: ModelRef
    layers: tuple[LayerReport, ...] = ()
    losses: tuple[float, ...] = Field(default=(), description="Training and distillation: the loss of each step")
    tokens: int = Field(default=0, description="Tokens that the stage worked through")
    resumed: int = Field(default=0, description="Decoder blocks or steps that an earlier, killed process had finished")
    seconds: float = 0.0
    peak_bytes: int = Field(default=0, description="Peak resident memory of the process during the stage")
    retries: tuple[str, ...] = Field(default=(), description="A sentence for each time that memory ran out")
    engine: str = Field(
        default="slimline", description="What computed it; another engine's time and memory are its own"
    )
    versions: dict[str, str] = Field(default={}, description="Of the packages of another engine")

    @property
    def fallbacks(self) -> tuple[LayerReport, ...]:
        return tuple(layer for layer in self.layers if layer.fallback)


class Exported(Value):
    """What export returns: the compressed folder written once more, as a file that a CPU decodes fast."""

    source: str = Field(description="Digest of the folder that it was made from")
    model: ModelRef | None = Field(description="The exported folder, or none where it stays with torch")
    reason: str = Field(default="", description="Why there is none")
    choices: dict[str, str] = Field(default={}, description="What decides what the file computes, as in its onnx.json")
    seconds: float = 0.0
    peak_bytes: int = Field(default=0, description="Peak resident memory of the process during the stage")


class Quality(Value):
    """How close one reloaded folder is to the original on the held-out items."""

    perplexity: float
    agreement: float = Field(
        description="Share of positions where the next token is the original's, 1 for the original"
    )
    kl: float = Field(description="Mean KL(original ‖ this) per token, nats")
    bytes: int
    tokens: int = Field(description="Positions scored")
    kl_p99: float | None = Field(default=None, description="99th percentile of the positions' KL, nats")
    accuracy: float | None = Field(default=None, description="Share of positions where it predicts the true next token")
    flip_rate: float | None = Field(
        default=None,
        description="Share of positions where either this or the original, not both, predicts the true next token: "
        "right answers that became wrong, and wrong ones that became right",
    )


class Score(Quality):
    """One reloaded folder, measured, with the runtime that serves it."""

    first_token_ms: float = Field(description="Median time to first token, milliseconds")
    per_token_ms: float = Field(description="Median time per following token, milliseconds")
    repeats_ms: tuple[float, ...] = Field(
        default=(), description="Median time per following token of each timed repeat, candidate and original in turn"
    )


class Price(Value):
    """What one instance of SageMaker real-time hosting costs on demand, and who says so."""

    instance_type: str
    region: str
    usd_per_hour: float = Field(gt=0, description="US dollars, one instance, one hour, without tax and discounts")
    as_of: str = Field(description="Day of the source, ISO 8601")
    source: str
    quoted: bool = Field(description="The source quotes AWS's Price List entry by entry; else a copied table")


class TokenCost(Value):
    """What decoding costs on one instance type, both models at the rates that were measured on ``machine``."""

    price: Price
    machine: str = Field(description="Where the rates were measured: not the instance, unless it says so")
    concurrency: int = Field(default=1, description="Requests at once when the rates were measured")
    baseline_rate: float = Field(gt=0, description="Decoded tokens a second of one instance, all requests together")
    candidate_rate: float = Field(gt=0)
    baseline_usd: float = Field(description="US dollars per million decoded tokens of an instance that is never idle")
    candidate_usd: float
    compression_usd: float | None = Field(
        description="The compression run's seconds at this type's price; none where they are not known"
    )
    break_even_tokens: float | None = Field(
        description="Decoded tokens after which that is saved; none where nothing is saved, or it is not known"
    )


class Scorecard(Value):
    """Candidate and baseline on the same held-out items, and the gate's verdict."""

    candidate_model: ModelRef
    baseline_model: ModelRef
    dataset_digest: str
    candidate: Score
    baseline: Score
    checks: tuple[GateCheck, ...]
    sample: str = Field(default="", description="What the candidate writes for one fixed prompt")
    exported_model: ModelRef | None = Field(
        default=None, description="The exported folder; where there is one, the candidate's score is of it"
    )
    packed: Quality | None = Field(
        default=None, description="The compressed folder's own figures where the exported one was scored"
    )
    evidence: Evidence | None = Field(default=None, description="Results item by item, and what else was measured")
    champion: str = Field(default="", description="The registered version that it was also held against; empty: none")
    champion_original: str = Field(default="", description="Digest of what that one was compressed from")
    training: TrainingGain | None = Field(default=None, description="What training changed, where the run trained")
    machine: str = Field(default="", description="Where the times were measured: processor or GPU, and threads")
    compression_seconds: float | None = Field(default=None, description="Of all stages, when each was computed")
    costs: tuple[TokenCost, ...] = Field(default=(), description="By instance type; added when the run is judged")

    @property
    def served_model(self) -> ModelRef:
        """The folder whose score is the candidate's."""
        return self.exported_model or self.candidate_model

    @property
    def decode_speedup(self) -> float:
        """Tokens a second after the first one, candidate ÷ original, each with the runtime that serves it."""
        return self.baseline.per_token_ms / self.candidate.per_token_ms if self.candidate.per_token_ms else 0.0

    @property
    def usd_per_million(self) -> float | None:
        """US dollars per million decoded tokens of the candidate on the cheapest instance type that has a price."""
        return min((cost.candidate_usd for cost in self.costs), default=None)

    @property
    def passed(self) -> bool:
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def verdict(self) -> Verdict:
        """The worst of the checks' verdicts."""
        return worst(self.checks)


class Champion(Value):
    """The registered version that carries the alias now, with the scorecard of its registration."""

    label: str = Field(description="Name and version")
    run_id: str
    scorecard: Scorecard

    @property
    def version(self) -> str:
        return self.label.rpartition(" ")[2]


class RegisteredModel(Value):
    """A version in the MLflow registry."""

    name: str
    version: str
    alias: str = Field(description="The alias this version carried when this value was made")
    model: ModelRef
    run_id: str
    url: Annotated[str, Place]
    exported: ModelRef | None = Field(default=None, description="The same model as a CPU serves it, where there is one")


class Picked(Value):
    """A registered version with what it was made from, read back from MLflow."""

    registered: RegisteredModel
    original: ModelRef
    data: DatasetRef


class ModelPackage(Value):
    """A registered version as SageMaker wants it: files in S3 and an image.

    ``digest`` is of those files: of the exported folder or of the compressed one, whichever this release serves.
    """

    registered: RegisteredModel
    s3_uri: Annotated[str, Place] = Field(description="Uncompressed prefix, or an archive that ends in .tar.gz")
    image: str
    digest: str
    facts: ModelFacts | None = Field(default=None, description="Of the folder, where the target's container needs them")
    hub: HubModel | None = Field(default=None, description="Whose container it is, of target jumpstart")


class Shift(Value):
    """A rollout that has been asked for. Everything else is read from the endpoint itself, so a restart in the
    middle is harmless.
    """

    endpoint: str
    wanted_config: str
    previous_config: str | None = Field(
        description="The config that served before; none when the endpoint was just created"
    )
    since: float = Field(description="The service's clock when the rollout began, seconds since 1970")
    trial_config: str | None = Field(
        default=None,
        description="The config with both versions beside each other, of the modes that Slimline judges by itself",
    )


class FleetShare(Value):
    """One fleet (an endpoint config's instances) or one variant of a trial at one moment of a rollout."""

    config: str = Field(description="EndpointConfigName of the fleet")
    variant: str = Field(default="AllTraffic", description="VariantName; a trial has two within one config")
    weight: float = Field(ge=0, le=1, description="Share of the traffic that the service sends to it now")
    instances: int
    requests: int = Field(description="Invocations that this fleet has served since the rollout began")
    errors: int = Field(description="5xx among them")
    recent_ms: float | None = Field(
        default=None, description="Average ModelLatency of its newest minute with answers, milliseconds"
    )
    recent_p90_ms: float | None = Field(default=None, description="The 90th percentile of the same minute")
    latency_ms: float | None = Field(
        default=None,
        description="The judged quantile of ModelLatency since the new version first had traffic; none without data",
    )


class Answers(Value):
    """What one version has answered in a stretch of time, as CloudWatch counts it."""

    requests: int = 0
    errors: int = Field(default=0, description="5xx, and requests that the model did not answer at all")
    bounds: tuple[float, ...] = Field(default=(), description="Milliseconds of ModelLatency, ascending")
    at_or_below: tuple[float, ...] = Field(default=(), description="How many latencies lie at or below each bound")
    timed: int = Field(default=0, description="Requests with a latency")
    client_errors: int = Field(default=0, description="4xx")
    minutes: tuple[Answers, ...] | None = Field(
        default=None,
        description="Of two versions beside each other: one entry for each whole minute in which both answered, in "
        "step with the other version's. None: there is nothing beside it, or it is one stretch of steady traffic",
    )


class Finding(Value):
    """One rule of the judge at one look: what both versions showed, and how far the evidence has come."""

    metric: str = Field(description="errors, latency, agreement, or slow answers")
    candidate: float | None = Field(description="Share 0–1, or milliseconds; none without data")
    baseline: float | None = Field(description="The same of the old version, or the stated limit where it has no data")
    requests: int = Field(description="The candidate's requests (or pairs of answers) that this rests on")
    baseline_requests: int = Field(default=0, description="The baseline's; 0 where a limit stands in")
    restore: float = Field(ge=0, le=1, description="Evidence for restoring as a share of what is needed; 1 restores")
    promote: float = Field(ge=0, le=1, description="Evidence for promoting as a share of what is needed")
    expected_requests: int | None = Field(description="About so many more until it decides; none: nothing is growing")


class Observation(Value):
    """What the endpoint said at one tick of the watch, and what the judge made of it."""

    at: float = Field(description="Seconds since the rollout began, wall clock")
    status: str = Field(description="EndpointStatus, and the variant's status where there is one: Updating/Baking")
    blue: FleetShare | None
    green: FleetShare | None
    alarms: dict[str, str] = Field(description="Alarm name to state: OK, ALARM, INSUFFICIENT_DATA")
    message: str = ""
    findings: tuple[Finding, ...] = Field(default=(), description="One a rule; empty before both versions have data")
    verdict: Literal["", "wait", "promoted", "restored"] = Field(default="", description="Empty: it was not asked")
    reason: str = Field(default="", description="The verdict in a sentence")


class Pair(Value):
    """Both versions' answers to one request of a shadow release, compared."""

    event: str = Field(description="eventId (or inferenceId) that both captures carry")
    request: str
    baseline: str
    candidate: str
    agreement: float = Field(ge=0, le=1, description="Share of equal tokens in order, up to the shorter answer")
    same: bool = Field(description="Whether the two answers are equal")
    drift: int = Field(description="Tokens of the candidate's answer less the baseline's")
    kl: float | None = Field(default=None, description="KL(baseline ‖ candidate) a token, nats; none without logprobs")


class TrialStep(Value):
    """How one step of a trial ended: with the next one, with a verdict, or without."""

    percent: int = Field(description="The new version's share of the traffic")
    outcome: Literal["go on", "promoted", "restored", "undecided"]
    reason: str
    observations: tuple[Observation, ...]


class Approval(Value):
    """What a person said before the promotion."""

    approved: bool
    reason: str = ""


class Tracked(Value):
    """The MLflow run of one flow run."""

    run_id: Annotated[str, Place]
    url: Annotated[str, Place]


class ReleaseCost(Value):
    """What a rollout adds to the bill: instances beside the fleet that would run anyway, at their on-demand price."""

    price: Price
    mode: str
    extra_instances: int = Field(description="Most of them at once")
    hours: tuple[float, float] = Field(description="Instance-hours that the plan adds, at least and at most")
    usd: tuple[float, float] = Field(description="The same in US dollars")
    basis: str = Field(description="What those are made of")
    observed_hours: float | None = Field(
        default=None, description="Instance-hours that were seen, by the service's clock; none without an old fleet"
    )
    observed_usd: float | None = None


class Rollout(Value):
    """How one release ended, and every step on the way."""

    endpoint: str
    phase: Literal["created", "promoted", "restored", "unchanged"]
    config: str = Field(description="EndpointConfigName that serves now")
    previous_config: str | None
    asked_config: str = Field(description="EndpointConfigName that the release wanted")
    registered: RegisteredModel
    observations: tuple[Observation, ...]
    probe: str = Field(description="The answer to the real inference that decided the verdict")
    mode: str = Field(default="CANARY", description="The release mode of the plan")
    trial_config: str | None = Field(default=None, description="EndpointConfigName of the trial, where there was one")
    reason: str = Field(default="", description="Why it was restored: the judge's, the alarms' or a person's words")
    approval: Approval | None = Field(default=None, description="None where nobody was asked")
    rehearsal: str = Field(default="", description="Where this was not AWS: says so, with the clock's speed")
    scaling: str = Field(default="", description="The autoscaling that was put there; empty where none was asked for")
    cost: ReleaseCost | None = Field(default=None, description="None where nothing moved, or there is no price")


class Settled(Value):
    """An endpoint after ``restore``: what serves, by its config's name and a real inference, and what was done."""

    endpoint: str
    action: Literal["created", "restored", "finished", "kept", "unchanged", "left", "absent"] = Field(
        description="created: it serves a hub model now, and was not there before; restored: sent back by us; "
        "finished: a dead release had moved well and was promoted; kept: a dead release had moved nothing, or "
        "SageMaker took it back; unchanged: nothing was open; left: not touched, for the reason given; absent: no such "
        "endpoint"
    )
    config: str | None = Field(description="EndpointConfigName that serves now")
    version: str | None = Field(description="The registry's version of it, or original")
    other_config: str | None = Field(default=None, description="The config that it was chosen over")
    reason: str
    probe: str = Field(default="", description="The answer to a real inference, or what came instead")
    answered: bool = Field(default=True, description="Whether that is an answer")
    swept: tuple[str, ...] = Field(default=(), description="Resources of dead runs that were removed: kind and name")
    rehearsal: str = ""


class Made(Value):
    """Everything that was computed for one version, before anything is registered."""

    original: ModelRef
    data: DatasetRef
    stages: tuple[Compressed, ...]
    reused: tuple[str, ...] = Field(default=(), description="Stages, export among them, answered from the cache")
    exported: Exported | None
    scorecard: Scorecard


class Outcome(Value):
    """What one run of the main flow did: everything that a summary prints."""

    original: ModelRef
    data: DatasetRef
    stages: tuple[Compressed, ...]
    scorecard: Scorecard
    exported: Exported | None = Field(default=None, description="None where the recipe asks for no export")
    registered: RegisteredModel
    tracked: Tracked
    rollout: Rollout | None = None
