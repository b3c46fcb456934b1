"""A device for machines without one: tensors that say they are on it, are computed on the CPU, and never mix.

What a kernel computes is not tested by this; that every tensor is where the next operation needs it is. As on a real
device, an operation on tensors of both places raises, but for copies, scalars and index tensors, and what lies on the
device cannot be made an array or saved.

Where there is a CUDA device, that one is taken, and nothing is pretended.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from tasks.compression import device

REAL = torch.cuda.is_available()
if not REAL:  # autograd looks for streams of a device that is registered, beside a real one in vain
    _setup_privateuseone_for_python_backend("pretend")
PRETEND = torch.device("cuda:0" if REAL else "pretend:0")
_ACROSS = {"aten::copy_", "aten::_to_copy", "aten::to"}
_INDEXED = {"aten::index", "aten::index_put_", "aten::index_put", "aten::_index_put_impl_"}


class OnDevice(torch.Tensor):
    """``held``, a CPU tensor, as if it lay on the device."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> OnDevice:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=PRETEND,
        )
        made.held = held.detach()
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def __repr__(self, **options: Any) -> str:
        return f"OnDevice({tuple(self.shape)}, {self.dtype})"


class _Factories(TorchDispatchMode):
    """Catches what makes tensors on the device, or moves them there, from tensors that are not."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = func.name().split(".")[0]
    flat = tree_flatten((args, kwargs))[0]
    given = [value for value in flat if isinstance(value, torch.Tensor)]
    here = [value for value in given if isinstance(value, OnDevice)]
    asked = [value for value in flat if isinstance(value, torch.device)]
    if name == "aten::_fused_sdp_choice":
        return 0  # the plain form: the fused ones are chosen by the kind of device
    if here and name not in _ACROSS:
        checked = [args[0]] if name in _INDEXED else given
        stray = [tuple(value.shape) for value in checked if not isinstance(value, OnDevice) and value.dim() > 0]
        if stray:
            raise RuntimeError(f"{name}: tensors on the device and on the CPU {stray}")
    plain_args, plain = tree_map_only(torch.device, lambda _: torch.device("cpu"), (args, kwargs))
    plain_args, plain = tree_map_only(OnDevice, lambda value: value.held, (plain_args, plain))
    made = func(*plain_args, **plain)
    if name == "aten::copy_":
        return args[0]
    if not any(place.type == PRETEND.type for place in asked) if asked else not here:
        return made
    owners = {id(value.held): value for value in here}

    def placed(value: torch.Tensor) -> torch.Tensor:
        return owners[id(value)] if id(value) in owners else OnDevice(value)

    return tree_map_only(torch.Tensor, placed, made)


@contextmanager
def pretend_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """While this lasts the compute device is the pretended one."""
    with monkeypatch.context() as patch, nullcontext() if REAL else _Factories():
        patch.setattr(device, "accelerator", lambda: PRETEND)
        yield


@contextmanager
def no_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """While this lasts the compute device is the CPU, whatever the machine has."""
    with monkeypatch.context() as patch:
        patch.setattr(device, "accelerator", lambda: None)
        yield
