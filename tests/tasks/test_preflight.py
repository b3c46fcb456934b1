"""Impossible recipes are refused before any work, with what to change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.engines import engines_of, statistics_are_of_use
from tasks.errors import RefusedModel, RefusedRecipe
from tasks.preflight import check_architecture, check_recipe
from tasks.recipes import Recipe
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


def test_kept_answers_of_a_teacher_and_its_hidden_states_exclude_each_other() -> None:
    check_recipe(Recipe.model_validate({"distill": {"cached_top_k": 32}}))
    with pytest.raises(RefusedRecipe, match="no hidden states"):
        check_recipe(Recipe.model_validate({"distill": {"cached_top_k": 32, "hidden_weight": 1}}))


LLM = {"engine": "llm-compressor"}


@pytest.mark.parametrize(
    ("recipe", "word"),
    [
        ({"prune": LLM | {"method": "magnitude"}}, "pruning method"),
        ({"order": ["quantize"], "quantize": {"engine": "optimum", "method": "rtn"}}, "quantization"),
        ({"order": ["quantize"], "quantize": {"engine": "optimum", "group_size": 0}}, "group size"),
        ({"order": ["quantize"], "quantize": LLM | {"method": "fp8"}}, "with this bits"),
        ({"order": ["quantize"], "quantize": {"method": "awq"}}, "own engine does not have awq"),
        ({"quantize": {"engine": "optimum"}}, "zero no longer"),
        ({"quantize": LLM}, "zero no longer"),
        (
            {"order": ["quantize", "distill"], "quantize": LLM | {"method": "smoothquant", "bits": 8, "group_size": 0}},
            "does not learn the scales",
        ),
    ],
)
def test_what_an_engine_cannot_do_is_refused(recipe: dict[str, Any], word: str) -> None:
    with pytest.raises(RefusedRecipe, match=word) as refused:
        check_recipe(Recipe.model_validate(recipe))
    assert refused.value.remedy and refused.value.limit


@pytest.mark.parametrize(
    ("recipe", "engines"),
    [
        ({}, []),
        ({"order": ["prune"], "quantize": LLM}, []),
        ({"prune": LLM | {"pattern": "2:4"}}, ["llm-compressor"]),
        ({"prune": {"method": "structured"}, "quantize": LLM}, ["llm-compressor"]),
        ({"prune": LLM, "quantize": LLM | {"method": "awq"}}, ["llm-compressor"]),
        ({"order": ["quantize"], "quantize": LLM | {"method": "fp8", "bits": 8, "group_size": 0}}, ["llm-compressor"]),
        ({"order": ["distill", "prune"], "prune": LLM | {"method": "wanda"}}, ["llm-compressor"]),
    ],
)
def test_what_an_engine_can_do_passes_and_is_built(recipe: dict[str, Any], engines: list[str]) -> None:
    chosen = Recipe.model_validate(recipe)
    check_recipe(chosen)
    assert engines_of(chosen) == engines


def test_statistics_are_kept_only_for_an_engine_that_takes_them() -> None:
    assert statistics_are_of_use(Recipe())
    assert not statistics_are_of_use(Recipe.model_validate({"quantize": LLM | {"method": "awq"}}))
    assert not statistics_are_of_use(Recipe.model_validate({"prune": LLM}))


def test_what_an_architecture_cannot_do_is_refused_by_its_name(tmp_path: Path) -> None:
    gpt2, reader = write_family("gpt2", tmp_path / "gpt2"), write_family("bert", tmp_path / "bert")
    pruning = Recipe.model_validate({"order": ("prune", "distill")})
    check_architecture(pruning, gpt2)
    with pytest.raises(RefusedRecipe, match="GPT2LMHeadModel"):
        check_architecture(Recipe.model_validate({"order": ("prune", "quantize")}), gpt2)
    with pytest.raises(RefusedModel, match="BertForQuestionAnswering"):
        check_architecture(pruning, reader)
