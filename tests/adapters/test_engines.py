"""Environments of real interpreters and scripts, with no packages: what is built, kept, run and refused."""

from __future__ import annotations

import ast
import dataclasses
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tasks.adapters.children import run_child
from tasks.adapters.engine_kinds import (
    ENGINES,
    Engine,
    Grid,
    check_engine_model,
    check_engine_place,
    check_engine_recipe,
    progress_in,
)
from tasks.adapters.engine_runs import run_engine
from tasks.adapters.engines import (
    MARKER,
    build_environment,
    environment_key,
    find_environment,
    read_constraints,
)
from tasks.errors import EngineNotBuilt, EngineUnreachable, RefusedModel, RefusedRecipe, SlimlineError
from tests.compression.small import write_llama

GPTQ = {"method": "gptq", "bits": 4, "group_size": 32, "damping": 0.01}
TOKENS = np.random.default_rng(0).integers(3, 97, (3, 40))

# What an engine does, without one: it doubles nothing and forgets nothing, it only copies the weights.
COPIES = """
import json, shutil, sys, os
from pathlib import Path
job = json.loads(Path(sys.argv[1]).read_text())
assert "tasks" not in sys.modules and not any(Path(entry, "tasks").exists() for entry in sys.path if entry)
raw = Path(job["destination"])
raw.mkdir()
shutil.copy(Path(job["source"], "model.safetensors"), raw)
config = json.loads(Path(job["source"], "config.json").read_text())
{more}
(raw / "config.json").write_text(json.dumps(config))
(raw / "notes.txt").write_text("left behind")
said = dict(job["recipe"], marked=os.environ["MARKED"])
Path(job["report"]).write_text(json.dumps({{"work_wall_s": 1.0, "work_cpu_s": 0.5, "versions": said}}))
"""


def engine(folder: Path, more: str = "", pins: str = "", check: str = "import json") -> Engine:
    folder.mkdir(exist_ok=True)
    (folder / "pins.txt").write_text(pins)
    (folder / "script.py").write_text(COPIES.format(more=more))
    return Engine(
        name="copier", packages=(), constraints=folder / "pins.txt", script=folder / "script.py", check=check,
        prunes=("wanda",), quantizes={"gptq": Grid((4,), (32,))}, variables={"MARKED": "{folder}"},
    )  # fmt: skip


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_has_pins_for_what_it_asks_for_and_nothing_but_pins(name: str) -> None:
    chosen = ENGINES[name]
    pins = read_constraints(chosen.constraints)
    assert set(chosen.packages) <= set(pins)
    assert all(re.fullmatch(r"[0-9][A-Za-z0-9.]*", version) for version in pins.values())
    assert chosen.script.is_file()


@pytest.mark.parametrize("line", ["-r other.txt", "torch>=2", "torch", "torch==2.13.0\nTorch==2.12.0"])
def test_a_line_that_is_no_pin_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "pins.txt").write_text(f"a-b==1.0\n{line}\n")
    with pytest.raises(SlimlineError, match=r"line [23] of pins.txt is not a pin"):
        read_constraints(tmp_path / "pins.txt")


def test_the_key_follows_versions_and_not_the_spelling(tmp_path: Path) -> None:
    first = environment_key(engine(tmp_path, pins="a_b==1.0\nc==2\n"))
    assert environment_key(engine(tmp_path, pins="a-b==1.0\nc==2\n")) == first
    assert environment_key(engine(tmp_path, pins="a-b==1.1\nc==2\n")) != first


def test_an_environment_is_built_once_and_a_half_built_one_again(tmp_path: Path) -> None:
    copier, home = engine(tmp_path / "engine"), tmp_path / "home"
    assert find_environment(copier, home) is None
    built = build_environment(copier, home)
    (built.folder / "kept").touch()
    assert build_environment(copier, home) == built == find_environment(copier, home)
    assert (built.folder / "kept").exists()
    (built.folder / MARKER).unlink()  # what a killed build looks like
    assert find_environment(copier, home) is None
    build_environment(copier, home)
    assert not (built.folder / "kept").exists()
    assert find_environment(copier, home) == built


def test_an_environment_that_does_not_run_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(SlimlineError, match=r"(?s)first run of copier failed.*No module named 'absent_module'"):
        build_environment(engine(tmp_path / "engine", check="import absent_module"), tmp_path / "home")
    assert [path.name for path in (tmp_path / "home").iterdir() if path.is_dir()] == []


def _build(folder: Path, home: Path) -> float:
    return (build_environment(engine(folder), home).folder / MARKER).stat().st_mtime_ns


def test_two_processes_build_one_environment(tmp_path: Path) -> None:
    (tmp_path / "engine").mkdir()
    with multiprocessing.get_context("fork").Pool(2) as pool:
        job = (tmp_path / "engine", tmp_path / "home")
        assert len(set(pool.starmap(_build, [job, job]))) == 1


def run(tmp_path: Path, more: str = "", recipe: Mapping[str, Any] | None = None) -> Any:
    source = tmp_path / "source"
    if not source.exists():
        write_llama(source)
    environment = build_environment(engine(tmp_path / "engine", more), tmp_path / "home")
    return run_engine(environment, source, tmp_path / "made", TOKENS, **(recipe or {"quantize": GPTQ}))


def test_an_engine_gets_the_recipe_and_its_folder_is_put_together_anew(tmp_path: Path) -> None:
    config = {"quant_method": "gptq", "bits": 4, "dataset": ["private"], "tokenizer": "private"}
    did = run(tmp_path, f"config['quantization_config'] = {config}; config['secret'] = 'private'")
    assert did.versions["quantize"] == GPTQ
    assert did.versions["marked"].startswith(str(tmp_path / "home"))
    assert did.ran.peak_bytes > 1e6 and did.ran.wall_s > 0
    made = tmp_path / "made"
    assert not list(tmp_path.glob(".engine-*"))
    assert "private" not in "".join(path.read_text() for path in made.glob("*.json"))
    written = json.loads((made / "config.json").read_text())
    assert written["quantization_config"] == {"quant_method": "gptq", "bits": 4}
    for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        assert (made / name).read_bytes() == (tmp_path / "source" / name).read_bytes()


@pytest.mark.parametrize(
    "where",
    [
        "config['quantization_config'] = {'quant_method': 'gptq', 'bits': 4, 'meta': {'seen': text}}",
        "config['quantization_config'] = {'quant_method': 'gptq', 'bits': 4, 'meta': {'ids': ids}}",
        "from safetensors.numpy import load_file, save_file; save_file(load_file(raw / 'model.safetensors'), "
        "raw / 'model.safetensors', metadata={'format': 'pt', 'note': text})",
    ],
    ids=["text", "ids", "safetensors"],
)
def test_a_folder_with_calibration_text_is_refused_and_not_left(tmp_path: Path, where: str) -> None:
    text = " ".join(f"w{token}" for token in TOKENS[1])  # how small.py's tokenizer decodes
    site = Path(np.__file__).parents[1]
    more = f"text, ids = {text!r}, {TOKENS[1].tolist()}; sys.path.append({str(site)!r}); {where}"
    with pytest.raises(SlimlineError, match="holds calibration text") as caught:
        run(tmp_path, more)
    assert text not in str(caught.value)
    assert not (tmp_path / "made").exists() and not list(tmp_path.glob(".engine-*"))


def test_an_engine_that_fails_is_quoted_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    with pytest.raises(SlimlineError, match=r"(?s)engine copier failed.*exit status 1.*ValueError: out of luck"):
        run(tmp_path, "raise ValueError('out of luck')")
    assert list((tmp_path / "made").iterdir()) == [] and not list(tmp_path.glob(".engine-*"))


def test_an_engine_that_is_killed_or_says_nothing_is_named(tmp_path: Path) -> None:
    with pytest.raises(SlimlineError, match="SIGKILL"):
        run(tmp_path, "os.kill(os.getpid(), 9)")
    with pytest.raises(SlimlineError, match="without its report"):
        run(tmp_path, "sys.exit()")


def test_a_child_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    with pytest.raises(SlimlineError, match=r"(?s)sleeper did not finish.*awake"):
        script = "import sys, time; print('awake', file=sys.stderr, flush=True); time.sleep(60)"
        run_child(["python3", "-c", script], what="the sleeper", log=tmp_path / "log", limit_s=3)


@pytest.mark.skipif(not shutil.which("setpriv"), reason="needs setpriv of util-linux")
def test_a_child_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from tasks.adapters.children import run_child\n"
        "child = 'import os, pathlib, time; pathlib.Path(\"pid\").write_text(str(os.getpid())); time.sleep(60)'\n"
        "run_child([sys.executable, '-c', child], what='the child', log=Path('log'), variables={'A': 'b'})"
    )
    root = {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, env=os.environ | root) as parent:
        pid = wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
        parent.kill()
    wait_for(lambda: not psutil.pid_exists(int(pid)) or psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE)


def wait_for(what: Callable[[], Any]) -> Any:
    for _ in range(600):
        if found := what():
            return found
        time.sleep(0.05)
    pytest.fail("30 s passed")


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        {"prune": {"method": "magnitude"}},
        {"quantize": GPTQ | {"bits": 3}},
        {"quantize": GPTQ | {"method": "rtn"}},
        {"quantize": GPTQ | {"group_size": 0}},
        {"quantize": GPTQ | {"symmetric": False}},
    ],
)
def test_what_an_engine_does_not_have_is_refused(tmp_path: Path, recipe: dict[str, Any]) -> None:
    check_engine_recipe(engine(tmp_path), prune={"method": "wanda"}, quantize=GPTQ)
    with pytest.raises(RefusedRecipe, match="cannot do this"):
        check_engine_recipe(engine(tmp_path), **recipe)


def test_an_engine_that_cannot_be_built_or_used_here_is_refused(tmp_path: Path) -> None:
    copier = engine(tmp_path)
    check_engine_place(copier)
    with pytest.raises(RefusedRecipe, match=r"version of Python"):
        check_engine_place(dataclasses.replace(copier, pythons=("2.7",)))
    with pytest.raises(RefusedRecipe, match="no absent-compiler"):
        check_engine_place(dataclasses.replace(copier, tools=("absent-compiler",)))
    check_engine_model(copier, "LlamaForCausalLM")
    with pytest.raises(RefusedModel, match="GPT2LMHeadModel"):
        check_engine_model(copier, "GPT2LMHeadModel")


def test_a_package_that_is_not_to_be_had_is_said_and_no_trace_stays(tmp_path: Path) -> None:
    nothing = dataclasses.replace(engine(tmp_path / "engine", pins="absent==1\n"), packages=("./absent-folder",))
    with pytest.raises(EngineNotBuilt, match="the environment of copier could not be built") as caught:
        build_environment(nothing, tmp_path / "home")
    assert not isinstance(caught.value, EngineUnreachable), "a package that does not exist is not tried again"
    assert [path.name for path in (tmp_path / "home").iterdir() if path.is_dir()] == []


@pytest.mark.parametrize(
    ("name", "log"),
    [
        ("llm-compressor", "(3/31): Calibrating:  40%|####      |\r(4/31): Calibrating:   0%|          |"),
        ("optimum", "Quantizing model.layers blocks :   0%|  | 0/30\rQuantizing model.layers blocks :  13%|# | 4/31 "),
        ("auto-gptq", "INFO - Start quantizing layer 4/31\nINFO - Quantizing mlp.up_proj in layer 4/31..."),
    ],
)  # fmt: skip
def test_progress_is_read_from_the_engines_log(name: str, log: str) -> None:
    assert progress_in(ENGINES[name], log) == (4, 31)
    assert progress_in(ENGINES[name], "Loading weights:  10%|# | 3/30") is None


@pytest.mark.parametrize("name", ENGINES)
def test_an_engines_script_imports_nothing_of_ours(name: str) -> None:
    nodes = list(ast.walk(ast.parse(ENGINES[name].script.read_text())))
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {package.split(".")[0] for package in imported}.isdisjoint({"tasks", "flows", "deployments", "benchmarks"})
