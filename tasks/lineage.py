"""Follow a live endpoint back to the data behind it, and a digest forward to the endpoints that it serves on.

Read from MLflow and from the endpoint itself each time; nothing is kept here, so nothing can be out of date.
"""

from __future__ import annotations

from datetime import datetime

from tasks.adapters.lineage_books import Books, RunFacts, VersionFacts
from tasks.adapters.sagemaker_names import ENDPOINT_NAME
from tasks.adapters.sagemaker_overview import EndpointView, VariantView
from tasks.adapters.serving_history import Span, alias_at, span_at, spans
from tasks.cloud import sagemaker
from tasks.errors import RefusedRequest
from tasks.lineage_nodes import data_node, run_facts, span_facts, stage_node, stretch, trained_from, verb
from tasks.lineage_tree import DELETED, Kind, Node, clock, is_digest, shown
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
    return Node(kind="endpoint", title=f"{endpoint} at {clock(at)}", facts=span_facts(span), children=tuple(children))


def history_of(model: str) -> list[Node]:
    """Every move of the registered model's aliases and traffic, oldest first; last, what somebody else moved.

    Raises:
        RefusedModel: there is no such model.
    """
    ledger = books()
    now = ledger.aliases(model)
    moves = ledger.moves(model)
    nodes = [
        Node(
            kind="history",
            title=f"{clock(move.at)}  version {move.version} {verb(move.what, move.gained, move.endpoint)}",
            facts={
                name: value for name, value in (("config", move.config), ("run", move.run), ("why", move.why)) if value
            },
        )
        for move in moves
    ]
    for alias in ALIASES:
        left = alias_at(moves, alias, moves[-1].at) if moves else None
        if now.get(alias) != left:
            title = (
                f"now: {alias} is {now.get(alias, 'nowhere')}, and the last that Slimline wrote is {left or 'nowhere'}"
            )
            nodes.append(
                Node(kind="history", title=title, facts={"why": "moved by hand, or before this was written down"})
            )
    return nodes or [Node(kind="history", title="Slimline has written no move of its aliases or traffic")]


def version_node(ledger: Books, version: VersionFacts) -> Node:
    """A version with where it serves and has served, its releases, and the run that made it."""
    if version.deleted:
        return _deleted_node(ledger, version)
    tags = version.tags
    facts = {"aliases": ", ".join(version.aliases)} if version.aliases else {}
    facts |= {"gate": tags.get("slimline.gate", ""), "digest": tags.get("slimline.digest", "")}
    facts |= {"exported": tags["slimline.exported_digest"]} if "slimline.exported_digest" in tags else {}
    facts |= {name: tags[tag] for name, tag in _QUALITY.items() if tag in tags}
    facts |= {"follows": tags["slimline.parent_version"]} if tags.get("slimline.parent_version") else {}
    served = [_served(endpoint, span) for endpoint, span in _stretches(ledger, version)]
    run = ledger.find_run(version.run_id)
    if run is None:
        told = {"run": version.run_id} if version.run_id else {}
        made = Node(kind="run", title="made by a run that is not in MLflow", facts=told)
    else:
        made = _run(ledger, run, version, "made by")
    again = [
        Node(kind="run", title=f"made again: {run.name}", facts=run_facts(run), url=run.url)
        for run in ledger.other_runs(version)
    ]
    return Node(
        kind="version", title=version.title, facts=facts, url=version.url,
        children=(*served, made, *again, *_reproductions(ledger, version)),
    )  # fmt: skip


def _deleted_node(ledger: Books, version: VersionFacts) -> Node:
    """What MLflow still knows of it: runs outlive the version. Which of them made it is not known any more."""
    runs = [_run(ledger, run, version, "named by") for run in ledger.other_runs(version)]
    children = (*runs, *_reproductions(ledger, version))
    return Node(kind="version", title=version.title, facts=DELETED, children=children)


def _reproductions(ledger: Books, version: VersionFacts) -> list[Node]:
    return [
        Node(
            kind="run",
            title=f"reproduced: {run.tags.get('slimline.verdict', run.status)}",
            facts=run_facts(run),
            url=run.url,
        )
        for run in ledger.reproductions(version)
    ]


def version_tree(name: str, version: str) -> Node:
    """As ``lineage_of`` a version's number; one that was deleted is said to be."""
    ledger = books()
    return version_node(ledger, ledger.version_then(name, version))


def _endpoint(ledger: Books, endpoint: str) -> Node:
    # SageMaker refuses to be asked for any other name; a whole digest is a character longer.
    possible = ENDPOINT_NAME.fullmatch(endpoint) is not None
    views = sagemaker().overview(endpoint) if possible else []
    past = spans(ledger.endpoint_moves(endpoint)) if possible else []
    if not views and not past:
        named = [view.name for view in sagemaker().overview()]
        raise RefusedRequest(
            f"nothing is known of {endpoint!r}", observed="no endpoint, and no release ever moved one of that name",
            limit="an endpoint, model/version, or at least eight hex digits of a digest",
            remedy=f"endpoints are {', '.join(named) or 'none'}; models are {', '.join(ledger.models()) or 'none'}",
        )  # fmt: skip
    return endpoint_node(ledger, endpoint, views, past)


def endpoint_node(ledger: Books, endpoint: str, views: list[EndpointView], past: list[Span]) -> Node:
    """An endpoint as it is now (``views``: one, or none where it was deleted), and what served on it."""
    variants = [_variant(ledger, each) for view in views for each in view.variants]
    history = [Node(kind="history", title=stretch(span), facts=span_facts(span)) for span in past]
    status = views[0].status if views else "deleted"
    return Node(kind="endpoint", title=endpoint, facts={"status": status}, children=(*variants, *history))


def _variant(ledger: Books, each: VariantView) -> Node:
    facts = {"traffic": f"{each.share:.0%}", "role": each.role, "instances": str(each.instances)}
    below: tuple[Node, ...] = ()
    if each.version.isdigit():
        below = (version_node(ledger, ledger.version_then(each.model, each.version)),)
    elif each.version:
        below = (Node(kind="model", title=f"{each.model}: {each.version}, not in the registry"),)
    return Node(kind="variant", title=f"{each.config} / {each.variant}", facts=facts, children=below)


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
            facts = {"as": role} | run_facts(run)
            found[run.id] = Node(kind="run", title=f"{run.name}: registered nothing", facts=facts, url=run.url)
    return Node(kind="digest", title=digest, children=tuple(found[title] for title in sorted(found))) if found else None


def _reached(ledger: Books, version: VersionFacts, role: str) -> Node:
    served = [_served(endpoint, span) for endpoint, span in _stretches(ledger, version)]
    facts = {"as": role} | ({"aliases": ", ".join(version.aliases)} if version.aliases else {})
    facts |= DELETED if version.deleted else {}
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
        facts=span_facts(span),
    )


def _run(ledger: Books, run: RunFacts, version: VersionFacts, how: str) -> Node:
    digest = version.tags.get("slimline.baseline_digest") or run.tags.get("slimline.original_digest", "")
    original = Node(
        kind="model", title=f"original: {run.tags.get('slimline.original', 'name not recorded')}",
        facts={"digest": digest},
    )  # fmt: skip
    stages = [stage_node(stage) for stage in ledger.stages(run.id)]
    card = ledger.file(run.id, CARD)
    data = [data_node(each, card, ledger.file_url(run.id, CARD)) for each in run.inputs]
    return Node(
        kind="run", title=f"{how} {run.name}", facts=run_facts(run), url=run.url,
        children=(*trained_from(run), original, *stages, *data),
    )  # fmt: skip


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
