"""What the judge found, for people: cells, tables, the page on which a person decides, and a shadow's answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from prefect.artifacts import create_table_artifact

from tasks.contracts import Finding, Observation, Pair, RegisteredModel, Rollout, TrialStep
from tasks.plans import ReleasePlan

_SHOWN = 20  # pairs of a shadow


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


@dataclass
class Tally:
    """Pairs of answers on their way past: how many, their sums, and the twenty that agree least."""

    count: int = 0
    agreement: float = 0.0
    same: int = 0
    drift: int = 0
    kls: int = 0
    kl: float = 0.0
    worst: list[Pair] = field(default_factory=list)

    def seeing(self, pairs: Iterable[Pair]) -> Iterator[Pair]:
        """The same pairs, counted."""
        for pair in pairs:
            self.count += 1
            self.agreement += pair.agreement
            self.same += pair.same
            self.drift += pair.drift
            if pair.kl is not None:
                self.kls, self.kl = self.kls + 1, self.kl + pair.kl
            self.worst = sorted([*self.worst, pair], key=lambda each: each.agreement)[:_SHOWN]
            yield pair

    def means(self) -> dict[str, float]:
        """Of at least one pair."""
        found = {name: getattr(self, name) / self.count for name in ("agreement", "same", "drift")}
        return {"pairs": float(self.count)} | found | ({"kl": self.kl / self.kls} if self.kls else {})


def report_pairs(seen: Tally) -> None:
    """The pairs that agree least, for people."""
    if not seen.count:
        return
    mean = seen.agreement / seen.count
    create_table_artifact(
        [
            {
                "agreement": f"{pair.agreement:.0%}",
                "drift": f"{pair.drift:+d}",
                "kl": "–" if pair.kl is None else f"{pair.kl:.3f}",
                "old": pair.baseline[:200],
                "new": pair.candidate[:200],
            }
            for pair in seen.worst
        ],
        key="shadow-pairs",
        description=f"**{seen.count} pairs of answers**, mean agreement {mean:.1%}; the {len(seen.worst)} least alike",
    )


def last_word(rollout: Rollout) -> str:
    """The rollout's reason with what it is: why the version was taken back, or what the judge said last of one that was
    not. Empty where there is none.
    """
    label, reason = "the judge's last word", rollout.reason
    if rollout.phase == "restored":
        fired = ", ".join(fired_alarms(rollout))
        label, reason = "why", reason or (f"SageMaker took it back on an alarm: {fired}" if fired else "")
    return f"{label}: {reason}" if reason else ""


def fired_alarms(rollout: Rollout) -> list[str]:
    """The alarms that fired while the rollout was watched."""
    return sorted({name for seen in rollout.observations for name, state in seen.alarms.items() if state == "ALARM"})
