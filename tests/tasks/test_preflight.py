"""Impossible recipes are refused before any work, with what to change."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.errors import RefusedModel, RefusedRecipe
from tasks.preflight import check_architecture, check_recipe, check_served
from tasks.recipes import Recipe, ReleasePlan
from tests.compression.families import write_family


@pytest.mark.parametrize(
    ("order", "word"),
    [
        ((), "no stages"),
        (("prune", "prune"), "twice"),
        (("quantize", "prune"), "off their integer grid"),
        (("distill",), "from itself"),
    ],
)
def test_an_impossible_order_is_refused(order: tuple[str, ...], word: str) -> None:
    with pytest.raises(RefusedRecipe, match=word) as refused:
        check_recipe(Recipe.model_validate({"order": order}))
    assert refused.value.remedy and refused.value.limit


@pytest.mark.parametrize(
    "order",
    [
        ("prune",),
        ("quantize",),
        ("prune", "quantize"),
        ("prune", "distill", "quantize"),
        ("prune", "quantize", "distill"),
    ],
)
def test_a_possible_order_passes(order: tuple[str, ...]) -> None:
    check_recipe(Recipe.model_validate({"order": order}))


@pytest.mark.parametrize("other", [{"pattern": "2:4"}, {"method": "structured"}])
def test_shares_by_layer_are_for_single_weights(other: dict[str, str]) -> None:
    by_layer = {"allocation": "sensitivity"}
    check_recipe(Recipe.model_validate({"prune": by_layer}))
    check_recipe(Recipe.model_validate({"order": ["quantize"], "prune": by_layer | other}))
    with pytest.raises(RefusedRecipe, match="single weights"):
        check_recipe(Recipe.model_validate({"prune": by_layer | other}))


def test_kept_answers_of_a_teacher_and_its_hidden_states_exclude_each_other() -> None:
    check_recipe(Recipe.model_validate({"distill": {"cached_top_k": 32}}))
    with pytest.raises(RefusedRecipe, match="no hidden states"):
        check_recipe(Recipe.model_validate({"distill": {"cached_top_k": 32, "hidden_weight": 1}}))


@pytest.mark.parametrize(
    ("recipe", "works"),
    [
        ({}, True),
        ({"order": ("prune",)}, False),
        ({"order": ("prune",), "cpu_export": "onnx"}, True),
        ({"cpu_export": "none"}, False),
    ],
)
def test_an_exported_folder_is_released_only_where_the_recipe_makes_one(recipe: dict[str, object], works: bool) -> None:
    made = Recipe.model_validate(recipe)
    check_served(made, ReleasePlan())
    if works:
        check_served(made, ReleasePlan(serve="onnx"))
        return
    with pytest.raises(RefusedRecipe, match="makes none"):
        check_served(made, ReleasePlan(serve="onnx"))


def test_what_an_architecture_cannot_do_is_refused_by_its_name(tmp_path: Path) -> None:
    gpt2, reader = write_family("gpt2", tmp_path / "gpt2"), write_family("bert", tmp_path / "bert")
    pruning = Recipe.model_validate({"order": ("prune", "distill")})
    check_architecture(pruning, gpt2)
    with pytest.raises(RefusedRecipe, match="GPT2LMHeadModel"):
        check_architecture(Recipe.model_validate({"order": ("prune", "quantize")}), gpt2)
    with pytest.raises(RefusedModel, match="BertForQuestionAnswering"):
        check_architecture(pruning, reader)
