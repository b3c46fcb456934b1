"""An optimizer in the middle of its work as plain tensors, so that another process goes on with exactly its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from tasks.compression.device import HOST


def state_of(parameters: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Values of ``parameters`` and what ``optimizer`` keeps for each, by place in the sequence, in host memory."""
    tensors = {f"{number}.value": parameter.detach().to(HOST) for number, parameter in enumerate(parameters)}
    for number, parameter in enumerate(parameters):
        for name, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{number}.optimizer.{name}"] = value.to(HOST)
    return tensors


def restore(
    parameters: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """Undo ``state_of``: same parameters in the same order, an optimizer that has not stepped yet."""
    with torch.no_grad():
        for name, tensor in tensors.items():
            number, _, rest = name.partition(".")
            parameter = parameters[int(number)]
            if rest == "value":
                parameter.copy_(tensor)
            else:
                # AdamW counts its steps in host memory, wherever the parameter is.
                place = parameter.device if tensor.dim() else HOST
                optimizer.state[parameter][rest.removeprefix("optimizer.")] = tensor.to(place, copy=True)
