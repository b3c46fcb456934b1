"""The table of prices: every figure has a source and a day, a file overrides it, and what is not in it has no price."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import botocore.session
import pytest

from tasks.adapters.prices import NoPrice, PriceTable
from tasks.errors import Refused

MINE = "[{source: our contract, as_of: 2026-11-01, prices: {eu-west-1: {ml.g5.xlarge: 1.1, ml.g6.xlarge: 0.9}}}]"


def test_every_price_has_a_source_a_day_and_an_instance_type_that_sagemaker_has() -> None:
    model = botocore.session.get_session().get_service_model("sagemaker")
    known = set(model.shape_for("ProductionVariantInstanceType").enum)
    found = PriceTable().all()
    assert {price.region for price in found} == {"us-east-1", "us-east-2", "eu-west-1"} and len(found) > 30
    for price in found:
        assert price.instance_type in known, price
        assert price.source.startswith("https://") and date.fromisoformat(price.as_of) < date(2026, 11, 27)
        assert 0.1 < price.usd_per_hour < 100


def test_a_price_is_of_its_region_and_us_east_1_where_none_is_set() -> None:
    table = PriceTable()
    assert (
        table.price("ml.m5.xlarge", None).usd_per_hour == 0.23 == table.price("ml.m5.xlarge", "us-east-1").usd_per_hour
    )
    assert table.price("ml.g5.xlarge", "eu-west-1").usd_per_hour > table.price("ml.g5.xlarge", "us-east-1").usd_per_hour


@pytest.mark.parametrize(
    ("kind", "region", "known"),
    [("ml.x9.huge", "us-east-1", "ml.m5.xlarge"), ("ml.m5.xlarge", "ap-south-1", "regions eu-west-1")],
)
def test_what_is_not_in_the_table_has_no_price_and_the_error_says_how_to_add_one(
    kind: str, region: str, known: str, tmp_path: Path
) -> None:
    with pytest.raises(NoPrice) as refused:
        PriceTable().price(kind, region)
    assert known in str(refused.value.limit)
    # The remedy's own example, with a number in it, is such a file.
    example = refused.value.remedy.partition(": ")[2].partition("; AWS")[0].replace("USD_PER_HOUR", "1.5")
    (tmp_path / "mine.yaml").write_text(example)
    assert PriceTable(tmp_path / "mine.yaml").price(kind, region).usd_per_hour == 1.5


def test_a_file_of_ones_own_replaces_and_adds(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(MINE)
    table = PriceTable(tmp_path / "mine.yaml")
    assert table.price("ml.g5.xlarge", "eu-west-1").usd_per_hour == 1.1
    assert table.price("ml.g6.xlarge", "eu-west-1").source == "our contract"
    assert table.price("ml.m5.large", "eu-west-1") == PriceTable().price("ml.m5.large", "eu-west-1")


@pytest.mark.parametrize(
    "text",
    ["", "a: b", "[{source: x, prices: {}}]", MINE.replace("1.1", "-1"), MINE.replace("1.1", ".inf"), "[",
     MINE.replace("ml.g5", "g5"), MINE.replace("1.1", "cheap"),
     "[{source: x, as_of: 2026-01-01, prices: {}, more: 1}]"],
)  # fmt: skip
def test_a_file_that_is_no_table_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(Refused, match="cannot be read") as refused:
        PriceTable(tmp_path / "mine.yaml")
    assert not isinstance(refused.value, NoPrice)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="absent"):
        PriceTable(tmp_path / "absent.yaml")
