"""A version that was made again, as people read it: the page, and the rows that the terminal shows too."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.lineage_tree import short
from tasks.reproduction import Reproduction


def markdown(found: Reproduction) -> str:
    """For the run page."""
    lines = [
        f"# {found.name} {found.version}: {found.verdict}",
        "",
        "| figure | recorded | re-runs, mean | band | |",
        "|---|---|---|---|---|",
        *("| " + " | ".join(row) + " |" for row in rows(found)),
        "",
        f"Recorded digest `{found.digest}`; exported: {_told(found.exported_digest)}.",
        *(["", said] if (said := trained_again(found)) else []),
        "",
        "| re-run | compressed | | exported | |",
        "|---|---|---|---|---|",
        *(
            f"| [{repeat.run_id[:8]}]({repeat.url}){' (earlier)' if repeat.earlier else ''} | `{repeat.digest}` | "
            f"{_same(repeat.digest, found.digest)} | {_told(repeat.exported_digest)} | "
            f"{_same(repeat.exported_digest, found.exported_digest)} |"
            for repeat in found.repeats
        ),
        "",
    ]
    if found.changed:
        return "\n".join(
            [*lines, "Not as it was when the version was made:", "", *(f"- {line}" for line in found.changed)]
        )
    return "\n".join([*lines, "Code, numerical packages, processor and threads are as they were."])


def trained_again(found: Reproduction) -> str:
    """Whether it is the training that differs; empty where there was none."""
    if not found.trained_digest:
        return ""
    same, count = sum(each.baseline_digest == found.trained_digest for each in found.repeats), len(found.repeats)
    return (
        f"The model that was trained first, `{found.trained_digest}`, had the same bytes in {same} of {count} re-runs."
    )


def _told(digest: str | None) -> str:
    return "not recorded" if digest is None else f"`{digest}`" if digest else "none"


def _same(digest: str, recorded: str | None) -> str:
    return "unknown" if recorded is None else "identical" if digest == recorded else "other bytes"


def rows(found: Reproduction) -> list[tuple[str, str, str, str, str]]:
    """(figure, recorded, mean, band, verdict), as people read them; last, the bytes of both folders."""
    figures = [
        (
            band.figure,
            f"{band.recorded:.6g}",
            f"{band.mean:.6g}",
            f"{band.low:.6g} to {band.high:.6g}" if band.k else "exactly that",
            "inside" if band.inside else "OUTSIDE",
        )
        for band in found.bands
    ]
    exported = [repeat.exported_digest for repeat in found.repeats]
    return [
        *figures,
        _digest_row("compressed folder: digest", found.digest, [repeat.digest for repeat in found.repeats]),
        *([_digest_row("exported folder: digest", found.exported_digest, exported)] if _exports(found) else []),
    ]


def _exports(found: Reproduction) -> bool:
    """Whether an exported folder is known of, or may have been: a reader has none."""
    return found.exported_digest != "" or any(repeat.exported_digest for repeat in found.repeats)


def _digest_row(name: str, recorded: str | None, made: Sequence[str]) -> tuple[str, str, str, str, str]:
    """As a figure's: in the place of the mean, what all re-runs made, or how many made what was recorded."""
    same = sum(digest == recorded for digest in made)
    often = short(made[0]) or "none" if len(set(made)) == 1 else f"{same} of {len(made)} the same"
    told = "not recorded" if recorded is None else short(recorded) or "none"
    verdict = "unknown" if recorded is None else "identical" if same == len(made) else "other bytes"
    return name, told, often, "exactly that" if recorded is not None else "", verdict
