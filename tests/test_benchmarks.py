"""Rows of the peer benchmark: recipes that the form accepts, and that the peers have."""

from __future__ import annotations

import pytest

from benchmarks.compression import QUICK_ROWS, ROWS
from tasks.adapters.engine_runs import check_engine_recipe
from tasks.adapters.engines import ENGINES
from tasks.recipes import PruneRecipe, QuantizeRecipe


@pytest.mark.parametrize("key", ROWS)
def test_a_row_is_a_recipe_that_its_peers_have(key: str) -> None:
    row = ROWS[key]
    assert row.prune is None or PruneRecipe.model_validate(row.prune)
    assert row.quantize is None or QuantizeRecipe.model_validate(row.quantize)
    assert row.peers
    for peer in row.peers:
        check_engine_recipe(ENGINES[peer], prune=row.prune, quantize=row.quantize)


def test_quick_rows_exist() -> None:
    assert set(QUICK_ROWS) <= set(ROWS)
