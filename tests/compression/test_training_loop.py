"""The loop alone, on a learner of two numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tasks.compression import training_loop
from tasks.compression.resuming import Partial
from tasks.compression.schedule import Schedule
from tasks.compression.training_loop import Lesson, StepResult, parts, train
from tasks.errors import SlimlineError

TARGETS = torch.linspace(-1.0, 1.0, 12)


@dataclass
class Two:
    """``value`` learns; ``frozen`` has its gradient cleared."""

    value: nn.Parameter
    frozen: nn.Parameter
    refreshed: int = 0

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [self.value, self.frozen]

    def groups(self) -> list[dict[str, Any]]:
        return [{"params": [self.value], "size": 1.0}, {"params": [self.frozen], "size": 0.5}]

    def clear_masked_gradients(self) -> None:
        self.frozen.grad = torch.zeros_like(self.frozen)

    def refresh(self) -> None:
        self.refreshed += 1

    def lesson(self, items: Tensor) -> Lesson:
        loss = (self.value - TARGETS[items] - 3).square().mean() + self.frozen.sum()
        return Lesson(loss, loss.detach(), loss.detach() * 0, loss.detach() * 0)


def two() -> Two:
    return Two(nn.Parameter(torch.zeros(1)), nn.Parameter(torch.ones(1)))


def run(learner: Two, partial: Partial | None = None, **changes: Any) -> list[StepResult]:
    plan = Schedule(**({"items": 12, "epochs": 20, "batch": 4, "learning_rate": 0.2, "seed": 0} | changes))
    return list(train(learner, learner.lesson, plan, 5, partial=partial, started=0.0))


def test_it_finds_the_mean_and_leaves_what_is_masked() -> None:
    learner = two()
    results = run(learner)
    assert len(results) == results[-1].steps == learner.refreshed == 60
    assert learner.value.item() == pytest.approx(3.0, abs=0.2)
    assert learner.frozen.item() == 1.0
    assert results[-1].tokens == 20 * 12 * 5


def test_a_batch_in_parts_gives_the_gradient_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(two(), epochs=2)
    monkeypatch.setattr(training_loop, "MICRO_TOKENS", 10)
    assert [len(part) for part in parts(torch.arange(5), 5)] == [2, 2, 1]
    split = run(two(), epochs=2)
    assert [step.loss for step in split] == pytest.approx([step.loss for step in whole], rel=1e-5)


def test_a_finished_part_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_loop, "SAVE_SECONDS", 0.0)
    whole = two()
    expected = [step.loss for step in run(whole)]
    first, plan = two(), Schedule(items=12, epochs=20, batch=4, learning_rate=0.2, seed=0)
    running = train(first, first.lesson, plan, 5, partial=Partial(tmp_path), started=0.0)
    for _ in range(7):
        next(running)
    second = two()
    assert [step.loss for step in run(second, Partial(tmp_path))] == expected
    assert torch.equal(second.value, whole.value)
    assert second.refreshed == 60 - 7 + 1, "once for the state that was put back"


def test_what_is_no_number_stops_it_with_the_step() -> None:
    learner = two()
    with torch.no_grad():
        learner.value.fill_(torch.inf)
    with pytest.raises(SlimlineError, match="step 1 of 60"):
        run(learner)
