"""``slimline`` as people, scripts and shells meet it: help, examples, exit codes, JSON. No servers."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import typer
from prefect.client.schemas.objects import FlowRun, State, StateType
from rich.console import Console
from typer.main import get_command
from typer.testing import CliRunner

from deployments.cli import app
from deployments.commands.terminal import _CODES, MEANING, Code, guarded, parameters
from deployments.follow import _failure, _merged
from deployments.progress import Ticker
from tasks import errors
from tests.test_forms import DEPLOYMENTS, flow_of

ROOT = Path(__file__).resolve().parents[1]
GROUP: Any = get_command(app)
COMMANDS: dict[str, Any] = {
    **{name: command for name, command in GROUP.commands.items() if name != "fault"},
    **{f"fault {name}": command for name, command in GROUP.commands["fault"].commands.items()},
}


def examples(command: Any) -> list[str]:
    head, _, lines = (command.epilog or "").partition("\n")
    assert head == "Examples:"
    return [line.strip() for line in lines.splitlines()]


EXAMPLES = [(name, line) for name, command in COMMANDS.items() for line in examples(command)]


@pytest.fixture
def nothing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A home without a stack, on ports where nothing listens; what a command sets in the environment is undone."""
    monkeypatch.setenv("SLIMLINE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SLIMLINE_BASE_PORT", "1024")
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_what_it_does_and_speaks_json(name: str) -> None:
    command = COMMANDS[name]
    summary = (command.help or "").partition("\n")[0]
    assert summary.endswith((".", "them.")) and len(summary) < 120, summary
    assert name == "completion" or "--json" in {each for param in command.params for each in param.opts}
    shown = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0 and all(line in shown.stdout for line in examples(command)), shown.output
    assert all(getattr(param, "help", "x") for param in command.params), "every option explains itself"


@pytest.mark.parametrize(("name", "line"), EXAMPLES, ids=[line for _, line in EXAMPLES])
def test_an_example_can_be_typed(name: str, line: str) -> None:
    typed = re.fullmatch(r"(?:source <\()?(slimline [^>)]*?)(?:\)| > \S+)?", line)
    assert typed, line
    words = shlex.split(typed[1])
    assert words[1 : 1 + len(name.split())] == name.split(), "an example of another command"
    context = COMMANDS[name].make_context(name, words[1 + len(name.split()) :])
    if name in ("run", "compare", "release"):
        deployment = context.params.get("deployment") or f"release-{context.params['mode']}"
        entry = next(each for each in DEPLOYMENTS if each["name"] == deployment)
        given = _merged(entry.get("parameters", {}), parameters(context.params["param"]))
        flow_of(entry).validate_parameters(given)


def test_exit_codes_are_told_once_and_the_same() -> None:
    table = re.findall(r"^\| (\d+) \| (.+?) \|", (ROOT / "docs" / "cli.md").read_text(), re.MULTILINE)
    assert table == [(str(int(code)), text) for code, text in MEANING.items()]
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "120"}).stdout
    assert all(re.search(rf"^ *{int(code)} +{re.escape(text)}", shown, re.MULTILINE) for code, text in MEANING.items())
    for name in _CODES:
        assert issubclass(getattr(errors, name), errors.SlimlineError)


def ended(message: str) -> FlowRun:
    return FlowRun(id=uuid4(), flow_id=uuid4(), name="a-run", state=State(type=StateType.FAILED, message=message))


@pytest.mark.parametrize(
    ("kind", "code"),
    [("GateFailed", 3), ("ReleaseRestored", 3), ("NotReproduced", 3), ("ReleaseStuck", 4), ("RefusedData", 1)],
)
def test_how_a_run_ended_is_how_the_command_ends(kind: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    error = getattr(errors, kind)("too bad", observed=1, limit=2, remedy="try again")
    run = ended(f"Flow run encountered an exception: {kind}: {error}")
    with pytest.raises(typer.Exit) as done, guarded(as_json=True, deployment="tiny"):
        raise _failure(run, "http://page", {"id": str(run.id)})
    told = json.loads(capsys.readouterr().out)
    assert (done.value.exit_code, told["exit_code"]) == (code, code)
    assert told["error"] == {"kind": kind, "cause": "too bad", "observed": "1", "limit": "2", "remedy": "try again"}
    assert (told["deployment"], told["run"]) == ("tiny", {"id": str(run.id)})


def test_a_fault_of_our_own_is_not_dressed_up() -> None:
    with pytest.raises(ZeroDivisionError), guarded():
        raise ZeroDivisionError
    assert _failure(ended("KeyError: 'x'"), "http://page", {}).kind == ""


@pytest.mark.parametrize(
    "words",
    [
        "status nowhere", "run tiny", "compare", "release slimline", "reproduce slimline", "lineage slimline-tiny",
        "cost", "observe slimline-tiny", "check --model slimline", "fault list",
    ],
)  # fmt: skip
def test_without_servers_a_command_says_so_and_what_to_do(words: str, nothing_up: None) -> None:
    done = CliRunner().invoke(app, [*words.split(), "--json"])
    assert done.exit_code == Code.FAILED and isinstance(done.exception, SystemExit), done.output
    told = json.loads(done.stdout)
    assert told["error"]["remedy"] == "slimline up" and told["exit_code"] == 1
    for part in ("observed: ", "limit:    ", "remedy:   slimline up"):
        assert part in done.stderr
    alone = CliRunner().invoke(app, words.split())
    assert (alone.exit_code, alone.stdout) == (1, ""), "an error is no result"


def test_status_shows_what_is_down(nothing_up: None) -> None:
    done = CliRunner().invoke(app, ["status", "--json"])
    assert done.exit_code == Code.NO, "an answer, and no failure"
    assert {(name, state) for name, state, _ in json.loads(done.stdout)["parts"]} == {
        (name, "down") for name in ("prefect", "mlflow", "endpoints", "worker")
    }


@pytest.mark.parametrize(
    "words", ["run", "release x --mode fast", "run tiny -p bits", "why", "nothing", "cost --load no"]
)
def test_a_wrong_command_line_ends_with_2_and_starts_nothing(words: str, nothing_up: None) -> None:
    done = CliRunner().invoke(app, words.split())
    assert (done.exit_code, done.stdout) == (2, ""), done.output


def test_why_names_the_stages_that_have_run(tmp_path: Path, nothing_up: None) -> None:
    keys = tmp_path / "home" / "keys"
    keys.mkdir(parents=True)
    runs = [{"key": key, "parts": {"inputs": {"bits": bits}}, "run": key} for key, bits in (("a", 4), ("b", 8))]
    (keys / "quantize.jsonl").write_text("".join(json.dumps(each) + "\n" for each in runs))
    refused = CliRunner().invoke(app, ["why", "quantise"])
    assert refused.exit_code == 1 and "limit:    quantize" in refused.stderr
    told = json.loads(CliRunner().invoke(app, ["why", "quantize", "--json"]).stdout)
    assert told == {"stage": "quantize", "runs": 2, "changed": ["inputs.bits: 4 → 8"]}


def shown(ticker: Ticker, file: io.StringIO) -> str:
    with ticker:
        ticker.line("Run of tiny")
        ticker.at_work("prune-sparsegpt")
        for share in (10.0, 30.0, 40.0, 100.0):
            ticker.progress("prune-progress", share, f"prune: {share:.0f} of 100 blocks")
        ticker.must_know("waits for a person")
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue())


def test_bars_on_a_terminal_lines_elsewhere_and_nothing_for_programs() -> None:
    file = io.StringIO()
    terminal = shown(Ticker(Console(file=file, force_terminal=True, width=100)), file)
    assert "━" in terminal and "waits for a person" in terminal
    file = io.StringIO()
    plain = shown(Ticker(Console(file=file)), file).splitlines()
    assert plain == ["Run of tiny", "    prune: 30 of 100 blocks", "    prune: 100 of 100 blocks", "waits for a person"]
    file = io.StringIO()
    assert shown(Ticker(Console(file=file, force_terminal=True), quiet=True), file) == "waits for a person\n"


def test_the_pages_tell_to_type_what_exists() -> None:
    for page in ("docs/quick-start.md", "docs/cli.md"):
        text = (ROOT / page).read_text()
        typed = re.findall(r"^(?:\$ )?(slimline [a-z].*?)(?: +#.*| > .*)?$", text, re.MULTILINE)
        assert page == "docs/cli.md" or len(typed) > 10
        for line in [*typed, *re.findall(r"`(slimline [a-z][^`…]*)`", text)]:
            words = shlex.split(line.partition(" > ")[0])[1:]
            if "COMMAND" in words or words[-1].isupper():
                continue
            with contextlib.suppress(typer.Exit):  # --help
                GROUP.commands[words[0]].make_context(words[0], words[1:])
        for link in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (ROOT / "docs" / link).exists(), (page, link)
    offered = {name for name in GROUP.commands if name != "help"}
    assert offered <= set(re.findall(r"`([a-z]+)", (ROOT / "docs" / "cli.md").read_text()))
