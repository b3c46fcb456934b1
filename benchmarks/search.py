"""How well the search spends its recipes: ``python -m benchmarks.search``.

A made-up landscape over the form's default space and rounding to nearest (126 recipes), in the likeness of
SmolLM2-135M's: folder bytes follow bits and group size; log perplexity follows bits, groups, zeros and methods. The
budgets are the form's defaults. Each row is the mean over searches with other seeds, ``recipes`` recipes each:

- ``ours``: the optimiser, told how far each recipe is over the budgets (``tasks/adapters/optimiser.py``);
- ``no budgets``: the same, told the objectives alone;
- ``random``: recipes drawn without putting back.

``fits``: the share of the tried recipes within every budget. ``best``: how often the smallest recipe that fits, and of
those the best answering, was among them. ``bytes``: bytes ratio of the smallest one found that fits, mean.
"""

from __future__ import annotations

import argparse
import json
import math
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np

from tasks.adapters.optimiser import Optimiser, Point, points
from tasks.choosing import excess, objectives
from tasks.recipes import Recipe
from tasks.search_contracts import Tried
from tasks.search_plan import Budgets, SearchSpace

SPACE, BUDGETS, BASE = SearchSpace(quantize_methods=("gptq", "rtn")), Budgets(), Recipe()


@dataclass(frozen=True)
class Row:
    """Means over ``searches``."""

    method: str
    recipes: int
    fits: float
    best: float
    bytes: float
    searches: int


def main() -> None:
    parser = argparse.ArgumentParser(description="Search a made-up landscape, and count what was worth trying.")
    parser.add_argument("--searches", type=int, default=100, help="searches a row, each with a seed of its own")
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    parser.add_argument("--quick", action="store_true", help="few searches, seconds")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module="optuna")
    if not options.json:
        print(f"{'method':12}{'recipes':>8}{'fits':>8}{'best':>8}{'bytes':>8}")
    for row in measure(10 if options.quick else options.searches):
        if options.json:
            print(json.dumps(asdict(row)))
        else:
            print(f"{row.method:12}{row.recipes:8}{row.fits:8.2f}{row.best:8.2f}{row.bytes:8.4f}", flush=True)


def measure(searches: int) -> Iterator[Row]:
    best = min(map(_figures, filter(_fits, map(outcome, points(SPACE)))))
    for recipes in (12, 24):
        for method in ("ours", "no budgets", "random"):
            found = [tried(method, seed, recipes) for seed in range(searches)]
            fitting = [[_figures(each) for each in run if _fits(each)] for run in found]
            yield Row(
                method,
                recipes,
                fits=float(np.mean([len(run) / recipes for run in fitting])),
                best=float(np.mean([best in run for run in fitting])),
                bytes=float(np.mean([min(run)[0] for run in fitting if run])),
                searches=searches,
            )


def outcome(point: Point) -> Tried:
    """What a recipe comes to in the made-up landscape."""
    bits, group = int(point["bits"]), int(point["group_size"])
    loss = {8: 0.0, 4: 0.10, 3: 0.45}[bits] * (1 + 0.25 * (math.log2(group) - 6))
    loss *= 1.6 if point["quantize"] == "rtn" else 1
    if "prune" in point:
        zeros = {0.1: 0.005, 0.2: 0.03, 0.3: 0.12}[float(point["sparsity"])]
        loss += zeros * (1.7 if point["prune"] == "wanda" else 1)
    return Tried(
        number=0, recipe=BASE, stages=(), outcome="measured",
        bytes_ratio=0.12 + 0.0198 * (bits + 16 / group), perplexity_ratio=math.exp(loss),
    )  # fmt: skip


def _figures(made: Tried) -> list[float]:
    """Bytes ratio and log perplexity ratio, as the optimiser is told them."""
    found = objectives(made, speed=False)
    assert found is not None
    return found


def _fits(made: Tried) -> bool:
    return not excess(made, BUDGETS)


def tried(method: str, seed: int, recipes: int) -> list[Tried]:
    """What one search has tried."""
    if method == "random":
        every = list(points(SPACE))
        return [outcome(every[place]) for place in np.random.default_rng(seed).permutation(len(every))[:recipes]]
    optimiser, found = Optimiser(SPACE, 2, seed), list[Tried]()
    while len(found) < recipes and (asked := optimiser.ask()) is not None:
        number, point = asked
        found.append(outcome(point))
        optimiser.tell(number, _figures(found[-1]), excess(found[-1], BUDGETS) if method == "ours" else 0.0)
    return found


if __name__ == "__main__":
    main()
