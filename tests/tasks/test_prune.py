"""The recipe's choice of allocation reaches the pass."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from tasks.compression.resuming import Partial
from tasks.prune import _work
from tasks.recipes import PruneRecipe
from tests.compression.small import blocks, write_llama


@pytest.mark.parametrize(("allocation", "alike"), [("uniform", True), ("sensitivity", False)])
def test_zero_shares_are_those_of_the_allocation(
    tmp_path: Path, allocation: Literal["uniform", "sensitivity"], alike: bool
) -> None:
    recipe = PruneRecipe(method="magnitude", sparsity=0.5, allocation=allocation)
    made = _work(
        write_llama(tmp_path / "in"), tmp_path / "out", blocks(4), recipe, 0, Partial(tmp_path / "part"), keep=False
    )
    assert (len({round(report.sparsity, 2) for report in made}) == 1) == alike
