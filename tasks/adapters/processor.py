"""The processor of this machine, as Linux describes it; by ``platform`` elsewhere."""

from __future__ import annotations

import platform
import re
from pathlib import Path


def processor_name() -> str:
    """As its maker calls it."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def instructions() -> str:
    """The instructions that it has, by Linux's names; its name where the system does not say."""
    return _cpuinfo("flags|Features") or processor_name()


def _cpuinfo(field: str) -> str:
    """Of the first processor; empty where the system does not say."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    found = re.search(rf"^(?:{field})\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else ""
