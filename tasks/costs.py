"""What serving costs: a million tokens, a month, the tokens that pay a compression run back, and what a rollout adds.

Pure arithmetic on prices and measured rates. Everything is the instances' on-demand price alone: no storage, data
transfer, requests to S3 and CloudWatch, Savings Plans or tax. SageMaker charges for an instance from its start to its
end, busy or idle (https://aws.amazon.com/sagemaker-ai/pricing/).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from tasks.adapters.sagemaker_requests import STARTING, bakes
from tasks.contracts import Observation, Price, ReleaseCost, TokenCost
from tasks.plans import ReleasePlan

HOUR = 3600.0
MONTH_HOURS = 730.0  # as AWS's own calculator has it: 8,760 / 12
MILLION = 1e6
_MOST_STEPS = 100_000  # instances of the dearer fleet up to which a break-even is looked for


def usd_per_million(usd_per_hour: float, tokens_per_second: float, utilisation: float = 1.0) -> float:
    """US dollars per million tokens of instances that decode ``tokens_per_second`` each, a share of the time.

    The number of instances cancels out: twice as many cost twice as much and decode twice as much.

    Args:
        utilisation: share of the paid time in which they decode, 0–1; above 0.
    """
    return usd_per_hour * MILLION / (capacity(tokens_per_second, utilisation, hours=1.0))


def capacity(tokens_per_second: float, utilisation: float = 1.0, hours: float = MONTH_HOURS) -> float:
    """Tokens that one instance decodes in ``hours``.

    Raises:
        ValueError: a rate that is not above 0, or a utilisation outside 0–1.
    """
    if not (tokens_per_second > 0 and math.isfinite(tokens_per_second)):
        raise ValueError(f"{tokens_per_second} tokens a second: a measured rate is above 0")
    if not 0 < utilisation <= 1:
        raise ValueError(f"utilisation {utilisation}: above 0 and at most 1")
    return tokens_per_second * utilisation * HOUR * hours


@dataclass(frozen=True)
class Fleet:
    """Instances of one type that serve one model.

    Attributes:
        usd_per_hour: of one instance.
        tokens_per_second: that one instance decodes.
        utilisation: highest share of the time in which it should decode; the rest is room for peaks.
        least: instances that stand there without any load.
    """

    usd_per_hour: float
    tokens_per_second: float
    utilisation: float = 1.0
    least: int = 1

    @property
    def capacity(self) -> float:
        """Tokens a month of one instance."""
        return capacity(self.tokens_per_second, self.utilisation)

    def instances(self, tokens_a_month: float) -> int:
        """Whole instances that carry this load, spread evenly over the month."""
        return max(self.least, math.ceil(tokens_a_month / self.capacity))

    def usd_a_month(self, tokens_a_month: float) -> float:
        return self.instances(tokens_a_month) * self.usd_per_hour * MONTH_HOURS


def break_even_tokens(compression_usd: float, baseline_usd: float, candidate_usd: float) -> float | None:
    """Tokens, in all, after which the cheaper tokens have paid the compression run back; none where they are not
    cheaper.

    Args:
        compression_usd: what the run cost.
        baseline_usd: US dollars per million tokens of the original; ``candidate_usd`` of the compressed model.
    """
    saved = baseline_usd - candidate_usd
    return compression_usd * MILLION / saved if saved > 0 else None


def break_even_load(compression_usd: float, baseline: Fleet, candidate: Fleet, months: float) -> int | None:
    """The smallest load, tokens a month, at which the smaller bill of ``months`` has paid the compression run back.

    Instances are whole, so savings come in steps: between two sizes of the original's fleet a higher load can save
    less. The savings can only rise where the original needs one instance more; so those loads are tried, in order.

    Returns:
        Tokens a month; none where no load up to ``_MOST_STEPS`` instances saves enough.
    """

    def pays(load: float) -> bool:
        saved = baseline.usd_a_month(load) - candidate.usd_a_month(load)
        return saved * months >= compression_usd

    if pays(1):
        return 1
    steps = range(baseline.least, _MOST_STEPS)
    return next((load for step in steps if pays(load := math.floor(step * baseline.capacity) + 1)), None)


def token_cost(
    price: Price,
    machine: str,
    baseline_rate: float,
    candidate_rate: float,
    *,
    concurrency: int = 1,
    compression_seconds: float | None = None,
) -> TokenCost:
    """Both models on one instance type. The compression run is priced as if its seconds were this type's too."""
    was, now = (usd_per_million(price.usd_per_hour, rate) for rate in (baseline_rate, candidate_rate))
    run = None if compression_seconds is None else compression_seconds / HOUR * price.usd_per_hour
    return TokenCost(
        price=price,
        machine=machine,
        concurrency=concurrency,
        baseline_rate=baseline_rate,
        candidate_rate=candidate_rate,
        baseline_usd=was,
        candidate_usd=now,
        compression_usd=run,
        break_even_tokens=None if run is None else break_even_tokens(run, was, now),
    )


def rollout_cost(plan: ReleasePlan, price: Price) -> ReleaseCost:
    """What ``plan`` adds to the bill: instances beside the fleet that would run anyway, from the least to the most that
    its own waits allow. At least: instances start at once and the judge decides after each bake. At most: they take an
    hour to start, which is where the plan gives up, and the judge's patience is used up.
    """
    fleet, bake = plan.instances, plan.bake_seconds
    if plan.on_trial:
        extra, steps = 2 * fleet, len(plan.shares)
        least = float(fleet * steps * bake)
        most = float(fleet * steps * (bake + plan.judge.patience_seconds) + 2 * extra * STARTING)
        basis = (
            f"{fleet} old and {fleet} new instances beside each other for {steps} steps of {bake} s, and up to "
            f"{plan.judge.patience_seconds} s more each until a verdict; {3 * fleet} while a fleet starts"
        )
        if plan.mode == "SHADOW":
            after = rollout_cost(plan.after_shadow, price)
            least, most = (seconds + hours * HOUR for seconds, hours in zip((least, most), after.hours, strict=True))
            basis += f"; then {plan.after_shadow.mode}: {after.basis}"
    elif plan.mode == "ROLLING":
        extra = max(1, fleet * plan.step_percent // 100)
        batches = math.ceil(fleet / extra)
        least, most = extra * batches * bake, extra * (batches * bake + STARTING)
        basis = f"{extra} instances more, {batches} batches of {bake} s"
    else:
        extra, waits = fleet, bakes(plan)
        least, most = extra * waits * bake, extra * (waits * bake + STARTING)
        basis = f"the new fleet of {fleet} beside the old one, {waits} bakes of {bake} s"
    hours = (least / HOUR, most / HOUR)
    return ReleaseCost(
        price=price,
        mode=plan.mode,
        extra_instances=extra,
        hours=hours,
        usd=(hours[0] * price.usd_per_hour, hours[1] * price.usd_per_hour),
        basis=basis,
    )


def observed_hours(seen: tuple[Observation, ...]) -> float | None:
    """Instance-hours of a rollout beside its old fleet, by the service's clock, from the first look to the last.

    Each stretch counts with the instances seen at its beginning. None where there was no old fleet, or one look only.
    """
    if len(seen) < 2 or seen[0].blue is None or not seen[0].blue.instances:
        return None
    usual = seen[0].blue.instances
    hours = 0.0
    for look, after in pairwise(seen):
        there = sum(fleet.instances for fleet in (look.blue, look.green) if fleet)
        hours += max(0, there - usual) * max(0.0, after.at - look.at) / HOUR
    return hours


def with_observed(cost: ReleaseCost, seen: tuple[Observation, ...]) -> ReleaseCost:
    """The plan's cost with what was seen of it."""
    hours = observed_hours(seen)
    spent = None if hours is None else hours * cost.price.usd_per_hour
    return cost.model_copy(update={"observed_hours": hours, "observed_usd": spent})
