"""How far a student's distribution q is from a teacher's p, with the gradient in closed form.

* forward_kl: KL(p ‖ q) = Σ p log(p / q); ∂/∂uᵢ = qᵢ − pᵢ
* reverse_kl: KL(q ‖ p) = Σ q log(q / p); ∂/∂uᵢ = qᵢ (rᵢ − Σ q r), r = log(q / p)
* jensen_shannon: ½ KL(p ‖ m) + ½ KL(q ‖ m), m = ½ (p + q); ∂/∂uᵢ = ½ qᵢ (sᵢ − Σ q s), s = log(q / m)

Nats a position; u are the student's logits, q = softmax(u).

Forward KL makes the student cover all that the teacher does; reverse KL makes it keep to what the teacher finds likely;
Jensen-Shannon lies between and is bounded by log 2. The last is the generalised one at β = ½ (Agarwal et al. 2023,
"On-Policy Distillation of Language Models", arXiv:2306.13649, equation 1). Its gradient is short because the terms from
log m cancel: ∂/∂qᵢ = ½ log(qᵢ / mᵢ). All three are zero, with zero gradient, where p = q.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

DivergenceName = Literal["forward_kl", "reverse_kl", "jensen_shannon"]

Divergence = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(log p, log q), both (positions, classes), finite and normalised → sum over positions, a scalar, and the gradient
with respect to the student's logits, (positions, classes). May overwrite log p, never log q."""


def forward_kl(log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """KL(p ‖ q)."""
    p = log_p.exp()
    value = torch.linalg.vecdot(p, log_p.sub_(log_q)).sum()
    return value, log_q.exp().sub_(p)


def reverse_kl(log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """KL(q ‖ p)."""
    q = log_q.exp()
    ratio = log_p.neg_().add_(log_q)
    each = torch.linalg.vecdot(q, ratio)
    return each.sum(), ratio.sub_(each.unsqueeze(1)).mul_(q)


def jensen_shannon(log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """½ KL(p ‖ m) + ½ KL(q ‖ m) with m = ½ (p + q)."""
    log_m = torch.logaddexp(log_p, log_q).sub_(math.log(2))
    of_teacher = torch.linalg.vecdot(log_p.exp(), log_p.sub_(log_m))
    q = log_q.exp()
    ratio = log_m.neg_().add_(log_q)
    of_student = torch.linalg.vecdot(q, ratio)
    value = 0.5 * (of_teacher + of_student).sum()
    return value, ratio.sub_(of_student.unsqueeze(1)).mul_(q).mul_(0.5)


DIVERGENCES: Mapping[str, Divergence] = MappingProxyType(
    {"forward_kl": forward_kl, "reverse_kl": reverse_kl, "jensen_shannon": jensen_shannon}
)
