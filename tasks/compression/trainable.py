"""What learns in a compressed model, and how its zeros and integers are kept.

* Dense linear layers learn weight by weight. A weight that is zero at the start stays exactly zero: its gradient is
  cleared, and AdamW without weight decay does not move a parameter whose gradients have all been zero.
* Packed linear layers learn one factor per group scale, ``scale = scale₀ · exp(gain)``; codes and zero points do not
  change, so neither do zeros (code = zero point). Learning the logarithm makes a step a relative change, the same for
  large scales and small ones, and a scale can never become zero or negative. One factor per row would need no gradient
  of the weight, but measured on SmolLM2-135M (4 bits, 8,192 tokens) it saved only 7 % of the CPU time and recovered
  less: KL to the teacher 0.575 → 0.387, against 0.358 with one per group.
* Norms, and biases where there are any, learn.
* A learning rate is relative: see ``Trainable.groups``.
* Embeddings and head do not. Here they are one matrix in most small models, so that moving the head to please the loss
  would move every input with it; they were not compressed, so there is nothing to repair; and they would add a quarter
  to the gradients of a 135 M model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from tasks.compression.checkpoint import Checkpoint
from tasks.compression.device import HOST
from tasks.compression.packing import PackedLinear
from tasks.compression.writing import as_stored
from tasks.errors import SlimlineError


class ScaledLinear(nn.Module):
    """A packed linear layer whose group scales learn.

    The dense weight is made once per optimizer step (``refresh``), not once per forward pass, and from the scales as
    they will be stored (rounded to float16 by default), so that training sees the weights that are written.

    Attributes:
        gain: (rows, groups), the logarithm of what each scale is multiplied by; 0 at the start.
        weight: (rows, columns) float32, ``(code − zero point) · scale``; a buffer.
    """

    weight: Tensor

    def __init__(self, packed: PackedLinear, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.packed = packed
        self.bias = bias
        self.gain = nn.Parameter(torch.zeros_like(packed.scale, dtype=torch.float32))
        self.register_buffer("weight", packed.dequantize(), persistent=False)

    @property
    def scale(self) -> Tensor:
        """(rows, groups), in the type of the stored scales."""
        return (self.packed.scale.float() * self.gain.detach().exp()).to(self.packed.scale.dtype)

    def refresh(self) -> None:
        """Make the weight again from the present gains."""
        self.weight.copy_(replace(self.packed, scale=self.scale).dequantize())

    def forward(self, inputs: Tensor) -> Tensor:
        """(…, columns) → (…, rows)."""
        output = cast(Tensor, _ScaledProduct.apply(inputs, self.gain, self.weight))
        return output if self.bias is None else output + self.bias


class _ScaledProduct(torch.autograd.Function):
    """``inputs @ weight.T`` with the gradient for the gains: ∂L/∂gain[r, g] = Σ_{c in g} ∂L/∂W[r, c] · W[r, c].

    The weight itself is neither copied nor given a gradient of its own that would outlive this layer's backward pass.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, gain: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(inputs)
        ctx.weight, ctx.shape = weight, gain.shape
        return functional.linear(inputs, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, Tensor | None, None]:
        (inputs,) = ctx.saved_tensors
        (grad,) = grads
        rows, groups = ctx.shape
        grad_inputs = grad @ ctx.weight if ctx.needs_input_grad[0] else None
        grad_weight = grad.reshape(-1, rows).T @ inputs.reshape(-1, inputs.shape[-1])
        grad_gain = grad_weight.mul_(ctx.weight).view(rows, groups, -1).sum(-1)
        return grad_inputs, grad_gain, None


@dataclass(frozen=True)
class Trainable:
    """The parameters that learn, and what must not change.

    Attributes:
        scaled: packed layers by full name.
        dense: learning parameters that are stored as they are, by full name: linear weights, norms, biases.
        masks: bool, True where a dense linear weight may differ from zero; only layers that have zeros.
    """

    scaled: dict[str, ScaledLinear]
    dense: dict[str, nn.Parameter]
    masks: dict[str, Tensor]

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [layer.gain for layer in self.scaled.values()] + list(self.dense.values())

    def groups(self) -> list[dict[str, Any]]:
        """Optimizer groups with a ``size`` each: the learning rate of a group is the recipe's times its size.

        A gain's size is 1, another parameter's is the root mean square of its values that are not zero. AdamW moves
        each value by about its learning rate, so this makes the recipe's number the relative change a step everywhere,
        and one number serves dense and packed students.
        """
        gains: list[dict[str, Any]] = [{"params": [layer.gain for layer in self.scaled.values()], "size": 1.0}]
        return (gains if self.scaled else []) + [
            {"params": [parameter], "size": _typical_size(parameter.detach())} for parameter in self.dense.values()
        ]

    def clear_masked_gradients(self) -> None:
        """Call before every optimizer step."""
        for name, mask in self.masks.items():
            grad = self.dense[name].grad
            if grad is not None:
                grad.mul_(mask)

    def refresh(self) -> None:
        """Call after every optimizer step."""
        for layer in self.scaled.values():
            layer.refresh()

    def stored(self, checkpoint: Checkpoint, name: str) -> Tensor:
        """Tensor ``name`` as it is to be written: learnt in the student's own type, everything else as it was.

        Raises:
            SlimlineError: a scale left the range of its stored type.
        """
        if name in self.dense:
            return as_stored(self.dense[name].detach().to(HOST), checkpoint.tensor(name).dtype)
        layer = self.scaled.get(name.removesuffix(".weight_scale")) if name.endswith(".weight_scale") else None
        if layer is None:
            return checkpoint.tensor(name)
        scale = layer.scale
        if not bool((torch.isfinite(scale) & (scale > 0)).all()):
            raise SlimlineError(
                f"a scale of {name} left the range of {scale.dtype} during distillation",
                observed=f"{float(scale.min())} to {float(scale.max())}",
                limit="positive and finite",
                remedy="lower the learning rate",
            )
        return scale.to(HOST)


def _typical_size(values: Tensor) -> float:
    """Root mean square of what is not zero, or 1 for all zeros (a fresh bias)."""
    live = int(torch.count_nonzero(values))
    return float(values.norm()) / live**0.5 if live else 1.0


def make_trainable(model: PreTrainedModel, checkpoint: Checkpoint) -> Trainable:
    """Prepare ``model``, loaded from ``checkpoint``'s folder, in place: packed layers are exchanged, parameters opened.

    Raises:
        RefusedModel: a packed layer cannot be read.
    """
    architecture = checkpoint.architecture
    scaled: dict[str, ScaledLinear] = {}
    dense: dict[str, nn.Parameter] = {}
    masks: dict[str, Tensor] = {}
    for name in architecture.all_linears(checkpoint.config):
        layer = cast(nn.Linear, model.get_submodule(name))
        packed = checkpoint.packed(name)
        if packed is not None:
            scaled[name] = ScaledLinear(packed.to(layer.weight.device), cast("nn.Parameter | None", layer.bias))
            model.set_submodule(name, scaled[name])
        elif bool((layer.weight == 0).any()):
            masks[f"{name}.weight"] = layer.weight != 0
    for name, parameter in model.named_parameters():
        inner = name.startswith((f"{architecture.blocks}.", f"{architecture.norm}."))
        if inner and not name.endswith(".gain"):
            dense[name] = parameter
    trainable = Trainable(scaled, dense, masks)
    for parameter in trainable.parameters:
        parameter.requires_grad_(True)
    return trainable
