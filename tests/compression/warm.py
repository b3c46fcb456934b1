"""Imported by the fork server alone: what each killed process would do for the first time is done before the fork.

Imports, compiled loops, transformers' tables: else they are most of a process's time, and most kills fall into them.
No gradients are taken and no device is used: neither would survive a fork.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from tasks.compression import device
from tasks.compression.loading import load_for_compute
from tests.compression.killable import work
from tests.compression.small import quantize, write_llama

_found, device.accelerator = device.accelerator, lambda: None
torch.set_num_threads(1)
with tempfile.TemporaryDirectory() as _name:
    _home = Path(_name)
    write_llama(_home / "teacher")
    (_home / "noisy").symlink_to(_home / "teacher")
    for _stage, _out in (("prune", "pruned"), ("quantize", "integers"), ("slim", "smaller"), ("cast", "halves")):
        for _ in work(_stage, _home, _home / _out, None):
            pass
    load_for_compute(quantize(_home / "teacher", _home / "packed"))
device.accelerator = _found
