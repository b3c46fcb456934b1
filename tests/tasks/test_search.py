"""A search over recipes: what it tries, what it gives up, which front and which choice it comes to."""

from __future__ import annotations

import math
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.adapters.optimiser import Optimiser, first_point
from tasks.choosing import as_big, check_space, choose, excess, front_of, hopeless, objectives, overruns, recipe_at
from tasks.contracts import DatasetRef, ModelRef, Price, Score, Scorecard, Tracked
from tasks.costs import token_cost
from tasks.errors import Refused, RefusedRecipe
from tasks.pareto import draw_front
from tasks.pricing import require_priced
from tasks.recipes import Recipe
from tasks.search_contracts import Comparison, Stage, Tried
from tasks.search_plan import Budgets, SearchSpace
from tasks.search_text import choice_markdown, reasons, rows, smallest_first, summary, word

SMALL = SearchSpace(orders=("quantize", "prune + quantize"), sparsities=(0.1, 0.5), bits=(8, 4), group_sizes=(32,))
ORIGINAL = ModelRef(
    uri="o", digest="o" * 64, name="original", licence="", architecture="LlamaForCausalLM", parameters=1000, bytes=4000,
    dtype="float32",
)  # fmt: skip


def scorecard(size: int, perplexity: float, agreement: float = 0.9, ms: float = 5.0) -> Scorecard:
    shared: dict[str, Any] = {"kl": 0.1, "tokens": 100, "first_token_ms": 1.0}
    return Scorecard(
        candidate_model=ORIGINAL.model_copy(update={"bytes": size}), baseline_model=ORIGINAL, dataset_digest="d",
        checks=(),
        candidate=Score(perplexity=perplexity, agreement=agreement, bytes=size, per_token_ms=ms, **shared),
        baseline=Score(perplexity=10.0, agreement=1.0, bytes=4000, per_token_ms=10.0, **shared),
    )  # fmt: skip


def tried(number: int, size: int = 1000, perplexity: float = 11.0, **more: Any) -> Tried:
    measured = scorecard(size, perplexity, **{name: more.pop(name) for name in ("agreement", "ms") if name in more})
    found = {
        "number": number, "recipe": Recipe(name=f"r{number}"), "outcome": "measured", "scorecard": measured,
        "stages": (Stage(name="quantize", reused=bool(number % 2)),),
        "bytes_ratio": size / 4000, "perplexity_ratio": perplexity / 10,
        "over": () if "outcome" in more else overruns(measured, Budgets()),
    }  # fmt: skip
    return Tried.model_validate(found | more)


def comparison(*each: Tried) -> Comparison:
    chosen, reason = choose(each, "bytes")
    data = DatasetRef(
        uri="d", digest="d" * 64, name="text", licence="", block_tokens=8, calibration_blocks=1, training_blocks=1,
        evaluation_blocks=1,
    )  # fmt: skip
    return Comparison(
        original=ORIGINAL, data=data, tried=each, front=front_of(each), chosen=chosen, reason=reason,
        tracked=Tracked(run_id="r", url="http://mlflow/r"),
    )  # fmt: skip


def names(optimiser: Optimiser, count: int) -> list[str]:
    found = []
    while len(found) < count and (asked := optimiser.ask()) is not None:
        number, point = asked
        recipe = recipe_at(point, Recipe(name="base"))
        found.append(recipe.name)
        optimiser.tell(number, [float(recipe.quantize.bits), 1.0 / recipe.quantize.bits])
    return found


def test_no_recipe_is_tried_twice_and_a_small_space_is_used_up() -> None:
    optimiser = Optimiser(SMALL, 2, seed=0)
    found = names(optimiser, 100)
    assert len(found) == len(set(found)) == optimiser.size == 2 + 2 * 2 * 2
    assert optimiser.ask() is None


def test_the_same_seed_tries_the_same_recipes() -> None:
    space = SearchSpace()
    assert names(Optimiser(space, 2, seed=3), 15) == names(Optimiser(space, 2, seed=3), 15)
    assert names(Optimiser(space, 2, seed=3), 15) != names(Optimiser(space, 2, seed=4), 15)


def test_what_came_to_nothing_does_not_stop_the_search() -> None:
    optimiser = Optimiser(SMALL, 2, seed=1)
    for _ in range(optimiser.size):
        asked = optimiser.ask()
        assert asked is not None
        optimiser.tell(asked[0], None)
    assert optimiser.ask() is None


def test_a_point_is_a_recipe_with_all_else_from_the_base() -> None:
    point = {"order": "prune + quantize + distill", "prune": "wanda", "sparsity": 0.3, "quantize": "gptq", "bits": 3}
    made = recipe_at(point | {"group_size": 32}, Recipe(name="base", seed=7, max_fallback_share=0.1))
    assert made.order == ("prune", "quantize", "distill") and made.seed == 7 and made.max_fallback_share == 0.1
    assert (made.prune.method, made.prune.sparsity, made.quantize.bits, made.quantize.group_size) == (
        "wanda",
        0.3,
        3,
        32,
    )
    assert made.name == "wanda30-gptq3-g32-distil"
    plain = recipe_at({"order": "quantize", "quantize": "rtn", "bits": 8, "group_size": 0}, made)
    assert plain.prune == made.prune and plain.order == ("quantize",), "what the order leaves out stays as it was"


points = st.tuples(st.integers(100, 4000), st.floats(10.0, 100.0))


@given(st.lists(points, max_size=30))
def test_the_front_holds_what_nothing_beats_and_nothing_else(measured: list[tuple[int, float]]) -> None:
    each = [tried(number, size, perplexity) for number, (size, perplexity) in enumerate(measured)]
    front = {measured[number] for number in front_of(each)}

    def beaten(size: int, perplexity: float) -> bool:
        return any((a <= size and b <= perplexity) and (a, b) != (size, perplexity) for a, b in measured)

    assert front == {point for point in measured if not beaten(*point)}
    assert list(front_of(each)) == sorted(front_of(each), key=lambda number: measured[number])


def test_the_choice_keeps_within_every_budget_and_says_why() -> None:
    small_and_bad = tried(1, 400, 20.0)
    good, better = tried(2, 900, 11.0, ms=9.0), tried(3, 1100, 10.5, ms=4.0)
    assert choose([small_and_bad, good, better], "bytes")[0] == 2
    assert choose([small_and_bad, good, better], "quality")[0] == 3
    number, reason = choose([small_and_bad, good, better], "speed")
    assert number == 3 and "fewest milliseconds of the 2 recipes within every budget" in reason
    none, reason = choose([small_and_bad, tried(4, 3000, 30.0)], "bytes")
    assert none is None and "nearest is r1: perplexity ratio 2.000 > 1.25" in reason
    assert choose([], "bytes")[0] is None


def test_a_budget_in_dollars_is_held_against_the_cheapest_instance_type() -> None:
    plain, budgets = scorecard(900, 11.0, ms=5.0), Budgets(max_usd_per_million=0.3)
    assert overruns(plain, budgets) == ("$inf per million tokens > $0.3",), "no price, no proof"
    prices = [
        Price(instance_type=kind, region="r", usd_per_hour=usd, as_of="2026-11-27", source="s", quoted=True)
        for kind, usd in (("ml.a.large", 0.2), ("ml.b.large", 0.4))
    ]
    costs = tuple(token_cost(price, "m", baseline_rate=100.0, candidate_rate=200.0) for price in prices)
    costed = plain.model_copy(update={"costs": costs})
    assert overruns(costed, budgets) == () and overruns(costed, Budgets()) == ()
    assert overruns(costed, Budgets(max_usd_per_million=0.27)) == ("$0.278 per million tokens > $0.27",)
    found = comparison(tried(1, 900, 11.0, scorecard=costed))
    assert rows(found)[0]["$ per million"] == "0.278" and found.reason.endswith(", $0.28 per million tokens")


def test_a_budget_in_dollars_without_any_price_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIMLINE_PRICED", "ml.none.large")
    with pytest.raises(Refused, match="a budget in dollars needs an instance type with a price"):
        require_priced()
    monkeypatch.setenv("SLIMLINE_PRICED", "ml.none.large, ml.m5.xlarge")
    require_priced()


def test_half_made_models_are_given_up_for_a_reason() -> None:
    budgets = Budgets(max_bytes_ratio=0.3, max_perplexity_ratio=1.2)
    whole, small = ORIGINAL, ORIGINAL.model_copy(update={"bytes": 1000})
    assert hopeless(whole, ORIGINAL, 1.1, ("quantize",), budgets, 1.5) == "", "quantize makes it smaller"
    assert "no later stage makes it smaller" in hopeless(whole, ORIGINAL, 1.1, ("distill",), budgets, 1.5)
    assert hopeless(small, ORIGINAL, 1.79, ("distill",), budgets, 1.5) == ""
    assert "perplexity ratio 1.81 on training blocks > 1.80" in hopeless(small, ORIGINAL, 1.81, (), budgets, 1.5)
    assert hopeless(small, ORIGINAL, None, (), budgets, 1.5) == ""


def test_a_stopped_recipe_tells_the_optimiser_what_it_showed() -> None:
    stopped = tried(1, 2000, 40.0, outcome="stopped", scorecard=None)
    assert objectives(stopped, False) == [0.5, math.log(4.0)]
    assert objectives(stopped, True) is None, "nobody has measured its speed"
    assert objectives(tried(2, 1000, 11.0, ms=5.0), True) == pytest.approx([0.25, math.log(1.1), math.log(5.0)])
    assert objectives(tried(3, bytes_ratio=None), False) is None
    assert front_of([stopped]) == ()
    assert objectives(tried(4, outcome="failed", scorecard=None), False) is None, "half made is not measured"


def test_how_far_over_the_budgets_a_recipe_is() -> None:
    assert excess(tried(1, 1000, 12.0), Budgets()) == 0
    assert excess(tried(1, 1200 * 2, 12.5 * 2, agreement=0.6), Budgets()) == pytest.approx(2 * math.log(2) + 0.1)
    stopped = tried(1, 1264, 10.0, outcome="stopped", scorecard=None)
    assert excess(stopped, Budgets()) == pytest.approx(math.log(0.316 / 0.3))
    slow = tried(1, 1000, 11.0, ms=8.0)
    assert excess(slow, Budgets(max_token_ms=4)) == pytest.approx(math.log(2)) and excess(slow, Budgets()) == 0


def test_the_estimator_looks_elsewhere_than_beyond_the_budgets() -> None:
    """Eight bits answer best and are too big: nothing beats them, and no neighbour of theirs is worth a trial."""

    def of_eight_bits(seed: int, over: float) -> int:
        optimiser, found = Optimiser(SearchSpace(), 2, seed=seed), 0
        for _ in range(16):
            asked = optimiser.ask()
            assert asked is not None
            number, point = asked
            bits, zeros = int(point["bits"]), float(point.get("sparsity", 0.0))
            found += bits == 8
            optimiser.tell(number, [bits / 32, {8: 0.0, 4: 0.1, 3: 0.45}[bits] + zeros], over if bits == 8 else 0.0)
        return found

    knows, knows_not = (sum(of_eight_bits(seed, over) for seed in range(12)) for over in (0.05, 0.0))
    assert knows < 0.85 * knows_not, (knows, knows_not)


@pytest.mark.parametrize(
    ("base", "field"),
    [
        ({"prune": {"method": "structured", "channels": 0.2}}, "prune.method"),
        ({"prune": {"pattern": "2:4"}}, "prune.pattern"),
        ({"quantize": {"mean_bits": 4.25}}, "mean_bits"),
        ({"quantize": {"method": "w8a8"}}, "quantize.method"),
    ],
)
def test_a_base_that_the_search_would_overwrite_is_refused(base: dict[str, Any], field: str) -> None:
    recipe = Recipe.model_validate({"name": "base", **base})
    with pytest.raises(RefusedRecipe, match="searched") as refused:
        check_space(recipe, SearchSpace())
    assert field in refused.value.remedy
    check_space(Recipe(name="base"), SearchSpace())


def test_the_first_point_is_one_of_the_space() -> None:
    for orders in (("quantize",), ("prune + quantize",)):
        point = first_point(SearchSpace.model_validate({"orders": orders, "bits": (3,)}))
        assert recipe_at(point, Recipe(name="base")).quantize.bits == 3 and ("prune" in point) == ("prune" in orders[0])


@pytest.mark.parametrize(
    ("bits", "group_size", "known"), [(8, 64, True), (8, 32, True), (8, 128, False), (8, 0, False), (4, 32, False)]
)
def test_a_recipe_is_spared_only_where_a_folder_no_bigger_was_over_the_budget(
    bits: int, group_size: int, known: bool
) -> None:
    point = {"order": "prune + quantize", "prune": "wanda", "sparsity": 0.2, "quantize": "gptq"}
    asked = point | {"bits": bits, "group_size": group_size}
    recipe = Recipe.model_validate({"name": "r1", "quantize": {"bits": 8, "group_size": 64}})
    big = tried(1, 1264, 10.0, outcome="stopped", scorecard=None, recipe=recipe)
    assert (as_big(asked, [big], Budgets()) is big) == known
    assert as_big(asked, [big], Budgets(max_bytes_ratio=0.4)) is None, "it was stopped for something else"
    pruned = big.model_copy(update={"stages": (Stage(name="prune", reused=False),)})
    assert as_big(asked, [pruned], Budgets()) is None, "as wide as before: nothing was quantized"


def test_what_a_person_reads() -> None:
    found = comparison(
        tried(1, 400, 20.0), tried(2, 900, 11.0), tried(3, 2000, 40.0, outcome="stopped", reason="too bad")
    )
    assert summary(found) == "3 recipes: 2 measured, 1 stopped half way, 0 failed; 1 stages computed, 2 reused"
    assert summary(found.model_copy(update={"spared": 2})).endswith(
        "; 2 more spared, their folders as big as a stopped one's"
    )
    assert [word(found, each) for each in smallest_first(found)] == ["over budget", "chosen", "stopped"]
    assert reasons(found) == [("over budget", "r1: perplexity ratio 2.000 > 1.25"), ("stopped", "r3: too bad")]
    again = found.model_copy(update={"tried": (*found.tried, tried(4, 400, 20.0))})
    assert reasons(again)[0] == ("over budget", "r1, r4: perplexity ratio 2.000 > 1.25")
    outcomes = {row["recipe"]: (row["outcome"], row["front"]) for row in rows(found)}
    assert outcomes == {"r1": ("over budget", "yes"), "r2": ("chosen", "yes"), "r3": ("stopped", "")}
    assert [row["why"] for row in rows(found)] == ["perplexity ratio 2.000 > 1.25", "", "too bad"]
    text = choice_markdown(found)
    assert text.startswith("# r2\nWhy: r2 has the smallest folder") and '"name": "r2"' in text
    assert choice_markdown(comparison(tried(1, 400, 20.0))).startswith("# No recipe fits")


def test_the_picture_has_every_recipe_of_the_front_and_the_choice() -> None:
    found = comparison(tried(1, 400, 20.0), tried(2, 900, 11.0), tried(3, 2000, 40.0, outcome="stopped"))
    picture = draw_front(found, Budgets())
    words = " ".join(text.strip() for text in ElementTree.fromstring(picture).itertext() if text.strip())
    for expected in (
        "r2 (chosen)",
        "r1",
        "Pareto front",
        "within every budget",
        "over a budget",
        "stopped half way",
        "r2 is chosen",
    ):
        assert expected in words, expected
    assert "10^" not in words and " 2 " in words, "ratios are written as numbers, not as powers of ten"
    assert draw_front(found, Budgets()) == picture
    failed = tried(4, outcome="failed", bytes_ratio=None, perplexity_ratio=None)
    with pytest.raises(ValueError, match="no front"):
        draw_front(comparison(failed), Budgets())
