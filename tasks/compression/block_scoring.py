"""Score forms of a model block by block: likelihoods, KL, agreement and right answers, each block by itself.

All are compared with the baseline on the same positions. Perplexity is exp(mean negative log likelihood of the next
token); KL(baseline ‖ form) is Σ p log(p / q) over the vocabulary, in nats; a flip is a position where one of both
predicts the true next token and the other does not (Dutta et al. 2024, "Accuracy is Not All You Need",
arXiv:2407.09141).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tasks.compression.items import BASELINE, CANDIDATE, PACKED, FormSums, Item, Scores, SliceSums
from tasks.compression.limits import check_tokens
from tasks.compression.slices import slices
from tasks.contracts import Quality
from tasks.errors import RefusedModel, SlimlineError

if TYPE_CHECKING:
    from tasks.compression.scoring import Scored


def score_blocks(
    forms: Mapping[str, Scored],
    tokens: Tensor,
    *,
    first: int = 0,
    end: int | None = None,
    labels: Mapping[str, NDArray[np.bool_]] | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Scores:
    """Score every form on the same blocks. A block's figures do not depend on the others, so that blocks dealt out to
    several processes give the same as together.

    Args:
        forms: by name; ``baseline`` is what all are compared with, slices are of ``candidate``.
        tokens: (blocks, length) held-out integers.
        first: number of the first block in the data set.
        end: the token between documents, for slices by document.
        labels: label → bool mask over ``tokens``, for slices by label.
        advance: called after each block.

    Raises:
        RefusedData, RefusedModel: as ``score_pair``.
    """
    _check_alike(forms, tokens)
    found = []
    for number, block in enumerate(tokens):
        marks = {name: torch.from_numpy(mask[number]) for name, mask in (labels or {}).items()}
        found.append(_score_block(forms, block.long(), first + number, slices(block, end, marks)))
        advance()
    token_kl = {name: np.stack([kl[name] for _, kl in found]) for name in forms if name != BASELINE}
    return Scores(tuple(item for item, _ in found), token_kl)


def quality(scores: Scores, form: str, size: int) -> Quality:
    """One form's figures over all blocks; ``size``: bytes of its folder.

    Raises:
        SlimlineError: its perplexity is not finite.
    """
    positions = int(scores.counts().sum())
    mean = float(scores.sums(form, lambda sums: sums.nll).sum()) / positions
    perplexity = math.exp(mean) if mean < 700 else math.nan if math.isnan(mean) else math.inf
    if not math.isfinite(perplexity):
        name = {PACKED: "compressed folder"}.get(form, form)
        raise SlimlineError(
            f"the {name}'s perplexity is not a number",
            observed=f"{perplexity}, mean negative log likelihood {mean}",
            limit="finite",
            remedy="the original itself is damaged: get the model again"
            if form == BASELINE
            else "compress less: more bits, a smaller group, less sparsity, a lower learning rate",
        )
    of_token = scores.token_kl.get(form)
    return Quality(
        perplexity=perplexity,
        agreement=float(scores.sums(form, lambda sums: sums.agreed).sum()) / positions,
        kl=max(0.0, float(scores.sums(form, lambda sums: sums.kl).sum()) / positions),
        bytes=size,
        tokens=positions,
        kl_p99=0.0 if of_token is None else max(0.0, float(np.quantile(of_token, 0.99))),
        accuracy=float(scores.sums(form, lambda sums: sums.right).sum()) / positions,
        flip_rate=float(scores.sums(form, lambda sums: sums.lost + sums.won).sum()) / positions,
    )


def _check_alike(forms: Mapping[str, Scored], tokens: Tensor) -> None:
    sizes = {name: model.vocabulary for name, model in forms.items()}
    if len(set(sizes.values())) > 1:
        raise RefusedModel(
            "candidate and baseline do not share a vocabulary",
            observed=", ".join(f"{name} {size} tokens" for name, size in sizes.items()),
            limit="the same",
            remedy="compare with the model that the candidate was made from",
        )
    check_tokens(tokens, sizes[BASELINE])


def _score_block(
    forms: Mapping[str, Scored], block: Tensor, number: int, sliced: Mapping[str, Tensor]
) -> tuple[Item, dict[str, NDArray[np.float32]]]:
    """Figures of a block, (length,) tokens, and each form's KL at its positions, float32. ``sliced``: masks by name."""
    targets, count = block[1:].unsqueeze(1), len(block) - 1
    parts: dict[str, list[_Positions]] = {name: [] for name in forms}
    names, start = list(forms), 0
    for logits in zip(*(model.logits(block) for model in forms.values()), strict=True):
        with torch.inference_mode():
            device = logits[names.index(BASELINE)].device
            logs = {
                name: functional.log_softmax(part.to(device), dim=-1) for name, part in zip(names, logits, strict=True)
            }
            aim = targets[start : start + len(logits[0])].to(device)
            for name, log_q in logs.items():
                parts[name].append(_positions(log_q, logs[BASELINE], aim))
        start += len(aim)
    each = {name: _joined_positions(found) for name, found in parts.items()}
    was = each[BASELINE]
    sums = {name: _form_sums(found, was) for name, found in each.items()}
    now = each.get(CANDIDATE, was)
    found_slices = {
        name: SliceSums(
            int(mask.sum()),
            float(was.nll[mask].sum()),
            float(now.nll[mask].sum()),
            int((now.top[mask] == was.top[mask]).sum()),
        )
        for name, mask in sliced.items()
    }
    token_kl = {name: found.kl.float().numpy() for name, found in each.items() if name != BASELINE}
    return Item(number, count, sums, found_slices), token_kl


@dataclass(frozen=True)
class _Positions:
    """Of one form, on the CPU: (positions,) each, ``nll`` and ``kl`` in double precision."""

    nll: Tensor
    kl: Tensor
    top: Tensor
    right: Tensor


def _positions(log_q: Tensor, log_p: Tensor, aim: Tensor) -> _Positions:
    """``log_q`` and the baseline's ``log_p``: (part, vocabulary); ``aim``: (part, 1) true next tokens."""
    top = log_q.argmax(-1)
    same = log_q is log_p
    kl = torch.zeros(len(aim)) if same else torch.linalg.vecdot(log_p.exp(), log_p - log_q)
    nll = -log_q.gather(1, aim).squeeze(1)
    return _Positions(nll.double().cpu(), kl.double().cpu(), top.cpu(), (top == aim.squeeze(1)).cpu())


def _joined_positions(parts: Sequence[_Positions]) -> _Positions:
    columns = ([getattr(part, name) for part in parts] for name in ("nll", "kl", "top", "right"))
    return _Positions(*(torch.cat(column) for column in columns))


def _form_sums(now: _Positions, was: _Positions) -> FormSums:
    return FormSums(
        nll=float(now.nll.sum()),
        kl=float(now.kl.sum()),
        agreed=int((now.top == was.top).sum()),
        right=int(now.right.sum()),
        lost=int((was.right & ~now.right).sum()),
        won=int((now.right & ~was.right).sum()),
    )
