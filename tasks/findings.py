"""What the judge found, for people: cells, tables, the page on which a person decides, and a shadow's answers."""

from __future__ import annotations

from collections.abc import Sequence

from prefect.artifacts import create_table_artifact

from tasks.contracts import Finding, Observation, Pair, RegisteredModel, TrialStep
from tasks.recipes import ReleasePlan


def judged_cell(seen: Observation) -> str:
    """The verdict, and how far each rule's evidence is: errors 0.0% vs 1.2% (promote 40%, about 300 requests more)."""
    if not seen.findings:
        return "–"
    return f"{seen.verdict}: " + "; ".join(_finding(finding) for finding in seen.findings)


def _finding(finding: Finding) -> str:
    kind = "restore" if finding.restore > finding.promote else "promote"
    both = f"{_value(finding, finding.candidate)} vs {_value(finding, finding.baseline)}"
    more = f", about {finding.expected_requests} requests more" if finding.expected_requests else ""
    return f"{finding.metric} {both} ({kind} {max(finding.restore, finding.promote):.0%}{more})"


def _value(finding: Finding, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0f} ms" if finding.metric == "latency" else f"{value:.1%}"


FINDINGS_HEAD = ("metric", "new", "old, or limit", "requests", "to promote", "to restore", "expected")


def finding_rows(findings: tuple[Finding, ...]) -> list[tuple[str, ...]]:
    """The judge's findings as cells, one row a metric."""
    return [
        (
            finding.metric,
            _value(finding, finding.candidate),
            _value(finding, finding.baseline),
            f"{finding.requests} : {finding.baseline_requests}" if finding.baseline_requests else f"{finding.requests}",
            f"{finding.promote:.0%}",
            f"{finding.restore:.0%}",
            "–" if finding.expected_requests is None else f"{finding.expected_requests} more",
        )
        for finding in findings
    ]


def findings_table(findings: tuple[Finding, ...]) -> list[str]:
    rows = ["| " + " | ".join(row) + " |" for row in finding_rows(findings)]
    return ["", "| " + " | ".join(FINDINGS_HEAD) + " |", "|" + "---|" * len(FINDINGS_HEAD), *rows]


def evidence_markdown(registered: RegisteredModel, plan: ReleasePlan, steps: tuple[TrialStep, ...]) -> str:
    """What a person who is asked for an approval has to go by."""
    lines = [f"# Release {registered.name} {registered.version} on {plan.endpoint}?", ""]
    if not steps:
        return "\n".join([*lines, f"Nothing has moved yet. {plan.mode} begins when you approve it."])
    last = steps[-1]
    lines.append(f"{plan.mode}: {last.reason}.")
    if last.observations and (findings := last.observations[-1].findings):
        lines += findings_table(findings)
    return "\n".join(lines)


def report_pairs(pairs: Sequence[Pair]) -> None:
    """The pairs that agree least, for people."""
    if not pairs:
        return
    worst = sorted(pairs, key=lambda pair: pair.agreement)[:20]
    mean = sum(pair.agreement for pair in pairs) / len(pairs)
    create_table_artifact(
        [
            {
                "agreement": f"{pair.agreement:.0%}",
                "drift": f"{pair.drift:+d}",
                "kl": "–" if pair.kl is None else f"{pair.kl:.3f}",
                "old": pair.baseline[:200],
                "new": pair.candidate[:200],
            }
            for pair in worst
        ],
        key="shadow-pairs",
        description=f"**{len(pairs)} pairs of answers**, mean agreement {mean:.1%}; the {len(worst)} least alike",
    )
