"""The chunked loss against the plain one, written out with torch's own operations and autograd."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tasks.compression.losses import LargestLogits, distillation_loss, distillation_loss_from_largest

POSITIONS, WIDTH, TEACHER_WIDTH, VOCABULARY = 23, 12, 20, 57
KINDS = ["forward_kl", "reverse_kl", "jensen_shannon"]


def kl(log_a: Tensor, log_b: Tensor) -> Tensor:
    """KL(a ‖ b), mean over positions."""
    return functional.kl_div(log_b, log_a, log_target=True, reduction="batchmean")


def divergence_of(kind: str, log_p: Tensor, log_q: Tensor) -> Tensor:
    """Teacher p, student q, by definition."""
    if kind == "forward_kl":
        return kl(log_p, log_q)
    if kind == "reverse_kl":
        return kl(log_q, log_p)
    log_m = ((log_p.exp() + log_q.exp()) / 2).log()
    return (kl(log_p, log_m) + kl(log_q, log_m)) / 2


def plain_loss(
    student: Tensor, teacher: Tensor, targets: Tensor, temperature: float, hard_share: float, kind: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Whole logits, torch's KL and cross entropy, nothing fused."""
    log_p, log_q = (functional.log_softmax(logits / temperature, -1) for logits in (teacher, student))
    soft = temperature**2 * divergence_of(kind, log_p, log_q)
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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.5])
@pytest.mark.parametrize("hard_share", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("chunk_tokens", [1, 7, 23, 100])
def test_chunked_equals_plain(
    inputs: dict[str, Tensor], temperature: float, hard_share: float, chunk_tokens: int, kind: str
) -> None:
    leaves = [inputs["student_hidden"], inputs["student_head"]]
    plain = plain_loss(
        leaves[0] @ leaves[1].T,
        inputs["teacher_hidden"] @ inputs["teacher_head"].T,
        inputs["targets"],
        temperature,
        hard_share,
        kind,
    )
    wanted = torch.autograd.grad(plain[0] * 3, leaves)
    chunked = distillation_loss(
        **inputs, temperature=temperature, hard_share=hard_share, divergence=kind, chunk_tokens=chunk_tokens
    )
    found = torch.autograd.grad(chunked.total * 3, leaves)
    torch.testing.assert_close(tuple(chunked), plain)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("caps", [(2.0, None), (1.5, 3.0)])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_capped_logits(inputs: dict[str, Tensor], caps: tuple[float, float | None], temperature: float) -> None:
    leaves = [inputs["student_hidden"], inputs["student_head"]]
    student, teacher = leaves[0] @ leaves[1].T, inputs["teacher_hidden"] @ inputs["teacher_head"].T
    student = caps[0] * torch.tanh(student / caps[0])
    teacher = teacher if caps[1] is None else caps[1] * torch.tanh(teacher / caps[1])
    plain = plain_loss(student, teacher, inputs["targets"], temperature, 0.2, "forward_kl")
    wanted = torch.autograd.grad(plain[0], leaves)
    found = distillation_loss(**inputs, temperature=temperature, hard_share=0.2, chunk_tokens=7, caps=caps)
    torch.testing.assert_close(tuple(found), plain)
    torch.testing.assert_close(torch.autograd.grad(found.total, leaves), wanted)


def test_head_without_gradient_gets_none(inputs: dict[str, Tensor]) -> None:
    inputs["student_head"] = inputs["student_head"].detach()
    loss = distillation_loss(**inputs, temperature=2.0, hard_share=0.1)
    (gradient,) = torch.autograd.grad(loss.total, [inputs["student_hidden"]])
    assert gradient.abs().sum() > 0
    assert not loss.soft.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_same_logits_cost_nothing(inputs: dict[str, Tensor], kind: str) -> None:
    inputs["teacher_hidden"], inputs["teacher_head"] = (
        inputs["student_hidden"].detach(),
        inputs["student_head"].detach(),
    )
    loss = distillation_loss(**inputs, temperature=3.0, hard_share=0.0, divergence=kind)
    (gradient,) = torch.autograd.grad(loss.total, [inputs["student_hidden"]])
    assert abs(loss.total.item()) < 1e-12
    assert gradient.abs().max() < 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_logits_far_apart_stay_finite_in_float32(inputs: dict[str, Tensor], kind: str) -> None:
    """Probabilities that are zero in float32 on one side or both: no 0 · ∞."""
    far = {
        name: (value.detach().float() * 60 if value.is_floating_point() else value) for name, value in inputs.items()
    }
    far["student_hidden"].requires_grad_()
    loss = distillation_loss(**far, temperature=1.0, hard_share=0.1, divergence=kind)
    (gradient,) = torch.autograd.grad(loss.total, [far["student_hidden"]])
    assert bool(torch.isfinite(torch.stack(tuple(loss))).all())
    assert bool(torch.isfinite(gradient).all())
    if kind == "jensen_shannon":
        assert float(loss.soft) <= math.log(2) * 1.000001


def largest_of(log_p: Tensor, k: int) -> LargestLogits:
    top = log_p.topk(k, dim=-1)
    rest = log_p.scatter(1, top.indices, -torch.inf).logsumexp(1)
    return LargestLogits(top.indices, top.values, rest)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("k", [1, 5, VOCABULARY - 1])
@pytest.mark.parametrize("chunk_tokens", [7, 100])
def test_largest_logits_against_plain(
    inputs: dict[str, Tensor], temperature: float, k: int, chunk_tokens: int, kind: str
) -> None:
    leaves = [inputs["student_hidden"], inputs["student_head"]]
    logits = leaves[0] @ leaves[1].T
    log_q = functional.log_softmax(logits / temperature, -1)
    teacher = inputs["teacher_hidden"] @ inputs["teacher_head"].T
    largest = largest_of(functional.log_softmax(teacher / temperature, -1), k)
    classes = log_q.exp().gather(1, largest.ids)
    log_classes = torch.cat([classes, 1 - classes.sum(1, keepdim=True)], 1).log()
    log_p = torch.cat([largest.log_probabilities, largest.log_remainder[:, None]], 1)
    soft = temperature**2 * divergence_of(kind, log_p, log_classes)
    hard = functional.cross_entropy(logits, inputs["targets"])
    total = 0.7 * soft + 0.3 * hard
    wanted = torch.autograd.grad(total, leaves)
    chunked = distillation_loss_from_largest(
        leaves[0],
        leaves[1],
        largest,
        inputs["targets"],
        temperature=temperature,
        hard_share=0.3,
        divergence=kind,
        chunk_tokens=chunk_tokens,
    )
    torch.testing.assert_close(tuple(chunked), (total, soft, hard))
    torch.testing.assert_close(torch.autograd.grad(chunked.total, leaves), wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_all_but_one_token_kept_is_the_whole_loss(inputs: dict[str, Tensor], kind: str) -> None:
    """The last class is then one token: nothing was merged. With fewer kept, the loss can only be smaller."""
    whole = distillation_loss(**inputs, temperature=2.0, hard_share=0.1, divergence=kind)
    log_p = functional.log_softmax(inputs["teacher_hidden"] @ inputs["teacher_head"].T / 2.0, -1)
    found = [
        distillation_loss_from_largest(
            inputs["student_hidden"],
            inputs["student_head"],
            largest_of(log_p, k),
            inputs["targets"],
            temperature=2.0,
            hard_share=0.1,
            divergence=kind,
        ).soft.item()
        for k in (1, 8, VOCABULARY - 1)
    ]
    assert found[0] < found[1] < found[2] == pytest.approx(whole.soft.item())


def peak_bytes(positions: int, kind: str, vocabulary: int = 20_000, width: int = 8) -> int:
    """Most bytes that torch's allocator held at once during forward and backward, by torch's own profiler."""
    student = torch.randn(positions, width, requires_grad=True)
    head, teacher = torch.randn(vocabulary, width), torch.randn(positions, width)
    targets = torch.zeros(positions, dtype=torch.long)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        loss = distillation_loss(
            student, head, teacher, head, targets, temperature=2.0, hard_share=0.1, divergence=kind, chunk_tokens=32
        )
        loss.total.backward()
    running = peak = 0
    for event in profile.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            running += event.nbytes()
            peak = max(peak, running)
    return peak


@pytest.mark.parametrize("kind", KINDS)
def test_peak_memory_does_not_grow_with_positions(kind: str) -> None:
    """Eight times the positions may add gradients of hidden states (32 bytes each), not logits (80 kB each)."""
    few, many = peak_bytes(64, kind), peak_bytes(512, kind)
    assert few > 0
    assert many - few < 448 * 1000


def test_shapes_that_disagree_are_refused(inputs: dict[str, Tensor]) -> None:
    inputs["targets"] = inputs["targets"][:-1]
    with pytest.raises(ValueError, match="positions"):
        distillation_loss(**inputs, temperature=2.0, hard_share=0.1)
