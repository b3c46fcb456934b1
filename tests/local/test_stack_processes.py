"""What the embedded stack believes of the processes that it has started."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from deployments.local.processes import Processes, wait_until
from tests.local.stack import Service


def test_another_program_on_its_port_does_not_answer_for_a_process_that_died(service: Service, tmp_path: Path) -> None:
    started = Processes(tmp_path).start("gone", [sys.executable, "-c", "raise SystemExit(1)"], os.environ, tmp_path)
    while started.process():
        pass
    assert not wait_until(f"{service.url}/_slimline/health", started, timeout=5)
