"""The distillation loss, computed from hidden states so that no ``tokens × vocabulary`` matrix is ever whole in memory.

    loss = (1 − hard_share) · T² · D(teacher_T, student_T)  +  hard_share · cross entropy on the true next token

with both softmaxes softened by the temperature T (Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural
Network", section 2: the factor T² keeps the soft gradient's size independent of T) and D one of ``divergences``. Means
over positions.

A vocabulary of 49,152 makes one float32 logit matrix of 512 tokens 100 MB, and a loss in plain torch keeps about six.
Here logits exist for ``chunk_tokens`` positions at a time, and the gradient with respect to the logits is known in
closed form, so it is taken in the forward pass and multiplied back through the head at once: nothing is recomputed, and
what is saved for the backward pass is one ``tokens × hidden`` matrix (the idea of Liger-Kernel's fused linear losses,
Hsu et al. 2024, arXiv:2410.10989).

The teacher is either its own hidden states and head, or the k largest log-probabilities a position that were kept from
it. Then D compares k + 1 classes: those tokens, and one for all others together. The student's mass of the last class
moves as a whole: inside it, nothing is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from tasks.compression.divergences import DIVERGENCES, Divergence
from tasks.compression.heads import cap_slope_, capped

CHUNK_TOKENS = 128
"""128 × 49,152 float32 logits are 25 MB; smaller chunks make the head's matrix product slower."""


class DistillationLoss(NamedTuple):
    """Scalars. Only ``total`` carries a gradient; ``soft`` is T² · D and ``hard`` the cross entropy, both in nats."""

    total: Tensor
    soft: Tensor
    hard: Tensor


class LargestLogits(NamedTuple):
    """What was kept of a teacher, softened by the temperature of the loss; the classes of a position sum to 1.

    Attributes:
        ids: (positions, k) int64, different tokens in each row, k below the vocabulary.
        log_probabilities: (positions, k), of those tokens.
        log_remainder: (positions,), of all others together.
    """

    ids: Tensor
    log_probabilities: Tensor
    log_remainder: Tensor

    def to(self, device: torch.device) -> LargestLogits:
        """The same on ``device``."""
        return LargestLogits(*(tensor.to(device) for tensor in self))


_Soft = Callable[[slice, Tensor], tuple[Tensor, Tensor]]
"""(positions, softened log q of the student there) → sum of D, gradient with respect to the softened logits."""


def distillation_loss(
    student_hidden: Tensor,
    student_head: Tensor,
    teacher_hidden: Tensor,
    teacher_head: Tensor,
    targets: Tensor,
    *,
    temperature: float,
    hard_share: float,
    divergence: str = "forward_kl",
    chunk_tokens: int = CHUNK_TOKENS,
    caps: tuple[float | None, float | None] = (None, None),
) -> DistillationLoss:
    """Mean distillation loss over positions, in chunks.

    Args:
        student_hidden: (positions, student width), what the student's head reads; the gradient flows into it.
        student_head: (vocabulary, student width); receives a gradient only if it asks for one.
        teacher_hidden: (positions, teacher width); no gradient.
        teacher_head: (vocabulary, teacher width); no gradient.
        targets: (positions,) true next tokens, integers.
        temperature: T > 0.
        hard_share: weight of the true next token, 0 to 1.
        divergence: a key of ``divergences.DIVERGENCES``.
        chunk_tokens: positions whose logits exist at once.
        caps: of the student's and the teacher's logits, see ``heads``.

    Raises:
        ValueError: shapes do not agree (a programming error; bad data is refused earlier).
    """
    _check_positions(student_hidden, teacher_hidden, targets)
    compare = DIVERGENCES[divergence]

    def soft(part: slice, log_q: Tensor) -> tuple[Tensor, Tensor]:
        teacher = capped(functional.linear(teacher_hidden[part], teacher_head), caps[1])
        return compare(functional.log_softmax(teacher.div_(temperature), dim=-1), log_q)

    return _loss(student_hidden, student_head, targets, soft, temperature, hard_share, chunk_tokens, caps[0])


def distillation_loss_from_largest(
    student_hidden: Tensor,
    student_head: Tensor,
    largest: LargestLogits,
    targets: Tensor,
    *,
    temperature: float,
    hard_share: float,
    divergence: str = "forward_kl",
    chunk_tokens: int = CHUNK_TOKENS,
    cap: float | None = None,
) -> DistillationLoss:
    """As ``distillation_loss``, from what was kept of the teacher. ``temperature``: the one that it was kept at;
    ``cap``: of the student's logits.

    D over k + 1 classes is at most D over the vocabulary (data processing inequality) and nears it as k grows.
    """
    _check_positions(student_hidden, largest.ids, targets)
    compare = DIVERGENCES[divergence]

    def soft(part: slice, log_q: Tensor) -> tuple[Tensor, Tensor]:
        log_p = torch.cat([largest.log_probabilities[part], largest.log_remainder[part].unsqueeze(1)], dim=1)
        return _compare_classes(compare, largest.ids[part], log_p, log_q)

    return _loss(student_hidden, student_head, targets, soft, temperature, hard_share, chunk_tokens, cap)


def next_token_loss(
    hidden: Tensor, head: Tensor, targets: Tensor, *, cap: float | None = None, chunk_tokens: int = CHUNK_TOKENS
) -> Tensor:
    """Mean cross entropy on the true next tokens, nats: the loss above with nothing but its hard part.

    Args:
        hidden: (positions, width), what the head reads; the gradient flows into it.
        head: (vocabulary, width); receives a gradient only if it asks for one.
        targets: (positions,) true next tokens, integers.
    """
    _check_positions(hidden, hidden, targets)

    def nothing(part: slice, log_q: Tensor) -> tuple[Tensor, Tensor]:
        return log_q.new_zeros(()), torch.zeros_like(log_q)

    return _loss(hidden, head, targets, nothing, 1.0, 1.0, chunk_tokens, cap).total


def _compare_classes(compare: Divergence, ids: Tensor, log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """D over the tokens ``ids`` and the rest as one class.

    With c the gradient for the classes' logits, that for the logit of another token j is q_j / q_rest · c_rest.
    """
    others = log_q.scatter(1, ids, -torch.inf)
    rest = others.logsumexp(1, keepdim=True)
    value, classes = compare(log_p, torch.cat([log_q.gather(1, ids), rest], dim=1))
    grad = others.sub_(rest).exp_().mul_(classes[:, -1:])
    return value, grad.scatter_(1, ids, classes[:, :-1])


def _check_positions(student: Tensor, teacher: Tensor, targets: Tensor) -> None:
    positions = targets.numel()
    if positions == 0 or student.shape[0] != positions or teacher.shape[0] != positions:
        shapes = tuple(student.shape), tuple(teacher.shape), tuple(targets.shape)
        raise ValueError(f"positions of student, teacher and targets differ or are none: {shapes}")


def _loss(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    soft: _Soft,
    temperature: float,
    hard_share: float,
    chunk: int,
    cap: float | None,
) -> DistillationLoss:
    return DistillationLoss(*_ChunkedLoss.apply(hidden, head, targets, soft, temperature, hard_share, chunk, cap))


class _ChunkedLoss(torch.autograd.Function):
    """Per position, with student logits z, u = z/T and q = softmax(z):

    ∂/∂z T² D = T · ∂D/∂u   and   ∂/∂z CE = q − onehot(target).
    """

    @staticmethod
    def forward(
        ctx: Any,
        student_hidden: Tensor,
        student_head: Tensor,
        targets: Tensor,
        soft_targets: _Soft,
        temperature: float,
        hard_share: float,
        chunk_tokens: int,
        cap: float | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        want_hidden, want_head = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        grad_hidden = torch.empty_like(student_hidden) if want_hidden else None
        grad_head = torch.zeros_like(student_head) if want_head else None
        soft, hard = student_hidden.new_zeros(()), student_hidden.new_zeros(())
        for start in range(0, targets.numel(), chunk_tokens):
            part = slice(start, start + chunk_tokens)
            logits = capped(functional.linear(student_hidden[part], student_head), cap)
            chunk_soft, chunk_hard, grad = _chunk(logits, part, targets[part], soft_targets, temperature, hard_share)
            soft += chunk_soft
            hard += chunk_hard
            grad = cap_slope_(grad, logits, cap)
            if grad_hidden is not None:
                torch.mm(grad, student_head, out=grad_hidden[part])
            if grad_head is not None:
                grad_head.addmm_(grad.T, student_hidden[part])
        positions = targets.numel()
        for whole in (grad_hidden, grad_head):
            if whole is not None:
                whole /= positions
        soft, hard = soft / positions, hard / positions
        ctx.grad_hidden, ctx.grad_head = grad_hidden, grad_head
        ctx.mark_non_differentiable(soft, hard)
        return (1 - hard_share) * soft + hard_share * hard, soft, hard

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        upstream = grads[0]
        grad_hidden = None if ctx.grad_hidden is None else ctx.grad_hidden * upstream
        grad_head = None if ctx.grad_head is None else ctx.grad_head * upstream
        return grad_hidden, grad_head, None, None, None, None, None, None


def _chunk(
    student: Tensor, part: slice, targets: Tensor, soft_targets: _Soft, temperature: float, hard_share: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of soft and hard loss, and the gradient with respect to the student's logits, of one chunk.

    ``student``: (chunk, vocabulary) logits.
    """
    targets = targets.unsqueeze(1)
    log_q = functional.log_softmax(student, dim=-1)
    hard = -log_q.gather(1, targets).sum()
    log_q_soft = log_q if temperature == 1 else functional.log_softmax(student / temperature, dim=-1)
    soft, grad = soft_targets(part, log_q_soft)
    grad.mul_((1 - hard_share) * temperature)
    if hard_share:
        grad.add_(log_q.exp_(), alpha=hard_share)
        grad.scatter_add_(1, targets, grad.new_full(targets.shape, -hard_share))
    return temperature**2 * soft, hard, grad
