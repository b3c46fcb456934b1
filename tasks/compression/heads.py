"""What comes after the head's matrix: logits that are capped (Gemma 2, arXiv:2408.00118, section 2)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def head_cap(config: Any) -> float | None:
    """The bound that a model's logits cannot pass, or none. ``config``: a transformers configuration."""
    cap = getattr(config, "final_logit_softcapping", None)
    return None if cap is None else float(cap)


def capped(logits: Tensor, cap: float | None) -> Tensor:
    """``cap · tanh(logits / cap)``, or the logits themselves without a cap; ``logits`` may be overwritten."""
    return logits if cap is None else torch.tanh(logits.div_(cap)).mul_(cap)


def cap_slope_(grad: Tensor, answered: Tensor, cap: float | None) -> Tensor:
    """Turn a gradient for capped logits ``answered`` into that for the head's own, in place: times 1 − tanh²."""
    return grad if cap is None else grad.mul_(1 - (answered / cap).square())
