"""``slimline doctor``: whether everything that a release needs is there, and for each thing that is not, what to do.

Looks only; changes nothing.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from tasks.adapters import aws_account, aws_resources
from tasks.adapters.aws_connection import Connection
from tasks.adapters.findings import Finding, State, look
from tasks.plans import ReleasePlan
from tasks.settings import Settings

POLICIES = Path(__file__).resolve().parent / "aws"
_MARKS: dict[State, tuple[str, str]] = {
    "ok": ("✓", "green"),
    "failed": ("✗", "red"),
    "unknown": ("?", "yellow"),
    "skipped": ("–", "dim"),
}


def examine(now: Settings, plan: ReleasePlan, prefect_url: str) -> Iterator[Finding]:
    """Every check, in the order in which a person would mend them."""
    yield from machine(now)
    start = "slimline up" if now.aws_endpoint_url else "start it"  # on AWS they are a person's own
    yield server("prefect", f"{prefect_url.rstrip('/')}/health", f"{start}, or set PREFECT_API_URL")
    yield server("mlflow", f"{now.mlflow_url.rstrip('/')}/health", f"{start}, or set SLIMLINE_MLFLOW_URL")
    yield from aws(now, plan)


def machine(now: Settings) -> Iterator[Finding]:
    """This machine: Python, the packages that pyproject.toml names, room on the disk."""
    yield Finding("python", "ok", platform.python_version())
    bad = list(_unfit(requires("slimline") or []))
    if bad:
        remedy = "python -m pip install --constraint constraints.txt --editable ."
        yield Finding("packages", "failed", "; ".join(bad), remedy)
    else:
        yield Finding("packages", "ok", ", ".join(f"{name} {version(name)}" for name in ("torch", "prefect", "boto3")))
    here = now.root
    while not here.exists():
        here = here.parent
    free = shutil.disk_usage(here).free
    seen = f"{free / 1e9:.0f} GB free for {now.root}"
    if free < now.min_free_gb * 1e9:
        remedy = (
            f"free some, set SLIMLINE_HOME to a disk with {now.min_free_gb:g} GB, or SLIMLINE_MIN_FREE_GB to what your "
            "models take"
        )
        yield Finding("disk", "failed", seen, remedy)
    else:
        yield Finding("disk", "ok", seen)


def _unfit(requirements: list[str]) -> Iterator[str]:
    for text in requirements:
        wanted = Requirement(text)
        if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(wanted.name)
        except PackageNotFoundError:
            yield f"{wanted.name} is missing"
            continue
        if not wanted.specifier.contains(found, prereleases=True):
            yield f"{wanted.name} {found}, wanted {wanted.specifier}"


def server(name: str, url: str, remedy: str) -> Finding:
    """Whether it answers its health check."""
    try:
        with urllib.request.urlopen(url, timeout=5):
            return Finding(name, "ok", url)
    except (urllib.error.URLError, OSError, ValueError) as error:
        return Finding(name, "failed", f"{url}: {error}", remedy)


def aws(now: Settings, plan: ReleasePlan) -> Iterator[Finding]:
    """The account, or the embedded stack in its place."""
    reached: list[tuple[Connection, float | None]] = []

    def reach() -> Finding:
        connection = Connection(now.region, now.aws_endpoint_url)
        reached.append((connection, connection.rehearsal_speed))
        return aws_account.region(connection)

    yield look("region", reach)
    if not reached:
        return
    connection, speed = reached[0]
    if speed is None or speed == 1:
        yield aws_account.clock(connection)
    else:
        yield Finding("clock", "skipped", f"the embedded stack's clock runs {speed:g} times as fast")
    credentials, caller = aws_account.identity(connection)
    yield credentials
    for check, see in _looks(connection, now, plan, caller):
        if speed is not None:
            yield Finding(check, "skipped", "on AWS only: slimline doctor --aws")
        elif not caller:
            yield Finding(check, "skipped", "needs credentials")
        else:
            yield from see()


def _looks(
    connection: Connection, now: Settings, plan: ReleasePlan, caller: str
) -> Iterator[tuple[str, Callable[[], list[Finding]]]]:
    """(check, how) of what needs credentials."""
    yield "bucket", lambda: aws_resources.bucket(connection, now.bucket)
    yield "execution role", lambda: [aws_resources.role(connection, now.role_arn)]
    names = {"ACCOUNT": "".join(caller.split(":")[4:5]), "REGION": connection.region, "BUCKET": now.bucket}
    release = ["release-role-policy.json", "operations-policy.json"]
    for check, role, files in (
        ("release rights", caller, [file for file in release if (POLICIES / file).exists()]),
        ("endpoint rights", now.role_arn, ["execution-role-policy.json"]),
    ):
        yield check, _rights(connection, check, role, files, names)
    yield "image", lambda: [aws_resources.image(connection, now.image)]
    # The new fleet stands beside the old one until the release has ended.
    yield "quota", lambda: [aws_account.quota(connection, plan.instance_type, 2 * plan.instances)]


def _rights(
    connection: Connection, check: str, role: str, files: list[str], names: dict[str, str]
) -> Callable[[], list[Finding]]:
    statements: list[dict[str, Any]] = []
    for file in files:
        text = (POLICIES / file).read_text()
        for placeholder, value in names.items():
            text = text.replace(placeholder, value)
        statements += json.loads(text)["Statement"]
    remedy = f"attach deployments/aws/{' and '.join(files)}, filled in, to {role}"
    return lambda: [aws_account.rights(connection, check, role, statements, remedy)]


def draw(findings: list[Finding]) -> Group:
    """A table, and below it what to do."""
    table = Table("", "check", "seen")
    table.columns[1].no_wrap = True
    for each in findings:
        mark, style = _MARKS[each.state]
        table.add_row(Text(mark, style), each.check, each.observed)
    todo = [Text.assemble((f"{each.check}: ", _MARKS[each.state][1]), each.remedy) for each in findings if each.remedy]
    counts = {state: sum(each.state == state for each in findings) for state in _MARKS}
    said = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    return Group(table, *todo, said)


def report(console: Console, findings: list[Finding], as_json: bool) -> bool:
    """Print; whether no check failed."""
    if as_json:
        rows: list[dict[str, Any]] = [dataclasses.asdict(each) for each in findings]
        console.print_json(json.dumps({"checks": rows}))
    else:
        console.print(draw(findings))
    return not any(each.state == "failed" for each in findings)
