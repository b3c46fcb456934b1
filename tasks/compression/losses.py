"""The distillation loss, computed from hidden states so that no ``tokens × vocabulary`` matrix is ever whole in memory.

    loss = (1 − hard_share) · T² · KL(teacher_T ‖ student_T)  +  hard_share · cross entropy on the true next token

with both softmaxes softened by the temperature T (Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural
Network", section 2: the factor T² keeps the soft gradient's size independent of T). Means over positions.

A vocabulary of 49,152 makes one float32 logit matrix of 512 tokens 100 MB, and a loss in plain torch keeps about six.
Here logits exist for ``chunk_tokens`` positions at a time, and the gradient with respect to the logits is known in
closed form, so it is taken in the forward pass and multiplied back through the head at once: nothing is recomputed, and
what is saved for the backward pass is one ``tokens × hidden`` matrix (the idea of Liger-Kernel's fused linear losses,
Hsu et al. 2024, arXiv:2410.10989).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

CHUNK_TOKENS = 128
"""128 × 49,152 float32 logits are 25 MB; smaller chunks make the head's matrix product slower."""


class DistillationLoss(NamedTuple):
    """Scalars. Only ``total`` carries a gradient; ``soft`` is T² · KL and ``hard`` the cross entropy, both in nats."""

    total: Tensor
    soft: Tensor
    hard: Tensor


def distillation_loss(
    student_hidden: Tensor,
    student_head: Tensor,
    teacher_hidden: Tensor,
    teacher_head: Tensor,
    targets: Tensor,
    *,
    temperature: float,
    hard_share: float,
    chunk_tokens: int = CHUNK_TOKENS,
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
        chunk_tokens: positions whose logits exist at once.

    Raises:
        ValueError: shapes do not agree (a programming error; bad data is refused earlier).
    """
    positions = targets.numel()
    if positions == 0 or student_hidden.shape[0] != positions or teacher_hidden.shape[0] != positions:
        shapes = tuple(student_hidden.shape), tuple(teacher_hidden.shape), tuple(targets.shape)
        raise ValueError(f"positions of student, teacher and targets differ or are none: {shapes}")
    total, soft, hard = _ChunkedLoss.apply(
        student_hidden, student_head, teacher_hidden, teacher_head, targets, temperature, hard_share, chunk_tokens
    )
    return DistillationLoss(total, soft, hard)


class _ChunkedLoss(torch.autograd.Function):
    """Per position, with student logits z, q = softmax(z), q_T = softmax(z/T), p_T the teacher's:

    ∂/∂z T² KL(p_T ‖ q_T) = T (q_T − p_T)   and   ∂/∂z CE = q − onehot(target).
    """

    @staticmethod
    def forward(
        ctx: Any,
        student_hidden: Tensor,
        student_head: Tensor,
        teacher_hidden: Tensor,
        teacher_head: Tensor,
        targets: Tensor,
        temperature: float,
        hard_share: float,
        chunk_tokens: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        want_hidden, want_head = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        grad_hidden = torch.empty_like(student_hidden) if want_hidden else None
        grad_head = torch.zeros_like(student_head) if want_head else None
        soft, hard = student_hidden.new_zeros(()), student_hidden.new_zeros(())
        for start in range(0, targets.numel(), chunk_tokens):
            part = slice(start, start + chunk_tokens)
            logits = functional.linear(student_hidden[part], student_head)
            teacher = functional.linear(teacher_hidden[part], teacher_head)
            chunk_soft, chunk_hard, grad = _chunk(logits, teacher, targets[part], temperature, hard_share)
            soft += chunk_soft
            hard += chunk_hard
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
    student: Tensor, teacher: Tensor, targets: Tensor, temperature: float, hard_share: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of soft and hard loss, and the gradient with respect to the student's logits, of one chunk.

    ``student`` and ``teacher``: (chunk, vocabulary) logits. Works in place on the teacher's logits to save memory.
    """
    targets = targets.unsqueeze(1)
    log_q = functional.log_softmax(student, dim=-1)
    hard = -log_q.gather(1, targets).sum()
    log_q_soft = log_q if temperature == 1 else functional.log_softmax(student / temperature, dim=-1)
    log_p = functional.log_softmax(teacher.div_(temperature), dim=-1)
    p = log_p.exp()
    soft = temperature**2 * torch.linalg.vecdot(p, log_p.sub_(log_q_soft)).sum()
    grad = (log_q_soft.exp() - p).mul_((1 - hard_share) * temperature)
    if hard_share:
        grad.add_(log_q.exp_(), alpha=hard_share)
        grad.scatter_add_(1, targets, grad.new_full(targets.shape, -hard_share))
    return soft, hard, grad
