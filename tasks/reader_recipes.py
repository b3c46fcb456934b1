"""What a person chooses for the question-answering line: the groups of its form, as in ``recipes``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tasks.contracts import Place
from tasks.recipes import Choice, short_source


class ReaderChoice(Choice):
    """The encoder that the teacher is."""

    source: str = Field(
        "tiny-reader",
        title="Encoder",
        description="tiny-reader (a seeded BERT of four blocks that has read nothing yet), a local folder of a "
        "BERT-type encoder with tokenizer.json, or a hub id such as org/name",
        min_length=1,
    )
    train: bool = Field(
        True,
        description="Train the teacher on the teaching questions first; off for a folder that can answer already",
    )

    @property
    def short(self) -> str:
        """What run names show."""
        return short_source(self.source)


class QuestionsChoice(Choice):
    """Questions whose answers stand in their contexts. The three splits share no context."""

    source: Annotated[str, Place] = Field(
        "synthetic",
        title="Questions",
        description="synthetic (made from templates, for trying things), a .jsonl with question, context and "
        "answers {text, answer_start} on each line, or a .json as SQuAD has it",
        min_length=1,
    )
    teaching: int = Field(960, ge=1, le=1_000_000, description="Questions that the teacher is trained on")
    training: int = Field(
        320,
        ge=0,
        le=1_000_000,
        description="Questions that the student learns from, other ones than the teacher's; 0: the teacher's again, "
        "where questions are few",
    )
    evaluation: int = Field(200, ge=20, le=100_000, description="Held-out questions that the gate compares on")
    seed: int = Field(0, ge=0, description="Order of the contexts")

    @property
    def short(self) -> str:
        """What run names show."""
        return short_source(self.source)


class ReaderRecipe(Choice):
    """A student of fewer blocks, taught by the teacher's start and end logits and by the true spans."""

    name: Annotated[str, Place] = Field(
        "shallow",
        pattern=r"^[a-z0-9][a-z0-9-]{0,40}$",
        description="Shown in run names: lower-case letters, digits and dashes",
    )
    blocks: int = Field(1, ge=1, le=256, description="Blocks that the student keeps, evenly spaced; the rest goes")
    teacher_epochs: int = Field(2, ge=1, le=100, description="Passes over the teaching questions")
    epochs: int = Field(2, ge=1, le=100, description="Passes over the training questions")
    batch_windows: int = Field(16, ge=1, le=256, description="Windows a step")
    learning_rate: float = Field(
        3e-3,
        gt=0,
        le=0.1,
        description="AdamW's own, at its peak: 3e-3 for tiny-reader; for a pretrained encoder 5e-5 where it is large "
        "or questions are many, 2e-4 where it is small and they are few",
    )
    temperature: float = Field(2.0, gt=0, le=20, description="Softens teacher and student alike")
    hard_share: float = Field(0.1, ge=0, le=1, description="Weight of the true span, the rest is the teacher's")
    window: int = Field(384, ge=32, le=4096, description="Tokens of question and context read at once, at most")
    stride: int = Field(128, ge=8, le=2048, description="Tokens that neighbouring windows of a long context share")
    seed: int = Field(0, ge=0, description="Seed of everything random")


class ReaderGate(Choice):
    """What the student must hold on the held-out questions, compared with its teacher."""

    max_f1_drop: float = Field(
        0.05, ge=0, le=1, description="Teacher's F1 less the student's: the upper end of its 95 % interval, at most"
    )
    max_exact_drop: float = Field(1.0, ge=0, le=1, description="The same of exact match, at most; 1: not asked")
    min_f1: float = Field(0.5, ge=0, le=1, description="The student's F1, at least")
    max_bytes_ratio: float = Field(0.9, gt=0, le=1, description="Folder bytes, student ÷ teacher, at most")
