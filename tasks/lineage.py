"""Follow a live endpoint back to the data behind it, and a digest forward to the endpoints that it serves on.

Read from MLflow and from the endpoint itself each time; nothing is kept here, so nothing can be out of date.
"""

from __future__ import annotations

import json
from datetime import datetime

from tasks.adapters.lineage_books import Books, InputFacts, RunFacts, VersionFacts
from tasks.adapters.serving_history import Span, alias_at, span_at, spans
from tasks.cloud import sagemaker
from tasks.errors import RefusedRequest
from tasks.lineage_tree import Kind, Node, clock, is_digest, shown
from tasks.provenance import CARD
from tasks.settings import settings

ALIASES = ("champion", "challenger", "previous")
_QUALITY = {"perplexity": "slimline.perplexity", "agreement": "slimline.agreement", "bytes": "slimline.bytes"}


def books() -> Books:
    return Books(settings().mlflow_url, settings().experiment)


def lineage_of(what: str) -> list[Node]:
    """The trees of ``what``: an endpoint, ``model/version`` (or alias), or a digest of at least eight hex digits.

    Raises:
        RefusedModel: there is no such version.
        RefusedRequest: nothing is known by that name or digest.
    """
    ledger = books()
    if "/" in what:
        name, _, version = what.rpartition("/")
        return [version_node(ledger, ledger.version(name, version))]
    if is_digest(what) and (found := _forward(ledger, what)):
        return [found]
    return [_endpoint(ledger, what)]


def served_at(endpoint: str, at: datetime) -> Node:
    """What had all traffic of ``endpoint`` at that moment, with where it comes from.

    Raises:
        RefusedRequest: nothing is written of that time.
    """
    ledger = books()
    moves = ledger.endpoint_moves(endpoint)
    span = span_at(moves, at)
    if span is None:
        known = [known for known in spans(moves) if known.since is not None]
        limit = f"from {clock(known[0].since)} on; then it moved from {moves[0].before or 'nothing'}" if known else ""
        raise RefusedRequest(
            f"nothing is written of what {endpoint} served then", observed=f"{clock(at)}, {len(moves)} moves known",
            limit=limit or "an endpoint that a release has moved",
            remedy="look at the endpoint's name and at the time's offset (without one it is UTC)",
        )  # fmt: skip
    children = []
    if span.version:
        version = ledger.version(span.name, span.version)
        held = [alias for alias in ALIASES if alias_at(ledger.moves(span.name), alias, at) == span.version]
        node = version_node(ledger, version)
        children.append(node.model_copy(update={"facts": {"aliases then": ", ".join(held) or "none"} | node.facts}))
    return Node(kind="endpoint", title=f"{endpoint} at {clock(at)}", facts=_span_facts(span), children=tuple(children))


def history_of(model: str) -> list[Node]:
    """Every move of the registered model's aliases and traffic, oldest first; last, what somebody else moved."""
    ledger = books()
    moves = ledger.moves(model)
    nodes = [
        Node(
            kind="history",
            title=f"{clock(move.at)}  version {move.version} {_verb(move.what, move.gained, move.endpoint)}",
            facts={
                name: value for name, value in (("config", move.config), ("run", move.run), ("why", move.why)) if value
            },
        )
        for move in moves
    ]
    now = ledger.aliases(model)
    for alias in ALIASES:
        left = alias_at(moves, alias, moves[-1].at) if moves else None
        if now.get(alias) != left:
            title = (
                f"now: {alias} is {now.get(alias, 'nowhere')}, and the last that Slimline wrote is {left or 'nowhere'}"
            )
            nodes.append(
                Node(kind="history", title=title, facts={"why": "moved by hand, or before this was written down"})
            )
    return nodes


def version_node(ledger: Books, version: VersionFacts) -> Node:
    """A version with where it serves and has served, its releases, and the run that made it."""
    tags = version.tags
    facts = {"aliases": ", ".join(version.aliases)} if version.aliases else {}
    facts |= {"gate": tags.get("slimline.gate", ""), "digest": tags.get("slimline.digest", "")}
    facts |= {"exported": tags["slimline.exported_digest"]} if "slimline.exported_digest" in tags else {}
    facts |= {name: tags[tag] for name, tag in _QUALITY.items() if tag in tags}
    facts |= {"follows": tags["slimline.parent_version"]} if tags.get("slimline.parent_version") else {}
    served = [_served(endpoint, span) for endpoint, span in _stretches(ledger, version)]
    made = _run(ledger, ledger.run(version.run_id), version)
    again = [
        Node(kind="run", title=f"made again: {run.name}", facts=_run_facts(run), url=run.url)
        for run in ledger.other_runs(version)
    ]
    checked = [
        Node(
            kind="run",
            title=f"reproduced: {run.tags.get('slimline.verdict', run.status)}",
            facts=_run_facts(run),
            url=run.url,
        )
        for run in ledger.reproductions(version)
    ]
    return Node(
        kind="version", title=version.title, facts=facts, url=version.url,
        children=(*served, made, *again, *checked),
    )  # fmt: skip


def _endpoint(ledger: Books, endpoint: str) -> Node:
    views = sagemaker().overview(endpoint)
    past = spans(ledger.endpoint_moves(endpoint))
    if not views and not past:
        named = [view.name for view in sagemaker().overview()]
        raise RefusedRequest(
            f"nothing is known of {endpoint!r}", observed="no endpoint, and no release ever moved one of that name",
            limit="an endpoint, model/version, or at least eight hex digits of a digest",
            remedy=f"MLflow lists the models; endpoints are {', '.join(named) or 'none'}",
        )  # fmt: skip
    children = []
    for view in views:
        for each in view.variants:
            facts = {"traffic": f"{each.share:.0%}", "role": each.role, "instances": str(each.instances)}
            below: tuple[Node, ...] = ()
            if each.version.isdigit():
                below = (version_node(ledger, ledger.version(each.model, each.version)),)
            elif each.version:
                below = (Node(kind="model", title=f"{each.model}: {each.version}, not in the registry"),)
            children.append(Node(kind="variant", title=f"{each.config} / {each.variant}", facts=facts, children=below))
    history = [Node(kind="history", title=_stretch(span), facts=_span_facts(span)) for span in past]
    status = views[0].status if views else "deleted"
    return Node(kind="endpoint", title=endpoint, facts={"status": status}, children=(*children, *history))


def _forward(ledger: Books, digest: str) -> Node | None:
    """Versions and runs that have to do with it; each once."""
    found: dict[str, Node] = {}
    runs: dict[str, tuple[str, RunFacts]] = {}
    for role, run in ledger.runs_with(digest):
        runs.setdefault(run.id, (role, run))
    for role, version in ledger.versions_with(digest):
        found.setdefault(version.title, _reached(ledger, version, role))
    for role, run in runs.values():
        versions = ledger.versions_of_run(run)
        for version in versions:
            found.setdefault(version.title, _reached(ledger, version, role))
        if not versions:
            facts = {"as": role} | _run_facts(run)
            found[run.id] = Node(kind="run", title=f"{run.name}: registered nothing", facts=facts, url=run.url)
    return Node(kind="digest", title=digest, children=tuple(found[title] for title in sorted(found))) if found else None


def _reached(ledger: Books, version: VersionFacts, role: str) -> Node:
    served = [_served(endpoint, span) for endpoint, span in _stretches(ledger, version)]
    facts = {"as": role} | ({"aliases": ", ".join(version.aliases)} if version.aliases else {})
    return Node(kind="version", title=version.title, facts=facts, url=version.url, children=tuple(served))


def _stretches(ledger: Books, version: VersionFacts) -> list[tuple[str, Span]]:
    """(endpoint, stretch) of each time that it had all traffic somewhere."""
    prefix = "slimline.served_on."
    endpoints = [tag.removeprefix(prefix) for tag in sorted(version.tags) if tag.startswith(prefix)]
    return [
        (endpoint, span)
        for endpoint in endpoints
        for span in spans(ledger.endpoint_moves(endpoint))
        if (span.name, span.version) == (version.name, version.version)
    ]


def _served(endpoint: str, span: Span) -> Node:
    kind: Kind = "release"
    return Node(
        kind=kind,
        title=f"serves on {endpoint}" if span.until is None else f"served on {endpoint}",
        facts=_span_facts(span),
    )


def _run(ledger: Books, run: RunFacts, version: VersionFacts) -> Node:
    original = Node(
        kind="model", title=f"original: {run.tags.get('slimline.original', 'name not recorded')}",
        facts={"digest": version.tags.get("slimline.baseline_digest", "")},
    )  # fmt: skip
    stages = [_stage(stage) for stage in ledger.stages(run.id)]
    card = ledger.file(run.id, CARD)
    data = [_data(each, card, ledger.file_url(run.id, CARD)) for each in run.inputs]
    return Node(
        kind="run", title=f"made by {run.name}", facts=_run_facts(run), url=run.url,
        children=(*_trained_from(run), original, *stages, *data),
    )  # fmt: skip


def _trained_from(run: RunFacts) -> list[Node]:
    """What was trained before it was compressed; nothing where the model came as it is."""
    told = {"digest": "slimline.trained_from_digest", "new documents": "slimline.new_documents"}
    name = run.tags.get("slimline.trained_from")
    facts = {fact: run.tags.get(tag, "") for fact, tag in told.items()}
    return [Node(kind="model", title=f"trained from: {name}", facts=facts)] if name else []


def _run_facts(run: RunFacts) -> dict[str, str]:
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


def _stage(run: RunFacts) -> Node:
    cached = {"true": "from the cache", "false": "computed"}.get(run.tags.get("slimline.cached", ""), "")
    facts = {
        "made": run.params.get("model", run.params.get("not_exported", "")),
        "digest": run.tags.get("slimline.digest", ""),
        "by": run.params.get("engine", ""),
        "cache": cached,
        "seconds": f"{run.metrics['seconds']:.1f}" if "seconds" in run.metrics else "",
    }
    return Node(kind="stage", title=run.name, facts={name: text for name, text in facts.items() if text}, url=run.url)


def _data(entry: InputFacts, card: str | None, url: str) -> Node:
    facts = {"digest": entry.digest, "data set": entry.dataset, "text": entry.text, "licence": entry.licence}
    told = json.loads(card) if card else {}
    blocks = told.get(f"{entry.context}_blocks")
    if blocks and told.get("block_tokens"):
        facts |= {"tokens": f"{blocks} × {told['block_tokens']}"}
    facts = {name: value for name, value in facts.items() if value}
    return Node(kind="data", title=f"{entry.context}: {entry.name}", facts=facts, url=url if card else "")


def _span_facts(span: Span) -> dict[str, str]:
    version = f"{span.name}/{span.version}" if span.version else ""
    facts = {
        "config": span.config, "variant": span.variant, "version": version,
        "since": clock(span.since), "until": clock(span.until) if span.until else "now", "release run": span.run,
        "why": span.why,
    }  # fmt: skip
    return {name: value for name, value in facts.items() if value}


def _stretch(span: Span) -> str:
    return f"{span.name}/{span.version}" if span.version else f"{span.config}, not in the registry"


def _verb(what: str, gained: bool, endpoint: str) -> str:
    if what == "serves":
        return f"{'serves' if gained else 'serves no more'} on {endpoint}"
    return f"{'is' if gained else 'is no more'} {what}"


def _linked(facts: dict[str, str]) -> dict[str, str]:
    """A page's address as a link: written out it takes two lines of the list."""
    return {name: f"[page]({value})" if value.startswith("http") else value for name, value in facts.items()}


def markdown_of(nodes: list[Node], depth: int = 0) -> str:
    """The tree as a nested list, with links."""
    lines = []
    for node in nodes:
        title = f"[{node.title}]({node.url})" if node.url else f"**{node.title}**"
        lines.append(f"{'  ' * depth}- {title}" + (f": {shown(_linked(node.facts))}" if node.facts else ""))
        if node.children:
            lines.append(markdown_of(list(node.children), depth + 1))
    return "\n".join(lines)
