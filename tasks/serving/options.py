"""What the container's environment says."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """Checked values of the variables that ``container`` names."""

    model_dir: Path
    host: str
    port: int
    threads: int
    max_new_tokens: int
    max_waiting: int
    fault_share: Fraction

    @classmethod
    def read(cls, environ: MutableMapping[str, str]) -> Options:
        """Raises ``ValueError`` naming the variable, its value and its limit."""
        return cls(
            model_dir=Path(environ.get("SM_MODEL_DIR", "/opt/ml/model")),
            host=environ.get("SLIMLINE_BIND_HOST", "0.0.0.0"),  # SageMaker reaches the container from outside
            port=_integer(environ, "SAGEMAKER_BIND_TO_PORT", 8080, 1, 65535),
            threads=_integer(environ, "SLIMLINE_THREADS", 1, 1, 1024),
            max_new_tokens=_integer(environ, "SLIMLINE_MAX_NEW_TOKENS", 256, 1, 1 << 20),
            max_waiting=_integer(environ, "SLIMLINE_MAX_WAITING", 32, 0, 100_000),
            fault_share=_share(environ.get("SLIMLINE_FAULT_ERROR_SHARE", "0")),
        )


def _integer(environ: MutableMapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = environ.get(name, str(default))
    if not text.isdigit() or not low <= int(text) <= high:
        raise ValueError(f"{name}: observed {text!r}, limit an integer from {low} to {high}")
    return int(text)


def _share(text: str) -> Fraction:
    try:
        share = Fraction(text)
    except (ValueError, ZeroDivisionError):
        share = Fraction(-1)
    if not 0 <= share <= 1:
        raise ValueError(f"SLIMLINE_FAULT_ERROR_SHARE: observed {text!r}, limit a number from 0 to 1")
    return share
