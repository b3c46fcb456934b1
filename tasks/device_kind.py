"""What the numbers of a stage depend on: the kind of device that computes them."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import version

from tasks.adapters.notes import read_json, write_json
from tasks.adapters.processor import instructions
from tasks.settings import settings


def device_class() -> str:
    """The kind of device, not its serial number: ``cpu-AVX512``, ``cuda-sm90``."""
    if not version("torch").endswith("+cpu"):
        return _ask_torch()
    # No CUDA in this build: the answer is the processor's, and torch need not be loaded (a second) to hear it again.
    noted, here = settings().root / "device.json", _chosen_by()
    known = read_json(noted)
    if known is None or known["chosen_by"] != here:
        known = {"chosen_by": here, "device": _ask_torch()}
        write_json(noted, known)
    return str(known["device"])


def _ask_torch() -> str:
    import torch  # here, so that importing this module does not load torch

    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        return f"cuda-sm{major}{minor}"
    return f"cpu-{torch.backends.cpu.get_cpu_capability()}"


def _chosen_by() -> list[str]:
    """All that a CPU build of torch chooses its kernels by: itself, the processor's instructions, its own variable."""
    digest = hashlib.sha256(instructions().encode()).hexdigest()
    return [version("torch"), platform.machine(), digest, settings().cpu_capability]
