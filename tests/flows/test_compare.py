"""A search over recipes from the command line: tried, drawn, chosen and registered."""

from __future__ import annotations

from tests.flows.conftest import Line, values

FEW = ("compare", "compare-tiny", "--recipes", "2", "-p", "space.bits=[8, 4]", "-p", "registered_name=searched")
# Blocks of its own: the tests of the line beside this one look at a first run, which finds nothing made before.
OWN = ("-p", "data.calibration_blocks=12")


def test_recipes_are_tried_and_one_is_chosen_and_registered(line: Line) -> None:
    done = line.slimline(*FEW, *OWN)
    assert done.code == 0, done.text
    assert "Search      2 recipes: 2 measured, 0 stopped half way, 0 failed" in done.text, done.text
    artifacts = line.artifacts(done.flow_run_id)
    rows = values(artifacts["recipes"])
    assert len(rows) == 2
    (chosen,) = (row for row in rows if row["outcome"] == "chosen")
    assert chosen["bytes ratio"] == min(row["bytes ratio"] for row in rows if row["outcome"] in ("chosen", "fits"))
    assert artifacts["choice"]["data"].startswith(f"# {chosen['recipe']}\n")
    assert "data:image/svg+xml;base64," in artifacts["pareto-front"]["data"]
    run_id = line.mlflow_version("searched", line.alias("searched", "challenger") or "")["run_id"]
    assert line.mlflow_run(run_id)["info"]["run_name"].endswith(str(chosen["recipe"])), "the chosen one is registered"


def test_a_recipe_that_cannot_be_fails_alone(line: Line) -> None:
    space = ('space.orders=["quantize", "quantize + distill"]', "space.bits=[8]", "space.group_sizes=[64]")
    base = ("base.distill.hidden_weight=1", "base.distill.cached_top_k=8", "register_chosen=false")
    done = line.slimline("compare", "compare-tiny", *(each for value in space + base for each in ("-p", value)), *OWN)
    assert done.code == 0, done.text
    assert "Search      2 recipes: 1 measured, 0 stopped half way, 1 failed" in done.text, done.text
    assert "Failed      gptq8-g64-distil: a teacher's answers that are kept on disk hold no hidden states" in done.text
