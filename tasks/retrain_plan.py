"""When a model is trained again, from what, and how: the retraining's groups in the form that Prefect draws."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tasks.contracts import Place
from tasks.recipes import Choice


class Training(Choice):
    """How the uncompressed model learns the text. Blocks are packed as the data group cuts them."""

    method: Literal["lora", "full"] = Field(
        "lora",
        description="lora learns a low-rank addition to chosen layers, added to their weights at the end: little "
        "memory, and little of the model moves. full lets every parameter learn: three times the model's memory more",
    )
    rank: int = Field(16, ge=1, le=1024, description="lora: rank of the addition, at most a layer's smaller side")
    alpha: float = Field(32.0, gt=0, le=4096, description="lora: the addition is multiplied by alpha ÷ rank")
    targets: tuple[str, ...] = Field(
        (), description="lora: last parts of the layers' names, such as q_proj; none is every layer of the blocks"
    )
    epochs: int = Field(1, ge=1, le=100, description="Passes over the training blocks")
    max_steps: int = Field(0, ge=0, le=1_000_000, description="Steps at most, over all epochs; 0: as the epochs say")
    batch_blocks: int = Field(4, ge=1, le=1024, description="Blocks a step")
    learning_rate: float = Field(
        2e-4, gt=0, le=0.1, description="AdamW's, at its peak. For full a tenth of lora's is usual: 2e-5"
    )
    warmup: float = Field(0.1, ge=0, lt=1, description="Share of the steps in which the rate rises, 0–1")
    # When the state is kept changes nothing of what is learnt.
    save_steps: Annotated[int, Place] = Field(
        50, ge=1, le=100_000, description="The state is kept every so many steps: what a kill costs at most"
    )
    seed: int = Field(0, ge=0, description="Of the blocks' order and of what lora begins with")


class Retraining(Choice):
    """When there is enough that is new, and what the training starts from."""

    min_new_documents: int = Field(
        1,
        ge=1,
        le=100_000_000,
        description="Documents that no version before has seen, at least; with fewer the run ends at once and says so",
    )
    start: Literal["model", "champion"] = Field(
        "model",
        description="What is trained: the model above, on everything again; or champion, the uncompressed model that "
        "the champion was made from, which goes on learning. Without a champion it is the model above",
    )
    min_gain: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="By what share training must lower the held-out perplexity of the model that it starts from, at "
        "least, 0–1; the interval's end must reach it, or nothing is compressed. 0: not asked, a training that changes "
        "nothing is released too",
    )
    held_out_share: float = Field(
        0.2,
        gt=0,
        lt=0.5,
        description="Share of the documents that is held out, and as many for calibration, 0–1. Which ones is decided "
        "by their text, so that none that was held out is ever learnt from",
    )
