"""The scorecard as lines of text: one list, wherever it is shown (run page, MLflow, terminal)."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.contracts import Price, Quality, ReleaseCost, Scorecard, TokenCost
from tasks.evidence_tables import evidence_metrics
from tasks.reader_contracts import ReaderScorecard
from tasks.training_text import training_metrics


@dataclass(frozen=True)
class Figure:
    """One line: what is measured, of the original, of the candidate, and candidate ÷ original where that says more."""

    name: str
    original: str
    candidate: str
    ratio: str = ""

    @property
    def cells(self) -> tuple[str, str, str, str]:
        return self.name, self.original, self.candidate, self.ratio


HEAD = ("", "original", "compressed", "ratio")
READER_HEAD = ("", "teacher", "student", "ratio")


def megabytes(count: float) -> str:
    return f"{count / 1e6:,.1f} MB"


def milliseconds(value: float) -> str:
    """One decimal, and two digits of what is less than one."""
    return f"{value:.1f} ms" if value >= 1 or value == 0 else f"{value:.2g} ms"


def figures(scorecard: Scorecard) -> list[Figure]:
    """Every figure of the scorecard; of the compressed folder itself where the exported one was scored."""
    was, now, packed = scorecard.baseline, scorecard.candidate, scorecard.packed
    lines = [
        Figure("bytes on disk, every file", megabytes(was.bytes), megabytes(now.bytes), f"{now.bytes / was.bytes:.3f}"),
        Figure(
            "perplexity", f"{was.perplexity:.2f}", f"{now.perplexity:.2f}", f"{now.perplexity / was.perplexity:.3f}"
        ),
        Figure("same next token", f"{was.agreement:.1%}", f"{now.agreement:.1%}"),
        Figure("KL from the original, nats a token", f"{was.kl:.4f}", f"{now.kl:.4f}"),
        *_told(was, now),
        Figure(
            "time to first token",
            milliseconds(was.first_token_ms),
            milliseconds(now.first_token_ms),
            _ratio(now.first_token_ms, was.first_token_ms),
        ),
        Figure(
            "time per following token",
            milliseconds(was.per_token_ms),
            milliseconds(now.per_token_ms),
            _ratio(now.per_token_ms, was.per_token_ms),
        ),
        Figure(
            "decoded tokens a second",
            _rate(was.per_token_ms),
            _rate(now.per_token_ms),
            f"{scorecard.decode_speedup:.2f}" if scorecard.decode_speedup else "",
        ),
        Figure("served with", runtime(scorecard.baseline_model.runtime), runtime(scorecard.served_model.runtime)),
    ]
    if packed is not None:
        lines.append(
            Figure(
                "compressed folder: perplexity",
                "",
                f"{packed.perplexity:.2f}",
                f"{packed.perplexity / was.perplexity:.3f}",
            )
        )
        lines.append(Figure("compressed folder: same next token", "", f"{packed.agreement:.1%}"))
        lines.append(Figure("compressed folder: bytes", "", megabytes(packed.bytes), f"{packed.bytes / was.bytes:.3f}"))
    return [*lines, *(line for cost in scorecard.costs for line in cost_figures(cost))]


def reader_figures(scorecard: ReaderScorecard) -> list[Figure]:
    """As ``figures``, of a reader beside its teacher; untaught, it is the student before the distillation."""
    was, now, before = scorecard.baseline, scorecard.candidate, scorecard.before
    teacher, student = scorecard.baseline_model.parameters, scorecard.candidate_model.parameters
    slow, fast = was.ms_per_question, now.ms_per_question
    lost, by_accident = f"{scorecard.exact_drop_upper:.1%}", scorecard.exact_p
    return [
        Figure("bytes on disk, every file", megabytes(was.bytes), megabytes(now.bytes), f"{now.bytes / was.bytes:.3f}"),
        Figure("parameters", f"{teacher:,}", f"{student:,}", f"{student / teacher:.3f}"),
        Figure("F1", f"{was.f1:.1%}", f"{now.f1:.1%}"),
        Figure("F1, untaught", "", f"{before.f1:.1%}"),
        Figure("F1 lost, 95 % upper end", "", f"{scorecard.f1_drop_upper:.1%}"),
        Figure("exact match", f"{was.exact_match:.1%}", f"{now.exact_match:.1%}"),
        Figure("exact match, untaught", "", f"{before.exact_match:.1%}"),
        Figure("exact match lost, 95 % upper end", "", lost),
        *([] if by_accident is None else [Figure("p of a difference in exact match", "", f"{by_accident:.2g}")]),
        Figure("computing a question", milliseconds(slow), milliseconds(fast), _ratio(fast, slow)),
    ]


def cost_figures(cost: TokenCost) -> list[Figure]:
    """What a million decoded tokens cost on one instance type, and after how many the compression run is paid back."""
    kind = cost.price.instance_type
    ratio = f"{cost.candidate_usd / cost.baseline_usd:.2f}"
    lines = [Figure(f"$ per million tokens, {kind}", dollars(cost.baseline_usd), dollars(cost.candidate_usd), ratio)]
    if cost.compression_usd is not None:
        after = f"{cost.break_even_tokens:,.0f} tokens" if cost.break_even_tokens is not None else "never"
        lines.append(Figure(f"compression run paid back, {kind}", "", after))
    return lines


def _told(was: Quality, now: Quality) -> list[Figure]:
    """What scorecards of earlier versions do not have."""
    if now.kl_p99 is None or now.flip_rate is None or now.accuracy is None or was.accuracy is None:
        return []
    return [
        Figure("KL, 99th percentile of the positions", "0.0000", f"{now.kl_p99:.4f}"),
        Figure("true next token", f"{was.accuracy:.1%}", f"{now.accuracy:.1%}"),
        Figure("flips: right became wrong, or wrong right", "0.0%", f"{now.flip_rate:.1%}"),
    ]


def cost_notes(costs: tuple[TokenCost, ...]) -> list[str]:
    """What the dollars rest on, in sentences: whose rates, and whose prices of which day."""
    rates = {(cost.machine, cost.concurrency) for cost in costs}
    notes = [
        f"Dollars are at the decode rate of {machine}, {'one request' if at_once == 1 else f'{at_once} requests'} at a "
        "time and never idle; an instance's own rate differs."
        for machine, at_once in sorted(rates)
    ]
    return notes + [f"Price of {price_note(cost.price)}." for cost in costs]


def price_note(price: Price) -> str:
    how = "AWS's Price List" if price.quoted else "a copy of AWS's list"
    return (
        f"{price.instance_type} in {price.region}: ${price.usd_per_hour:g} an hour on demand, {how} as of {price.as_of}"
    )


def release_cost_lines(cost: ReleaseCost) -> list[str]:
    """What a rollout costs beside the fleet that would run anyway."""
    least, most = cost.usd
    lines = [f"the plan adds {dollars(least)} to {dollars(most)} to the bill: {cost.basis}; {price_note(cost.price)}"]
    if cost.observed_usd is not None and cost.observed_hours is not None:
        lines.append(
            f"this rollout added {dollars(cost.observed_usd)}: {cost.observed_hours:.2f} instance-hours seen beside "
            "the old fleet"
        )
    return lines


def dollars(amount: float) -> str:
    """With cents, and with three significant digits below ten cents."""
    return f"${amount:,.2f}" if amount >= 0.1 or amount == 0 else f"${amount:.3g}"


def runtime(name: str) -> str:
    return {"onnx": "ONNX Runtime", "torch": "torch"}[name]


def metrics(scorecard: Scorecard) -> dict[str, float]:
    """The same as numbers, by the names that MLflow shows."""
    sides = {"candidate": scorecard.candidate, "baseline": scorecard.baseline, "packed": scorecard.packed}
    found = {
        f"{side}_{name}": float(value)
        for side, score in sides.items()
        if score is not None
        for name, value in score.model_dump().items()
        if isinstance(value, (int, float))
    }
    for cost in scorecard.costs:
        found |= cost_metrics(cost)
    return (
        found
        | evidence_metrics(scorecard.evidence)
        | training_metrics(scorecard.training)
        | {
            "gate_passed": float(scorecard.passed),
            "perplexity_ratio": scorecard.candidate.perplexity / scorecard.baseline.perplexity,
            "bytes_ratio": scorecard.candidate.bytes / scorecard.baseline.bytes,
            "decode_speedup": scorecard.decode_speedup,
        }
    )


def cost_metrics(cost: TokenCost) -> dict[str, float]:
    kind = cost.price.instance_type
    found = {
        f"candidate_usd_per_million_tokens.{kind}": cost.candidate_usd,
        f"baseline_usd_per_million_tokens.{kind}": cost.baseline_usd,
        f"usd_per_hour.{kind}": cost.price.usd_per_hour,
    }
    if cost.compression_usd is not None:
        found[f"compression_usd.{kind}"] = cost.compression_usd
    if cost.break_even_tokens is not None:
        found[f"break_even_tokens.{kind}"] = cost.break_even_tokens
    return found


def _ratio(now: float, was: float) -> str:
    return f"{now / was:.2f}" if was else ""


def _rate(milliseconds: float) -> str:
    return f"{1e3 / milliseconds:.1f}" if milliseconds else ""
