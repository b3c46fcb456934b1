"""What a shell can complete: names from prefect.yaml, and from the servers where they answer at once.

Called at every press of Tab: nothing here loads Prefect, MLflow or boto3, and a server that is down completes nothing.
"""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import typer
import yaml

from deployments.local.stack import ROOT, stack_here
from tasks.settings import settings

Names: TypeAlias = list[tuple[str, str]]  # (what is completed, its help)
SECONDS = 0.5
ALIASES = ("champion", "challenger", "previous")


def deployment_names(incomplete: str) -> Names:
    """Every deployment, with the bold first words of its description."""
    entries = yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text())["deployments"]
    told = {entry["name"]: re.search(r"\*\*(.+?)\*\*", entry.get("description", "")) for entry in entries}
    return [(name, said[1] if said else "") for name, said in told.items() if name.startswith(incomplete)]


def search_names(incomplete: str) -> Names:
    return [each for each in deployment_names(incomplete) if each[0].startswith("compare")]


def stage_names(incomplete: str) -> Names:
    """Stages that have run here."""
    return [(name, "") for name in stages_run() if name.startswith(incomplete)]


def stages_run() -> list[str]:
    return sorted(path.stem for path in settings().keys.glob("*.jsonl"))


def runs_of(stage: str) -> int:
    """How often the stage has run here."""
    return len((settings().keys / f"{stage}.jsonl").read_text().splitlines())


def endpoint_names(incomplete: str) -> Names:
    """Endpoints of the embedded stack."""
    target = {"X-Amz-Target": "SageMaker.ListEndpoints", "Content-Type": "application/x-amz-json-1.1"}
    found = _ask(f"{stack_here().endpoint_url}/", target, b"{}").get("Endpoints", [])
    names = {each["EndpointName"]: each["EndpointStatus"] for each in found}
    return [(name, status) for name, status in sorted(names.items()) if name.startswith(incomplete)]


def model_names(incomplete: str) -> Names:
    """Registered models in the embedded stack's MLflow."""
    found = _mlflow("registered-models/search", "max_results=200").get("registered_models", [])
    return [(name, "") for name in sorted(each["name"] for each in found) if name.startswith(incomplete)]


def version_names(context: typer.Context, incomplete: str) -> Names:
    """Numbers of the model that the line names already, and the aliases."""
    # Behind an option that lacks its value, the words before it are not parsed.
    model = context.params.get("model") or next((word for word in context.args if not word.startswith("-")), None)
    aliases: Names = [(alias, "alias") for alias in ALIASES]
    found = _mlflow("model-versions/search", f"filter=name%3D%27{model}%27").get("model_versions", []) if model else []
    numbers: Names = [(str(each["version"]), "version") for each in found]
    return [each for each in (*aliases, *numbers) if each[0].startswith(incomplete)]


def lineage_names(incomplete: str) -> Names:
    """Endpoints, and model/alias once there is a slash."""
    model, slash, version = incomplete.partition("/")
    if slash:
        return [(f"{model}/{alias}", "alias") for alias in ALIASES if alias.startswith(version)]
    return [*endpoint_names(incomplete), *((f"{name}/champion", "model") for name, _ in model_names(incomplete))]


def folders(incomplete: str) -> list[str]:
    """Folders below what is typed."""
    base = Path(incomplete) if incomplete.endswith("/") else Path(incomplete).parent
    return [f"{path}/" for path in sorted(base.glob("*/")) if str(path).startswith(incomplete.removeprefix("./"))]


def one_of(*values: str) -> Callable[[str], list[str]]:
    """For an option with a few values."""

    def complete(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return complete


def _mlflow(path: str, query: str) -> dict[str, Any]:
    return _ask(f"{stack_here().mlflow_url}/api/2.0/mlflow/{path}?{query}", {}, None)


def _ask(url: str, headers: dict[str, str], body: bytes | None) -> dict[str, Any]:
    # No proxy: these are loopback addresses of our own.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, data=body, headers=headers), timeout=SECONDS) as answer:
            found = json.loads(answer.read())
    except (urllib.error.URLError, OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
