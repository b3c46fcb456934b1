"""The recipe's choice of allocation reaches the pass."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from tasks.compression.resuming import Partial
from tasks.contracts import LayerReport
from tasks.prune import _work
from tasks.recipes import PruneRecipe
from tasks.stage_child import StageChild
from tests.compression.small import blocks, write_llama


@pytest.mark.parametrize(("allocation", "alike"), [("uniform", True), ("sensitivity", False)])
def test_zero_shares_are_those_of_the_allocation(
    tmp_path: Path, allocation: Literal["uniform", "sensitivity"], alike: bool
) -> None:
    recipe = PruneRecipe(method="magnitude", sparsity=0.5, allocation=allocation)
    function, arguments = _work(recipe, 0, keep=False)
    folders = write_llama(tmp_path / "in"), tmp_path / "out"
    made = StageChild(1).run(function, folders, blocks(4), arguments, Partial(tmp_path / "part"), LayerReport)
    assert (len({round(report.sparsity, 2) for report in made}) == 1) == alike
