"""The scorecard as lines of text: one list, wherever it is shown (run page, MLflow, terminal)."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.contracts import Quality, Scorecard
from tasks.evidence_tables import evidence_metrics


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


def megabytes(count: float) -> str:
    return f"{count / 1e6:,.1f} MB"


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
            f"{was.first_token_ms:.1f} ms",
            f"{now.first_token_ms:.1f} ms",
            _ratio(now.first_token_ms, was.first_token_ms),
        ),
        Figure(
            "time per following token",
            f"{was.per_token_ms:.1f} ms",
            f"{now.per_token_ms:.1f} ms",
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
    return (
        found
        | evidence_metrics(scorecard.evidence)
        | {
            "gate_passed": float(scorecard.passed),
            "perplexity_ratio": scorecard.candidate.perplexity / scorecard.baseline.perplexity,
            "bytes_ratio": scorecard.candidate.bytes / scorecard.baseline.bytes,
            "decode_speedup": scorecard.decode_speedup,
        }
    )


def _ratio(now: float, was: float) -> str:
    return f"{now / was:.2f}" if was else ""


def _rate(milliseconds: float) -> str:
    return f"{1e3 / milliseconds:.1f}" if milliseconds else ""
