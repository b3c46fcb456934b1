"""Bands from re-runs: their width, what lies inside, and what is said to have changed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tasks.adapters.surroundings import Surroundings, difference, look_around
from tasks.errors import NotReproduced
from tasks.reproduce import require_reproduced
from tasks.reproduction import Repeat, Reproduction, bands, figures_of
from tasks.reproduction_text import markdown, rows
from tests.tasks.test_report import READER

RECORDED = {"perplexity": 18.0, "bytes": 100.0}


def repeat(perplexity: float, digest: str = "a" * 64, exported: str = "e" * 64) -> Repeat:
    figures = {"perplexity": perplexity, "bytes": 100.0}
    return Repeat(
        run_id="r" * 32, url="http://mlflow/r", digest=digest, exported_digest=exported, dataset_digest="d",
        figures=figures,
    )  # fmt: skip


def found(*repeats: Repeat, changed: tuple[str, ...] = (), exported: str | None = "e" * 64) -> Reproduction:
    return Reproduction(
        name="m", version="3", url="http://mlflow/m/3", digest="a" * 64, repeats=repeats,
        bands=bands(RECORDED, repeats), changed=changed,
        exported_digest=exported,
    )  # fmt: skip


def test_equal_re_runs_have_a_band_without_width() -> None:
    same = found(repeat(18.0), repeat(18.0))
    assert [(band.low, band.high, band.inside) for band in same.bands] == [(18.0, 18.0, True), (100.0, 100.0, True)]
    assert same.verdict == "reproduced bit for bit by 2 re-runs"
    require_reproduced(same)
    other = found(repeat(18.0 + 1e-9, "b" * 64))
    assert not other.inside and "OUTSIDE" in other.verdict
    with pytest.raises(NotReproduced, match="no width: ask for repeats"):
        require_reproduced(other)


def test_re_runs_that_differ_widen_the_band() -> None:
    near = found(*(repeat(at, "b" * 64) for at in (17.9, 18.1, 18.0, 18.2)))
    (perplexity, size) = near.bands
    # t(0.995, 3) = 5.841, sd = 0.1291, sqrt(1 + 1/4) = 1.118
    assert perplexity.k == pytest.approx(5.841 * 1.118, rel=1e-3)
    assert perplexity.high - perplexity.mean == pytest.approx(0.8431, rel=1e-3)
    assert perplexity.inside and size.inside and "not bit for bit" in near.verdict
    far = found(*(repeat(at, "b" * 64) for at in (19.9, 20.1, 20.0, 20.2)), changed=("torch: 2.12 → 2.13",))
    assert not far.inside
    with pytest.raises(NotReproduced) as raised:
        require_reproduced(far)
    assert "torch: 2.12 → 2.13" in str(raised.value) and "perplexity was recorded as 18" in str(raised.value)
    assert "torch: 2.12 → 2.13" in markdown(far) and "| perplexity | 18 |" in markdown(far)


def test_bit_for_bit_is_said_of_the_exported_file_too() -> None:
    """It is what a CPU serves: equal scores and sizes are no proof of equal bytes."""
    same = found(repeat(18.0))
    assert same.verdict == "reproduced bit for bit by 1 re-run"
    assert rows(same)[-2:] == [
        ("compressed folder: digest", "a" * 12, "a" * 12, "exactly that", "identical"),
        ("exported folder: digest", "e" * 12, "e" * 12, "exactly that", "identical"),
    ]
    other = found(repeat(18.0), repeat(18.0, exported="f" * 64))
    assert other.inside and not other.identical
    assert other.verdict == "inside the bands of 2 re-runs, not bit for bit"
    row = "| exported folder: digest | eeeeeeeeeeee | 1 of 2 the same | exactly that | other bytes |"
    assert row in markdown(other) and f"| `{'f' * 64}` | other bytes |" in markdown(other)
    lost = found(repeat(18.0, exported=""))
    assert not lost.identical and rows(lost)[-1][2:] == ("none", "exactly that", "other bytes")
    more = found(repeat(18.0), exported="")
    assert not more.identical, "the version is served with torch, and the re-run is not"


def test_where_the_exported_digest_was_not_recorded_nothing_is_claimed_of_it() -> None:
    unknown = found(repeat(18.0), exported=None)
    assert unknown.inside and not unknown.identical
    said = "the compressed folder bit for bit; what was exported of it was not recorded"
    assert unknown.verdict == f"inside the bands of 1 re-run, {said}"
    assert rows(unknown)[-1] == ("exported folder: digest", "not recorded", "e" * 12, "", "unknown")
    assert "exported: not recorded" in markdown(unknown) and "| unknown |" in markdown(unknown)
    assert "not bit for bit" in found(repeat(18.0, "b" * 64), exported=None).verdict
    reader = found(repeat(18.0, exported=""), exported="")
    assert reader.identical and rows(reader)[-1][0] == "compressed folder: digest", "nothing is exported of a reader"


def test_equal_bytes_with_other_figures_are_not_called_other_bytes() -> None:
    measured = found(repeat(18.1))
    assert measured.verdict == "OUTSIDE the bands of 1 re-run, with the same bytes"


def test_a_band_holds_the_next_run_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).normal(18, 0.1, size=(2000, 5))
    held = [bands({"perplexity": float(row[4])}, [repeat(float(at)) for at in row[:4]])[0].inside for row in draws]
    assert 0.984 < np.mean(held) < 0.996  # 99 %, within 2.7 standard errors


def test_no_figure_is_no_good_news() -> None:
    with pytest.raises(NotReproduced):
        require_reproduced(found())


def test_what_changed_is_named_and_what_moves_no_figure_is_not() -> None:
    now = look_around("cpu-AVX2", 2)
    assert difference(now, now) == []
    packages = {**now.packages, "torch": "2.0", "httpx": "0.1"}
    was = dataclasses.replace(now, cpu="another one", packages=packages, commit="0" * 40, threads=4)
    told = difference(was, now)
    assert told == [f"processor: another one → {now.cpu}", "threads: 4 → 2", f"torch: 2.0 → {now.packages['torch']}"]
    assert Surroundings.parse(now.json()) == now


def test_tags_name_code_and_packages() -> None:
    now = look_around("cpu-AVX2", 2)
    tags = now.tags()
    assert tags["slimline.python"] == now.python and tags["slimline.package.torch"] == now.packages["torch"]
    assert len(tags["slimline.packages_digest"]) == len(tags["slimline.source_digest"]) == 64
    assert f"torch=={now.packages['torch']}\n" in now.requirements


def test_a_training_that_differs_is_told_apart_from_a_compression_that_does() -> None:
    trained = found(repeat(18.0).model_copy(update={"baseline_digest": "c" * 64}), repeat(18.0))
    assert "trained first" not in markdown(trained), "its run trained none"
    told = markdown(trained.model_copy(update={"trained_digest": "c" * 64}))
    assert f"`{'c' * 64}`, had the same bytes in 1 of 2 re-runs" in told


def test_a_reader_is_compared_by_its_answers_and_its_teacher_s() -> None:
    figures = figures_of(READER)
    assert figures["F1"] == 0.8 and figures["teacher: F1"] == 0.82 and figures["bytes"] == 300
    assert not any("ms" in name or "time" in name for name in figures), "times are the machine's"
    worse = READER.model_copy(update={"candidate": READER.candidate.model_copy(update={"f1": 0.79})})
    (band,) = [band for band in bands(figures_of(worse), [repeat(1.0).model_copy(update={"figures": figures})])
               if not band.inside]  # fmt: skip
    assert (band.figure, band.recorded, band.low) == ("F1", 0.79, 0.8)
