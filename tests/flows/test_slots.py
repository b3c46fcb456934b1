"""Releases of one endpoint exclude each other, and a run that died is not waited for."""

from __future__ import annotations

import subprocess
import sys
import time

from deployments.local.stack import ROOT
from tasks.slots import LEASE_SECONDS
from tests.flows.conftest import Line

HOLD = """
import sys, time
from prefect import flow
from tasks.slots import alone_on

@flow
def hold(seconds: float) -> None:
    with alone_on("contested"):
        print("HOLDS", time.time(), flush=True)
        time.sleep(seconds)
        print("GIVES", time.time(), flush=True)

hold(float(sys.argv[1]))
"""


def holder(line: Line, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(seconds)], env=line.stack.full_environment(), cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def test_two_runs_wait_for_each_other_and_not_for_a_dead_one(line: Line) -> None:
    dead = holder(line, 600)
    assert dead.stdout is not None
    assert next(text for text in dead.stdout if text.startswith("HOLDS"))
    dead.kill()
    dead.wait(timeout=30)
    killed = time.time()
    both = [holder(line, 2), holder(line, 2)]
    spans = []
    for each in both:
        text, _ = each.communicate(timeout=200)
        assert each.returncode == 0
        times = [float(words[1]) for row in text.splitlines() if (words := row.split())[0] in ("HOLDS", "GIVES")]
        spans.append((times[0], times[1]))
    first, second = sorted(spans)
    assert first[1] <= second[0], "the second waited"
    assert first[0] - killed < LEASE_SECONDS, "a dead run's lease was not waited for"
