"""Runs, stages, data and stretches of serving as nodes of a lineage tree, and their facts in the order in which they
are read. Nothing is asked of any server here.
"""

from __future__ import annotations

import json

from tasks.adapters.lineage_books import InputFacts, RunFacts
from tasks.adapters.serving_history import Span
from tasks.lineage_tree import Node, clock


def trained_from(run: RunFacts) -> list[Node]:
    """What was trained before it was compressed; nothing where the model came as it is."""
    told = {"digest": "slimline.trained_from_digest", "new documents": "slimline.new_documents"}
    name = run.tags.get("slimline.trained_from")
    facts = {fact: run.tags.get(tag, "") for fact, tag in told.items()}
    return [Node(kind="model", title=f"trained from: {name}", facts=facts)] if name else []


def run_facts(run: RunFacts) -> dict[str, str]:
    tags = run.tags
    commit = tags.get("mlflow.source.git.commit", "")
    dirty = " with uncommitted changes" if tags.get("slimline.git_dirty") == "true" else ""
    facts = {
        "at": clock(run.started),
        "Prefect": tags.get("slimline.prefect_run_url", ""),
        "code": f"{commit[:12]}{dirty}" if commit else "",
        "source": tags.get("slimline.source_digest", ""),
        "python": tags.get("slimline.python", ""),
        "torch": tags.get("slimline.package.torch", ""),
        "packages": tags.get("slimline.packages_digest", ""),
        "device": tags.get("slimline.device", ""),
    }
    return {name: value for name, value in facts.items() if value}


def stage_node(run: RunFacts) -> Node:
    cached = {"true": "from the cache", "false": "computed"}.get(run.tags.get("slimline.cached", ""), "")
    facts = {
        "made": run.params.get("model", run.params.get("not_exported", "")),
        "digest": run.tags.get("slimline.digest", ""),
        "by": run.params.get("engine", ""),
        "result": cached,
        "seconds": f"{run.metrics['seconds']:.1f}" if "seconds" in run.metrics else "",
    }
    return Node(kind="stage", title=run.name, facts={name: text for name, text in facts.items() if text}, url=run.url)


def data_node(entry: InputFacts, card: str | None, url: str) -> Node:
    facts = {"digest": entry.digest, "data set": entry.dataset, "text": entry.text, "licence": entry.licence}
    told = json.loads(card) if card else {}
    blocks = told.get(f"{entry.context}_blocks")
    if blocks and told.get("block_tokens"):
        facts |= {"tokens": f"{blocks} × {told['block_tokens']}"}
    facts = {name: value for name, value in facts.items() if value}
    return Node(kind="data", title=f"{entry.context}: {entry.name}", facts=facts, url=url if card else "")


def span_facts(span: Span) -> dict[str, str]:
    version = f"{span.name}/{span.version}" if span.version else ""
    facts = {
        "config": span.config, "variant": span.variant, "version": version,
        "since": clock(span.since), "until": clock(span.until) if span.until else "now", "release run": span.run,
        "why": span.why,
    }  # fmt: skip
    return {name: value for name, value in facts.items() if value}


def stretch(span: Span) -> str:
    return f"{span.name}/{span.version}" if span.version else f"{span.config}, not in the registry"


def verb(what: str, gained: bool, endpoint: str) -> str:
    if what == "serves":
        return f"{'serves' if gained else 'serves no more'} on {endpoint}"
    return f"{'is' if gained else 'is no more'} {what}"
