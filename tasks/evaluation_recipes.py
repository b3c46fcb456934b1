"""What a person chooses of the evaluation: a group of the form, as in ``recipes``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from tasks.contracts import Place
from tasks.recipes import Choice

Level = Annotated[int, Field(ge=1, le=256)]


class EvaluationChoice(Choice):
    """What is measured beside perplexity, KL, agreement and flips, and how."""

    prompts: int = Field(
        8, ge=0, le=256, description="Held-out prompts that both models continue: repetition, length, empty answers"
    )
    answer_tokens: int = Field(32, ge=4, le=1024, description="Tokens a continuation, at most")
    timed_repeats: int = Field(
        3, ge=2, le=100, description="Timed repeats of decoding, both models in turn; more make a speed-up surer"
    )
    concurrency: tuple[Level, ...] = Field(
        (),
        max_length=8,
        description="Serve both models with the inference container and measure latency and throughput with so many "
        "requests at a time, such as 1, 2, 4; empty: not measured",
    )
    load_requests: int = Field(8, ge=2, le=1000, description="Requests of each level of concurrency")
    tasks: Annotated[str, Place] = Field(
        "",
        description="A folder with tasks of lm-evaluation-harness: YAML files, and the JSONL files that they name; "
        "empty: none. Runs offline, in an environment of its own, built when first used",
    )
    shards: Annotated[int, Place] = Field(
        1,
        ge=1,
        le=256,
        description="Parts that the held-out blocks are dealt into, a task each, for workers of a Dask or Ray task "
        "runner. The figures are the same as of one part",
    )

    @field_validator("concurrency")
    @classmethod
    def _rising(cls, levels: tuple[int, ...]) -> tuple[int, ...]:
        if list(levels) != sorted(set(levels)):
            raise ValueError(f"observed {list(levels)}, limit: rising numbers, each once, such as [1, 2, 4]")
        return levels

    @property
    def without_load(self) -> EvaluationChoice:
        """What scoring and answers depend on: other levels of load measure those alone again."""
        usual = EvaluationChoice()
        return self.model_copy(update={"concurrency": usual.concurrency, "load_requests": usual.load_requests})
