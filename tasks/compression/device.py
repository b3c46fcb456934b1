"""Where the mathematics runs.

Weights of one decoder block, one batch of its activations and the statistics of its groups lie on the device; hidden
states that wait, and everything that is read or written, lie in the host's memory. On the CPU the two are the same and
nothing is copied.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

Held = TypeVar("Held")
HOST = torch.device("cpu")


def compute_device() -> torch.device:
    """The first CUDA device where there is one, else the CPU."""
    return accelerator() or HOST


def accelerator() -> torch.device | None:
    """The first CUDA device, or none."""
    return torch.device("cuda:0") if torch.cuda.is_available() else None


def on_device(held: Held, moved: dict[int, Tensor]) -> Held:
    """``held`` (tuples, lists, dicts of anything) with its tensors on the compute device.

    ``moved`` has the copies by the original's ``id``, so that what many blocks share is copied once.
    """
    device = compute_device()

    def move(tensor: Tensor) -> Tensor:
        if id(tensor) not in moved:
            moved[id(tensor)] = tensor.to(device)
        return moved[id(tensor)]

    result: Held = tree_map_only(Tensor, move, held)
    return result
