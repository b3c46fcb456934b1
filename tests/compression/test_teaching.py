"""A teacher's answers kept on disk, and resuming with the options of the loss."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tasks.compression import training_loop
from tasks.compression.distillation import distill_folder
from tasks.compression.losses import LargestLogits
from tasks.compression.resuming import Partial
from tasks.compression.teacher_cache import TeacherCache
from tasks.compression.teaching import Headed
from tasks.compression.training_loop import StepResult
from tests.compression.small import blocks, perturb, write_llama

K, COUNT, LENGTH = 6, 40, 24


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("taught")
    write_llama(home / "teacher")
    perturb(home / "teacher", home / "noisy")
    return home


def answers(home: Path, told: list[int], stop: int = COUNT) -> Callable[[], Callable[[Tensor], tuple[Tensor, Tensor]]]:
    """The teacher, which notes each question and breaks down at the one after ``stop``."""

    def load() -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        teacher = Headed.load(home / "teacher")

        def answer(tokens: Tensor) -> tuple[Tensor, Tensor]:
            if len(told) >= stop:
                raise ConnectionError("killed")
            told.append(len(tokens))
            return teacher.states(tokens), teacher.head

        return answer

    return load


def test_kept_answers_are_the_teachers(home: Path, tmp_path: Path) -> None:
    tokens, told = blocks(COUNT, LENGTH), list[int]()
    cache = TeacherCache(Partial(tmp_path), top_k=K, temperature=2.0)
    cache.fill(tokens, answers(home, told))
    assert len(told) == COUNT
    chosen = torch.tensor([39, 0, 17])
    found = cache.read(chosen)
    teacher = Headed.load(home / "teacher")
    states = teacher.states(tokens[chosen].to(teacher.head.device))
    log_p = (states @ teacher.head.T / 2.0).log_softmax(-1).cpu()
    top = log_p.topk(K)
    assert torch.equal(found.ids, top.indices)
    torch.testing.assert_close(found.log_probabilities, top.values, rtol=2e-3, atol=2e-3)
    whole = torch.cat([found.log_probabilities, found.log_remainder[:, None]], 1).exp().sum(1)
    torch.testing.assert_close(whole, torch.ones_like(whole))
    rest = 1 - top.values.exp().sum(1)
    torch.testing.assert_close(found.log_remainder.exp(), rest, rtol=3e-3, atol=1e-4)
    positions = COUNT * (LENGTH - 1)
    assert positions * (6 * K + 2) <= cache.bytes < positions * (6 * K + 2) + 3 * 1000


def test_a_broken_off_cache_goes_on_and_a_whole_one_asks_nothing(home: Path, tmp_path: Path) -> None:
    tokens, told = blocks(COUNT, LENGTH), list[int]()
    with pytest.raises(ConnectionError):
        TeacherCache(Partial(tmp_path / "a"), top_k=K, temperature=1.0).fill(tokens, answers(home, told, stop=20))
    again = TeacherCache(Partial(tmp_path / "a"), top_k=K, temperature=1.0)
    again.fill(tokens, answers(home, told, stop=20 + COUNT - 16))
    assert len(told) == 20 + COUNT - 16  # the first shard of 16 blocks was kept
    again.fill(tokens, answers(home, told, stop=0))
    whole = TeacherCache(Partial(tmp_path / "b"), top_k=K, temperature=1.0)
    whole.fill(tokens, answers(home, []))
    assert files(tmp_path / "a" / "files") == files(tmp_path / "b" / "files")


def test_a_damaged_shard_is_not_used(home: Path, tmp_path: Path) -> None:
    tokens, told = blocks(COUNT, LENGTH), list[int]()
    TeacherCache(Partial(tmp_path), top_k=K, temperature=1.0).fill(tokens, answers(home, []))
    before, victim = files(tmp_path / "files"), tmp_path / "files" / "teacher-00001.safetensors"
    victim.write_bytes(victim.read_bytes()[:-1] + b"?")
    TeacherCache(Partial(tmp_path), top_k=K, temperature=1.0).fill(tokens, answers(home, told))
    assert len(told) == COUNT
    assert files(tmp_path / "files") == before


def test_values_beyond_float16_stay_finite(tmp_path: Path) -> None:
    cache = TeacherCache(Partial(tmp_path), top_k=2, temperature=1.0)
    head = torch.tensor([[1e6], [0.0], [-1e6]])
    cache.fill(torch.zeros(1, 3), lambda: lambda tokens: (torch.ones(2, 1), head))
    found = cache.read(torch.tensor([0]))
    assert isinstance(found, LargestLogits)
    assert all(bool(torch.isfinite(part).all()) for part in found)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def distill(
    home: Path, out: Path, *, partial: Partial | None = None, stop: int = 99, **changes: Any
) -> list[StepResult]:
    recipe = {
        "epochs": 3, "batch_blocks": 4, "learning_rate": 3e-3, "temperature": 2.0, "hard_share": 0.1, "seed": 0,
    } | changes  # fmt: skip
    running = distill_folder(home / "noisy", home / "teacher", out, blocks(20), **recipe, partial=partial)
    results = []
    for result in running:
        results.append(result)
        if len(results) == stop:
            running.close()  # type: ignore[attr-defined]
    return results


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jensen_shannon"])
def test_a_cache_teaches_almost_as_the_teacher_beside(home: Path, tmp_path: Path, divergence: str) -> None:
    beside = distill(home, tmp_path / "beside", divergence=divergence)
    kept = distill(home, tmp_path / "kept", divergence=divergence, cached_top_k=96)
    assert [result.loss for result in kept] == pytest.approx([result.loss for result in beside], rel=5e-3)
    few = distill(home, tmp_path / "few", divergence=divergence, cached_top_k=4)
    assert few[0].soft_loss < beside[0].soft_loss  # classes that are merged can only lose differences
    assert sum(result.loss for result in few[-5:]) < sum(result.loss for result in few[:5])


@pytest.mark.parametrize(
    "options",
    [
        {"hidden_weight": 1.0, "divergence": "jensen_shannon"},
        {"cached_top_k": 8, "divergence": "reverse_kl"},
    ],
)
def test_every_place_to_stop_at_gives_the_same_bytes(
    home: Path, tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_loop, "SAVE_SECONDS", 0.0)
    whole = distill(home, tmp_path / "whole", **options)
    assert len(whole) == 15
    for stop in (1, 7, 14):
        out, resumed = tmp_path / f"out-{stop}", list[int]()
        partial = tmp_path / f"partial-{stop}"
        distill(home, out, partial=Partial(partial), stop=stop, **options)
        assert not out.exists()
        again = distill(home, out, partial=Partial(partial, resumed.append), **options)
        assert resumed == [stop]
        assert [each.loss for each in again] == [each.loss for each in whole]
        assert [each.hidden_loss for each in again] == [each.hidden_loss for each in whole]
        assert files(out) == files(tmp_path / "whole")
