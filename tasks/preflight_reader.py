"""Refuse what cannot work on the question-answering line before any work starts."""

from __future__ import annotations

from tasks.adapters.questions import check_question_file
from tasks.adapters.sources import check_source
from tasks.locate_reader import SYNTHETIC, TINY
from tasks.preflight import require_mlflow
from tasks.reader_recipes import QuestionsChoice, ReaderChoice, ReaderRecipe
from tasks.retrying import network_task


@network_task("preflight-{recipe.name}")
def preflight_reader(model: ReaderChoice, data: QuestionsChoice, recipe: ReaderRecipe) -> None:
    """Check encoder and questions, and that MLflow answers.

    Raises:
        Refused: with what was seen, what is allowed, and what to change.
    """
    if model.source != TINY:
        check_source(model.source)
    if data.source != SYNTHETIC:
        check_question_file(data.source)
    require_mlflow()
