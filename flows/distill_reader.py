"""questions → train the teacher → drop blocks → teach → evaluate → register: an encoder that answers questions."""

from __future__ import annotations

from prefect import flow

from flows.stages import Line
from tasks.contracts import Tracked
from tasks.evaluate_reader import evaluate_reader, judge_reader
from tasks.locate_reader import check_reader, digest_questions, fetch_questions, locate_reader
from tasks.origin import record_base
from tasks.preflight_reader import preflight_reader
from tasks.reader_contracts import MadeReader, ReaderOutcome
from tasks.reader_recipes import QuestionsChoice, ReaderChoice, ReaderGate, ReaderRecipe
from tasks.recipes import ModelName
from tasks.record import record_data, record_verdict, record_version, recorded_run
from tasks.register import register
from tasks.report import record_report
from tasks.require import require_passed
from tasks.teach import drop_blocks, teach_reader, train_teacher


@flow(name="distill-reader", flow_run_name="{model.short}-{recipe.name}-{recipe.blocks}blocks")
def distill_reader(
    model: ReaderChoice = ReaderChoice(),
    data: QuestionsChoice = QuestionsChoice(),
    recipe: ReaderRecipe = ReaderRecipe(),
    gate: ReaderGate = ReaderGate(),
    registered_name: ModelName = "slimline-reader",
) -> ReaderOutcome:
    """Distil an encoder that answers questions into a smaller one, prove it by exact match and F1, and register it.

    Args:
        model: The encoder that the teacher is.
        data: The questions for the teacher, the student, and the held-out evaluation.
        recipe: How much smaller the student is, and how it is taught.
        gate: What the student must hold on the held-out questions.
        registered_name: Name of the registered model in MLflow.
    """
    preflight_reader(model, data, recipe)
    with recorded_run(f"{model.short}-{recipe.name}", recipe) as tracked:
        made = teach(tracked, model, data, recipe, gate)
        if not made.scorecard.passed:
            record_report(tracked, recipe, made)
        require_passed(made.scorecard)
        registered = register(tracked, made.scorecard, recipe, made.data, registered_name)
        record_version(tracked, registered)
        record_report(tracked, recipe, made, registered)
    return ReaderOutcome(
        teacher=made.teacher,
        data=made.data,
        stages=made.stages,
        scorecard=made.scorecard,
        registered=registered,
        tracked=tracked,
    )


def teach(
    tracked: Tracked, model: ReaderChoice, data: QuestionsChoice, recipe: ReaderRecipe, gate: ReaderGate
) -> MadeReader:
    """Teacher, student and the judged scorecard, recorded in the run ``tracked``. Nothing is registered."""
    original = teacher = locate_reader(model)
    check_reader(teacher, model, recipe)
    questions = fetch_questions(data, digest_questions(data))
    record_data(tracked, questions)

    line = Line(tracked)
    if model.train:
        record_base(tracked, original)
        teacher = line.add(train_teacher(original, questions, recipe, return_state=True)).model
    untaught = line.add(drop_blocks(teacher, recipe, return_state=True)).model
    student = line.add(teach_reader(untaught, teacher, questions, recipe, return_state=True)).model

    scorecard = judge_reader(evaluate_reader(student, untaught, teacher, questions, recipe), gate)
    record_verdict(tracked, scorecard)
    return MadeReader(
        original=original, teacher=teacher, data=questions, stages=line.stages, reused=line.reused, scorecard=scorecard
    )
