"""The chunked loss against the plain one, written out with torch's own operations and autograd."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tasks.compression.losses import distillation_loss

POSITIONS, WIDTH, TEACHER_WIDTH, VOCABULARY = 23, 12, 20, 57


def plain_loss(
    student: Tensor, teacher: Tensor, targets: Tensor, temperature: float, hard_share: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Whole logits, torch's KL and cross entropy, nothing fused."""
    soft = temperature**2 * functional.kl_div(
        functional.log_softmax(student / temperature, -1),
        functional.log_softmax(teacher / temperature, -1),
        log_target=True,
        reduction="batchmean",
    )
    hard = functional.cross_entropy(student, targets)
    return (1 - hard_share) * soft + hard_share * hard, soft, hard


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return {
        "student_hidden": normal(POSITIONS, WIDTH).requires_grad_(),
        "student_head": normal(VOCABULARY, WIDTH).requires_grad_(),
        "teacher_hidden": normal(POSITIONS, TEACHER_WIDTH),
        "teacher_head": normal(VOCABULARY, TEACHER_WIDTH),
        "targets": torch.randint(VOCABULARY, (POSITIONS,), generator=generator),
    }


@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.5])
@pytest.mark.parametrize("hard_share", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("chunk_tokens", [1, 7, 23, 100])
def test_chunked_equals_plain(
    inputs: dict[str, Tensor], temperature: float, hard_share: float, chunk_tokens: int
) -> None:
    leaves = [inputs["student_hidden"], inputs["student_head"]]
    plain = plain_loss(
        leaves[0] @ leaves[1].T,
        inputs["teacher_hidden"] @ inputs["teacher_head"].T,
        inputs["targets"],
        temperature,
        hard_share,
    )
    wanted = torch.autograd.grad(plain[0] * 3, leaves)
    chunked = distillation_loss(**inputs, temperature=temperature, hard_share=hard_share, chunk_tokens=chunk_tokens)
    found = torch.autograd.grad(chunked.total * 3, leaves)
    torch.testing.assert_close(tuple(chunked), plain)
    torch.testing.assert_close(found, wanted)


def test_head_without_gradient_gets_none(inputs: dict[str, Tensor]) -> None:
    inputs["student_head"] = inputs["student_head"].detach()
    loss = distillation_loss(**inputs, temperature=2.0, hard_share=0.1)
    (gradient,) = torch.autograd.grad(loss.total, [inputs["student_hidden"]])
    assert gradient.abs().sum() > 0
    assert not loss.soft.requires_grad


def test_same_logits_cost_nothing(inputs: dict[str, Tensor]) -> None:
    inputs["teacher_hidden"], inputs["teacher_head"] = (
        inputs["student_hidden"].detach(),
        inputs["student_head"].detach(),
    )
    loss = distillation_loss(**inputs, temperature=3.0, hard_share=0.0)
    (gradient,) = torch.autograd.grad(loss.total, [inputs["student_hidden"]])
    assert abs(loss.total.item()) < 1e-12
    assert gradient.abs().max() < 1e-12


def peak_bytes(positions: int, vocabulary: int = 20_000, width: int = 8) -> int:
    """Most bytes that torch's allocator held at once during forward and backward, by torch's own profiler."""
    student = torch.randn(positions, width, requires_grad=True)
    head, teacher = torch.randn(vocabulary, width), torch.randn(positions, width)
    targets = torch.zeros(positions, dtype=torch.long)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        loss = distillation_loss(
            student, head, teacher, head, targets, temperature=2.0, hard_share=0.1, chunk_tokens=32
        )
        loss.total.backward()
    running = peak = 0
    for event in profile.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            running += event.nbytes()
            peak = max(peak, running)
    return peak


def test_peak_memory_does_not_grow_with_positions() -> None:
    """Eight times the positions may add gradients of hidden states (32 bytes each), not logits (80 kB each)."""
    few, many = peak_bytes(64), peak_bytes(512)
    assert few > 0
    assert many - few < 448 * 1000


def test_shapes_that_disagree_are_refused(inputs: dict[str, Tensor]) -> None:
    inputs["targets"] = inputs["targets"][:-1]
    with pytest.raises(ValueError, match="positions"):
        distillation_loss(**inputs, temperature=2.0, hard_share=0.1)
