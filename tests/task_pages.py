"""The parts of docs/tasks/ that the code decides: what a task does, its signature, its key, its tries, its fields.

They stand between comments in the pages, and a person writes the rest. ``python -m tests.task_pages`` writes them anew
after a change, and begins a page for a task that has none; ``test_task_pages`` fails until that is done.
"""

from __future__ import annotations

import importlib
import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from prefect import Task
from pydantic.fields import FieldInfo

from tasks.caching import StageKey
from tasks.recipes import Choice

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "tasks"
# What a person has to write of each task.
PARTS = ("Inputs", "Output", "Cost", "Refuses")
_BLOCK = re.compile(r"<!-- code: (\S+) -->\n(.*?)\n<!-- /code -->", re.DOTALL)


@dataclass(frozen=True)
class Described:
    """A task and the module that it stands in."""

    module: str
    task: Task[Any, Any]

    @property
    def name(self) -> str:
        return str(self.task.fn.__name__)

    @property
    def page(self) -> Path:
        return PAGES / f"{self.module}.md"

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        return dict(inspect.signature(self.task.fn).parameters)

    @property
    def groups(self) -> list[type[Choice]]:
        """The form's groups among its parameters."""
        hints = get_type_hints(self.task.fn)
        return [
            hint
            for name, hint in hints.items()
            if name != "return" and inspect.isclass(hint) and issubclass(hint, Choice)
        ]

    @property
    def errors(self) -> list[str]:
        """What its docstring says that it raises."""
        raises = (inspect.getdoc(self.task.fn) or "").partition("Raises:")[2]
        return re.findall(r"^ {4}(\w+): ", raises, re.MULTILINE)


def described() -> list[Described]:
    """Every task of ``tasks/``, by module and place in it."""
    found = []
    for path in sorted((ROOT / "tasks").glob("*.py")):
        if path.stem == "__init__" or not re.search(r"^@(network|compute)_task", path.read_text(), re.MULTILINE):
            continue
        module = importlib.import_module(f"tasks.{path.stem}")
        own = [
            each for each in vars(module).values() if isinstance(each, Task) and each.fn.__module__ == module.__name__
        ]
        found += [Described(path.stem, each) for each in own]
    return found


def task_block(each: Described) -> str:
    """What it does, and how Prefect runs it."""
    says = (inspect.getdoc(each.task.fn) or "").partition("Raises:")[0]
    does = "\n\n".join(" ".join(part.split()) for part in says.strip().split("\n\n")).replace("``", "`")
    delays = " and ".join(f"{seconds:g}" for seconds in each.task.retry_delay_seconds)  # type: ignore[union-attr]
    times = "once" if each.task.retries == 1 else f"{each.task.retries} times"
    rows = [
        f"| signature | `{_signature(each)}` |",
        f"| run name | `{each.task.task_run_name}` |",
        f"| cached by | {_key(each.task)} |",
        f"| tried again | {times} at most, after {delays} s, on transient errors only |",
    ]
    return "\n".join([*([does, ""] if does else []), "| | |", "|---|---|", *rows])


def _signature(each: Described) -> str:
    parameters = ", ".join(
        f"{name}: {_type(parameter.annotation)}" + ("" if parameter.default is parameter.empty else " = …")
        for name, parameter in each.parameters.items()
    )
    return f"{each.name}({parameters}) -> {_type(inspect.signature(each.task.fn).return_annotation)}".replace("|", "or")


def _type(annotation: Any) -> str:
    return str(annotation if isinstance(annotation, str) else getattr(annotation, "__name__", annotation))


def _key(task: Task[Any, Any]) -> str:
    policy = task.cache_policy
    if not isinstance(policy, StageKey):
        return "nothing: it runs every time"
    engine = ", and the engine's environment where another engine computes it" if type(policy) is not StageKey else ""
    modules = ", ".join(f"`{name}`" for name in policy.modules)
    return f"stage `{policy.stage}`: its inputs' identity, the code that {modules} reach, libraries, device{engine}"


def group_block(group: type[Choice]) -> str:
    """The fields of a group of the form, with default and bounds."""
    rows = [
        f"| `{name}` | {_default(field)} | {_bounds(field)} | {(field.description or '').replace('|', '/')} |"
        for name, field in group.model_fields.items()
    ]
    return "\n".join(
        [f"Fields of `{group.__name__}`:", "", "| field | default | allowed | |", "|---|---|---|---|", *rows]
    )


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    return (
        "its own fields"
        if isinstance(value, Choice)
        else "none"
        if value is None
        else f"`{value}`".replace("``", "empty")
    )


def _bounds(field: FieldInfo) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    said = [
        f"{sign} {getattr(each, name):g}"
        for each in field.metadata
        for name, sign in signs.items()
        if hasattr(each, name)
    ]
    if getattr(field.annotation, "__args__", None) and "Literal" in str(field.annotation):
        return ", ".join(f"`{value}`" for value in _choices(field.annotation))
    return ", ".join(said)


def _choices(annotation: Any) -> list[Any]:
    found: list[Any] = []
    for value in annotation.__args__:
        found += _choices(value) if hasattr(value, "__args__") else [value] if not isinstance(value, type) else []
    return found


def blocks() -> dict[str, str]:
    """Every block by its name: ``prune.prune``, ``PruneRecipe``."""
    tasks = described()
    groups = {group.__name__: group_block(group) for each in tasks for group in each.groups}
    return {f"{each.module}.{each.name}": task_block(each) for each in tasks} | groups


def written(page: str) -> dict[str, str]:
    """The blocks that stand in a page."""
    return dict(_BLOCK.findall(page))


def _fresh(page: str, known: dict[str, str]) -> str:
    def block(match: re.Match[str]) -> str:
        name = match[1]
        return f"<!-- code: {name} -->\n{known.get(name, match[2])}\n<!-- /code -->"

    return _BLOCK.sub(block, page)


def main() -> None:
    known, owned = blocks(), set[str]()
    for page in PAGES.glob("*.md"):
        owned |= written(page.read_text()).keys()
    for each in described():
        text = each.page.read_text() if each.page.exists() else f"# {each.module}\n"
        if f"{each.module}.{each.name}" not in owned:
            text += f"\n## {each.name}\n\n<!-- code: {each.module}.{each.name} -->\n\n<!-- /code -->\n\n"
            text += "".join(f"- **{part}**:\n" for part in PARTS)
        for group in each.groups:
            if group.__name__ not in owned:
                text += f"\n<!-- code: {group.__name__} -->\n\n<!-- /code -->\n"
                owned.add(group.__name__)
        each.page.parent.mkdir(exist_ok=True)
        each.page.write_text(text)
    for page in PAGES.glob("*.md"):
        page.write_text(_fresh(page.read_text(), known))


if __name__ == "__main__":
    main()
