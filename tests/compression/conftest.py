"""One small folder a session, and ways to make others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tasks.compression.hessian import InputStatistics, accumulate, empty
from tests.compression.small import write_llama


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A seeded two-block Llama; read it, do not write to it."""
    return write_llama(tmp_path_factory.mktemp("models") / "llama")


def correlated(columns: int, tokens: int = 512, *, seed: int = 0) -> InputStatistics:
    """Statistics of inputs that mostly live in a quarter of their dimensions, as a real layer's do."""
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(tokens, columns // 4, generator=generator)
    mixing = torch.randn(columns // 4, columns, generator=generator)
    statistics = empty(columns)
    accumulate(statistics, latent @ mixing + 0.5 * torch.randn(tokens, columns, generator=generator))
    return statistics


def random_weight(rows: int, columns: int, *, seed: int = 1) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
