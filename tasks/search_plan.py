"""What a person chooses for a search over recipes: the groups of its form, as in ``recipes``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tasks.recipes import Choice

Order = Literal[
    "quantize", "prune + quantize", "quantize + distill", "prune + quantize + distill", "prune + distill + quantize"
]
Preference = Literal["bytes", "quality", "speed"]


class SearchSpace(Choice):
    """What may differ from recipe to recipe. Everything else is as in the base recipe."""

    orders: tuple[Order, ...] = Field(
        ("quantize", "prune + quantize"), min_length=1, description="Stages, in the order they run"
    )
    prune_methods: tuple[Literal["sparsegpt", "wanda", "magnitude"], ...] = Field(
        ("sparsegpt", "wanda"), min_length=1, description="Where the order prunes"
    )
    sparsities: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.1, 0.2, 0.3), min_length=1, description="Zero shares, each above 0, below 1"
    )
    quantize_methods: tuple[Literal["gptq", "rtn"], ...] = Field(("gptq",), min_length=1, description="How it rounds")
    bits: tuple[Literal[8, 4, 3, 2], ...] = Field((8, 4, 3), min_length=1, description="Bits a weight")
    group_sizes: tuple[Literal[0, 32, 64, 128], ...] = Field(
        (32, 64, 128), min_length=1, description="Input columns that share one scale; 0 is one scale a row"
    )


class Budgets(Choice):
    """What the chosen recipe must keep within, on the held-out items, compared with the original."""

    max_bytes_ratio: float = Field(
        0.30, gt=0, le=2, description="Folder bytes, candidate ÷ original in float32, at most"
    )
    max_perplexity_ratio: float = Field(1.25, ge=1, le=100, description="Candidate ÷ original, at most")
    min_agreement: float = Field(0.70, ge=0, le=1, description="Share of same next tokens, at least")
    max_token_ms: float = Field(
        0.0, ge=0, description="Milliseconds a token after the first, on this machine, at most; 0: not asked"
    )
    max_usd_per_million: float = Field(
        0.0,
        ge=0,
        description="US dollars per million decoded tokens, at most, on the cheapest of the instance types that "
        "SLIMLINE_PRICED names, at this machine's rate; 0: not asked",
    )


class SearchPlan(Choice):
    """How long to search, and what counts among the recipes that keep within every budget."""

    recipes: int = Field(12, ge=2, le=200, description="How many different recipes are tried, at most")
    prefer: Preference = Field(
        "bytes",
        description="Of those within every budget: bytes takes the smallest folder, quality the lowest perplexity, "
        "speed the fewest milliseconds a token",
    )
    screen_blocks: int = Field(
        4, ge=1, le=64, description="Training blocks on which a half-made model is looked at before work goes on"
    )
    hopeless: float = Field(
        1.5,
        ge=1,
        le=100,
        description="A half-made model is given up when its perplexity ratio there is above this many times the budget",
    )
    seed: int = Field(0, ge=0, description="Of the optimiser: the same seed tries the same recipes")
