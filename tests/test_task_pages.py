"""docs/tasks/: every task has its page, and the pages are of today's code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from tasks.errors import SlimlineError
from tasks.evaluation_recipes import EvaluationChoice
from tasks.plans import ReleasePlan
from tasks.recipes import Gate, Recipe
from tests.task_pages import PAGES, PARTS, Described, blocks, described, written

TASKS = described()
AGAIN = "run `python -m tests.task_pages`, then write what is missing"


def section(each: Described) -> str:
    """The part of its page that is about this task."""
    found = re.search(rf"^## {each.name}\n(.*?)(?=^## |\Z)", each.page.read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"{each.page.name} has no section {each.name}: {AGAIN}"
    return found[1]


def part(each: Described, name: str) -> str:
    found = re.search(rf"^- \*\*{name}\*\*: (.+)$", section(each), re.MULTILINE)
    assert found, f"{each.page.name}, {each.name}: nothing is said of {name}"
    return found[1]


def descendants(kind: type[SlimlineError]) -> set[str]:
    return {kind.__name__}.union(*(descendants(each) for each in kind.__subclasses__()))


def test_tasks_are_found() -> None:
    assert {"fetch", "prune", "quantize", "distill", "evaluate", "register", "shift", "watch"} <= {
        each.name for each in TASKS
    }


@pytest.mark.parametrize("each", TASKS, ids=lambda each: f"{each.module}.{each.name}")
def test_a_task_has_a_page_that_says_what_goes_in_and_out_and_what_it_costs(each: Described) -> None:
    assert each.page.exists(), f"no page for tasks/{each.module}.py: {AGAIN}"
    said = {name: part(each, name) for name in PARTS}
    assert all(f"`{name}`" in said["Inputs"] for name in each.parameters), "an input is left out"
    assert set(each.errors) <= set(re.findall(r"`(\w+)`", said["Refuses"])), "the docstring raises more"


@pytest.mark.parametrize("each", TASKS, ids=lambda each: f"{each.module}.{each.name}")
def test_inputs_and_their_fields_exist(each: Described) -> None:
    """The words in backticks before a colon are parameters, those behind it fields of the form's groups."""
    known = {group.__name__: group for group in each.groups}
    for clause in part(each, "Inputs").split(";"):
        named = re.match(r"\W*`(\w+)`", clause)
        if named and named[1] not in each.parameters and not any(named[1] in g.model_fields for g in known.values()):
            pytest.fail(f"{each.name} has no parameter {named[1]}")
        group = next((known[kind] for kind in re.findall(r"`(\w+)`", clause) if kind in known), None)
        for word in re.findall(r"`([a-z_]+)`", clause.partition("):")[2]) if group else []:
            assert word in group.model_fields or word in each.parameters, f"{group.__name__} has no field {word}"


@pytest.mark.parametrize("page", sorted(PAGES.glob("*.md")), ids=lambda page: page.stem)
def test_what_the_code_decides_is_todays(page: Path) -> None:
    known, text = blocks(), page.read_text()
    for name, block in written(text).items():
        assert name in known, f"{name} is a task or a group no more"
        assert block == known[name], f"{name} has changed: {AGAIN}"
    assert "@@" not in text and not re.search(r"^- \*\*\w+\*\*:\s*$", text, re.MULTILINE)


def test_every_block_stands_once_and_every_page_is_in_the_index() -> None:
    found = [name for page in PAGES.glob("*.md") for name in written(page.read_text())]
    assert sorted(found) == sorted(blocks()), AGAIN
    index = (PAGES / "README.md").read_text()
    assert set(re.findall(r"\[\w+\]\((\w+)\.md\)", index)) == {each.module for each in TASKS}


def test_errors_recipes_and_links_exist() -> None:
    roots: dict[str, type[BaseModel]] = {
        "recipe": Recipe, "plan": ReleasePlan, "gate": Gate, "evaluation": EvaluationChoice,
    }  # fmt: skip
    errors = descendants(SlimlineError)
    for page in PAGES.glob("*.md"):
        text = page.read_text()
        for link in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (page.parent / link).exists(), (page.name, link)
        for refuses in re.findall(r"^- \*\*Refuses\*\*: (.+)$", text, re.MULTILINE):
            assert set(re.findall(r"`([A-Z]\w+)`", refuses)) <= errors, (page.name, refuses)
        ours = re.sub(r"<!-- code: .*?<!-- /code -->", "", text, flags=re.DOTALL)
        for root, path in re.findall(r"`(recipe|plan|gate|evaluation)\.([a-z_.]+)`", ours):
            here: type[BaseModel] = roots[root]
            for name in path.split("."):
                assert name in here.model_fields, (page.name, f"{root}.{path}")
                here = here.model_fields[name].annotation or here
