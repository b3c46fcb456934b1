"""Releases of one endpoint exclude each other, and a run that died is not waited for."""

from __future__ import annotations

import subprocess
import sys
import time

import httpx

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
# Prefect renews a lease at three quarters of its minute: too long for a test.
RENEW_OFTEN = "import prefect.concurrency._leases as leases; leases._RENEWAL_FRACTION = 0.02\n"


def holder(line: Line, seconds: float, code: str = HOLD) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, str(seconds)], env=line.stack.full_environment(), cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def span(process: subprocess.Popen[str]) -> tuple[float, float]:
    """When the run held the slot, from and to."""
    text, _ = process.communicate(timeout=200)
    assert process.returncode == 0, text
    held, gave = [float(words[1]) for row in text.splitlines() if (words := row.split())[0] in ("HOLDS", "GIVES")]
    return held, gave


def test_two_runs_wait_for_each_other_and_not_for_a_dead_one(line: Line) -> None:
    dead = holder(line, 600)
    assert dead.stdout is not None
    assert next(text for text in dead.stdout if text.startswith("HOLDS"))
    dead.kill()
    dead.wait(timeout=30)
    killed = time.time()
    both = [holder(line, 2), holder(line, 2)]
    first, second = sorted(span(each) for each in both)
    assert first[1] <= second[0], "the second waited"
    assert first[0] - killed < LEASE_SECONDS, "a dead run's lease was not waited for"


def test_a_live_run_whose_lease_was_lost_goes_on_and_keeps_the_next_one_out(line: Line) -> None:
    """As after an outage of Prefect's server: three renewals fail, and the lease has ended."""
    live = holder(line, 20, RENEW_OFTEN + HOLD)
    note = "variables/name/slimline_slot_contested"
    deadline = time.monotonic() + 120
    while not (lease := known(line, note)):
        assert time.monotonic() < deadline and live.poll() is None
        time.sleep(0.2)
    line.prefect("v2/concurrency_limits/decrement-with-lease", lease_id=lease)
    second = holder(line, 0)
    first = span(live)
    assert first[1] <= span(second)[0], "the second waited, though the slot was free"
    assert not known(line, note), "the last one has taken its note away"


def known(line: Line, note: str) -> str:
    """The lease that is written beside the slot; empty where none is."""
    reply = httpx.get(f"{line.stack.prefect_url}/api/{note}", timeout=30)
    return str(reply.json()["value"]["lease"]) if reply.status_code == httpx.codes.OK else ""
