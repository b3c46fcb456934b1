"""The judge at work on one release: what CloudWatch and the captures say, turned into verdicts that are kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

from tasks.adapters.captures import Captures
from tasks.adapters.sagemaker import SageMaker
from tasks.adapters.sagemaker_metrics import Look
from tasks.contracts import Observation, Pair, Shift
from tasks.plans import ReleasePlan
from tasks.serving.canary import Verdict
from tasks.serving.divergence import compare
from tasks.serving.judge import Counts, Judgement
from tasks.verdicts import findings, judge_answers, quantile_ms

BEFORE_SECONDS = 3600.0
LOOK_SECONDS = 60.0  # of the service's clock: CloudWatch has news once a minute, and each look costs money


@dataclass
class Bench:
    """The judge at work on one release. ``agreed``: how much of a shadow's answers was the same, of how many."""

    cloud: SageMaker
    asked: Shift
    plan: ReleasePlan
    agreed: Counts = field(default_factory=Counts)
    judgement: Judgement | None = None
    _near_ms: float | None = None
    _usual: Counts | None = None
    _last: tuple[float, Look] | None = None

    def __post_init__(self) -> None:
        self._captures = self.cloud.evidence.captures(self.asked) if self.plan.mode == "SHADOW" else None

    @property
    def verdict(self) -> Verdict:
        return self.judgement.verdict if self.judgement else Verdict.WAIT

    @property
    def reason(self) -> str:
        return self.judgement.reason if self.judgement else "the new version has had no traffic yet"

    def look(self, now: float) -> Look:
        """Count and judge; not more often than there is news. ``now``: the service's clock.

        Where nobody has asked the new version anything, there is no judgement.
        """
        if self._last and now - self._last[0] < LOOK_SECONDS:
            return self._last[1]
        if self._captures is not None:
            for pair in new_pairs(self._captures):
                self.agreed = Counts(self.agreed.ones + pair.agreement, self.agreed.trials + 1)
        seen = self.cloud.evidence.look(self.asked, self.plan, self._near_ms)
        self._last = now, seen
        if seen.since is not None:
            reference = seen.baseline or seen.candidate
            self._near_ms = quantile_ms(reference, self.plan.judge.latency_quantile) or self._near_ms
            if seen.baseline is None and self._usual is None:
                self._usual = self._before()
            self.judgement = judge_answers(self.plan, seen.candidate, seen.baseline, self.agreed, self._usual)
        return seen

    def _before(self) -> Counts:
        """What the old version has called invalid in its last hour: the reference where it does not stand beside."""
        previous = self.asked.previous_config
        if previous in (None, self.asked.wanted_config):
            return Counts()
        return Counts(*self.cloud.evidence.client_errors(self.asked, self.plan, str(previous), BEFORE_SECONDS))

    def judged(self, seen: Observation, look: Look) -> Observation:
        """The observation with what the judge made of it."""
        if self.judgement is None:
            return seen
        quantile = self.plan.judge.latency_quantile
        blue, green = seen.blue, seen.green
        if blue and look.baseline:
            blue = blue.model_copy(update={"latency_ms": quantile_ms(look.baseline, quantile)})
        if green:
            green = green.model_copy(update={"latency_ms": quantile_ms(look.candidate, quantile)})
        return seen.model_copy(
            update={
                "blue": blue,
                "green": green,
                "findings": findings(self.judgement),
                "verdict": {Verdict.PROMOTE: "promoted", Verdict.RESTORE: "restored"}.get(self.verdict, "wait"),
                "reason": self.reason,
            }
        )


def new_pairs(captures: Captures) -> Iterator[Pair]:
    """The pairs of answers that have become complete since the last call, compared, one by one."""
    for each in captures.new():
        yield Pair(event=each.event, **asdict(compare(each.request, each.baseline, each.candidate)))
