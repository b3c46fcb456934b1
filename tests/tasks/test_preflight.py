"""Impossible recipes are refused before any work, with what to change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.contracts import identity
from tasks.engine_checks import engines_of, statistics_are_of_use
from tasks.errors import Refused, RefusedData, RefusedModel, RefusedRecipe, is_out_of_memory
from tasks.evaluation_recipes import EvaluationChoice
from tasks.plans import ReleasePlan
from tasks.preflight import check_architecture, check_recipe, check_served, preflight
from tasks.preflight_gate import check_gate
from tasks.recipes import DataChoice, Gate, ModelChoice, QuantizeRecipe, Recipe
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


@pytest.mark.parametrize(
    ("choice", "word"),
    [
        ({"symmetric": False}, "does not load compressed-tensors folders with zero points"),
        ({"method": "w8a8", "format": "gptq"}, "holds weights as integers and nothing else"),
        ({"method": "float16", "format": "gptq_v2"}, "holds weights as integers and nothing else"),
        ({"method": "w8a8", "symmetric": False}, "w8a8 has no zero points"),
        ({"method": "bfloat16", "symmetric": False}, "bfloat16 has no zero points"),
        ({"mean_bits": 4.0, "format": "gptq"}, "bits by layer are written"),
        ({"mean_bits": 4.0, "method": "w8a8"}, "bits by layer are written"),
    ],
)
def test_what_would_not_load_again_is_refused(choice: dict[str, object], word: str) -> None:
    with pytest.raises(RefusedRecipe, match=word):
        check_recipe(Recipe.model_validate({"quantize": choice}))
    check_recipe(Recipe.model_validate({"order": ["prune"], "quantize": choice}))  # not used, so not checked


@pytest.mark.parametrize(
    ("choice", "layout", "columns", "grid"),
    [
        ({}, None, 64, "4bit-g64"),
        ({"format": "gptq", "symmetric": False}, "gptq", 64, "4bit-g64-asymmetric"),
        ({"format": "gptq_v2", "bits": 2, "group_size": 0}, "gptq_v2", 0, "2bit-channel"),
        ({"method": "w8a8"}, "int-quantized", 0, "channel"),
        ({"method": "float16"}, None, 0, "cast"),
    ],
)
def test_a_choice_says_how_the_finished_folder_is_stored(
    choice: dict[str, object], layout: str | None, columns: int, grid: str
) -> None:
    check_recipe(Recipe.model_validate({"quantize": choice}))
    recipe = QuantizeRecipe.model_validate(choice)
    assert (recipe.layout, recipe.columns_a_scale, recipe.grid) == (layout, columns, grid)


def test_the_format_is_the_last_tasks_and_the_integers_are_not_chosen_again_for_it() -> None:
    plain, other = QuantizeRecipe(), QuantizeRecipe(format="gptq")
    assert identity(plain) == identity(other)
    assert identity(plain) != identity(QuantizeRecipe(symmetric=False))


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


@pytest.mark.parametrize(
    ("model", "data", "recipe", "error"),
    [
        ("no-such-model", "python-docs", Recipe(), RefusedModel),
        ("tiny", "no-such-text.txt", Recipe(), RefusedData),
        ("tiny", "python-docs", Recipe(order=("quantize", "prune")), RefusedRecipe),
        ("tiny", "python-docs", Recipe(cpu_export="none"), RefusedRecipe),
    ],
)
def test_all_is_looked_at_before_any_server_is_asked(
    model: str, data: str, recipe: Recipe, error: type[Refused], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no MLflow answers, it is the user's mistake that is told."""
    monkeypatch.setenv("SLIMLINE_MLFLOW_URL", "http://127.0.0.1:9")
    asked = ModelChoice(source=model), DataChoice(source=data), recipe, ReleasePlan(serve="onnx")
    with pytest.raises(error):
        preflight.fn(*asked)


def test_what_an_architecture_cannot_do_is_refused_by_its_name(tmp_path: Path) -> None:
    gpt2, reader = write_family("gpt2", tmp_path / "gpt2"), write_family("bert", tmp_path / "bert")
    pruning = Recipe.model_validate({"order": ("prune", "distill")})
    check_architecture(pruning, gpt2)
    with pytest.raises(RefusedRecipe, match="GPT2LMHeadModel"):
        check_architecture(Recipe.model_validate({"order": ("prune", "quantize")}), gpt2)
    check_architecture(Recipe.model_validate({"order": ("quantize",), "quantize": {"method": "bfloat16"}}), gpt2)
    with pytest.raises(RefusedModel, match="BertForQuestionAnswering"):
        check_architecture(pruning, reader)


@pytest.mark.parametrize(
    ("limit", "prompts", "needed"), [(0.05, 8, "at least 52 prompts"), (0.2, 1, "at least"), (0.0, 256, "above 0")]
)
def test_a_limit_that_equal_answers_cannot_meet_is_refused_before_any_work(
    limit: float, prompts: int, needed: str
) -> None:
    with pytest.raises(RefusedRecipe, match="more of the generated answers than their number can show") as refused:
        check_gate(Gate(max_degenerate_rise=limit), EvaluationChoice(prompts=prompts))
    assert needed in str(refused.value.limit)
    check_gate(Gate(max_degenerate_rise=0.05), EvaluationChoice(prompts=52))
    check_gate(Gate(max_degenerate_rise=0.05, confidence=0.5), EvaluationChoice(prompts=8))
    check_gate(Gate(), EvaluationChoice(prompts=0))


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (MemoryError(), True), (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA out of memory"), True), (RuntimeError("shapes differ"), False), (OSError("no"), False),
    ],
)  # fmt: skip
def test_a_shortage_of_memory_is_known_by_python_s_name_and_by_torch_s(error: Exception, short: bool) -> None:
    assert is_out_of_memory(error) == short
