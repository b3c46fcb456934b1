"""What an encoder cannot be taught with is refused before it is trained for as long as that takes."""

from __future__ import annotations

import pytest

from tasks.errors import RefusedRecipe
from tasks.locate_reader import check_rate
from tasks.reader_recipes import ReaderRecipe


@pytest.mark.parametrize("width", [{"hidden_size": 384}, {"dim": 768}])
def test_the_tiny_readers_rate_is_refused_for_a_pretrained_encoder(width: dict[str, int]) -> None:
    with pytest.raises(RefusedRecipe, match=r"forget(.|\n)*0.003(.|\n)*recipe.learning_rate: 5e-5"):
        check_rate(width, ReaderRecipe().learning_rate)
    check_rate(width, 2e-4)


def test_the_tiny_reader_may_learn_at_its_own_rate() -> None:
    check_rate({"hidden_size": 32}, ReaderRecipe().learning_rate)
