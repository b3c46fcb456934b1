"""Stop a retraining whose training gained too little, before anything is compressed."""

from __future__ import annotations

from tasks import reporting
from tasks.adapters.store import Store
from tasks.contracts import DatasetRef, GateCheck, ModelRef, Tracked
from tasks.evidence_contracts import TrainingGain
from tasks.evidence_tables import gate_table, training_table
from tasks.gate_items import blocks_of
from tasks.gate_training import judge_training
from tasks.record import tracking
from tasks.require import require_checks
from tasks.retraining import Before
from tasks.retrying import network_task
from tasks.score_alone import score_alone
from tasks.settings import settings
from tasks.training_text import training_sentence


def require_gain(
    tracked: Tracked, before: Before, trained: ModelRef, data: DatasetRef, confidence: float, on_cpu: bool
) -> None:
    """Hold the trained model against the one before, where a gain is asked for. The gate holds the same figure on the
    same blocks again: what stops here could not have passed there, however it was compressed. ``on_cpu``: whether the
    gate's figures are to be measured there, as they are where a CPU's file is. A machine with a GPU and an architecture
    that ``auto`` does not export measures them on the GPU in the end; two devices differ in the last digits.

    Raises:
        GateFailed: the perplexity did not surely fall by ``before.min_gain``.
    """
    if not before.min_gain:
        return
    start, after = (score_alone(model, data, on_cpu) for model in (before.model, trained))
    gain = TrainingGain(start=before.model.name, digest=before.model.digest, items=start, min_gain=before.min_gain)
    gain, check = judge_training(gain, trained.name, blocks_of(after), confidence)
    if not check.passed:
        record_gain(tracked, gain, check)
    require_checks([check])


@network_task("record-gain")
def record_gain(tracked: Tracked, gain: TrainingGain, check: GateCheck) -> None:
    """The verdict on a training that ends the run: on its page, and with the MLflow run."""
    books, page = tracking(), gain_markdown(gain, check)
    reporting.report_gain(page, check, tracked)
    books.log_training(tracked.run_id, gain, page)
    books.log_items(tracked.run_id, Store(settings().store).open(gain.items.uri, gain.items.digest), "before-training")


def gain_markdown(gain: TrainingGain, check: GateCheck) -> str:
    """The verdict as a short text with the tables that every other verdict has too."""
    return "\n".join([
        f"# Gate: {check.said.upper()}",
        f"{training_sentence(gain)} {gain.min_gain:.1%} was asked for; nothing was compressed.",
        "",
        *gate_table([check]).markdown(),
        "",
        *training_table(gain).markdown(),
    ])  # fmt: skip
