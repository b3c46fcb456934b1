"""The scorecard as lines of text: one list, wherever it is shown (run page, MLflow, terminal)."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.contracts import Scorecard


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
    }
    return found | {
        "gate_passed": float(scorecard.passed),
        "perplexity_ratio": scorecard.candidate.perplexity / scorecard.baseline.perplexity,
        "bytes_ratio": scorecard.candidate.bytes / scorecard.baseline.bytes,
        "decode_speedup": scorecard.decode_speedup,
    }


def _ratio(now: float, was: float) -> str:
    return f"{now / was:.2f}" if was else ""


def _rate(milliseconds: float) -> str:
    return f"{1e3 / milliseconds:.1f}" if milliseconds else ""
