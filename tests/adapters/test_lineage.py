"""``slimline lineage`` asked of an endpoint service: names that are nothing, and an endpoint whose version is gone."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from tasks.errors import RefusedRequest
from tasks.lineage import lineage_of
from tests.adapters.releasing import Desk, plan_of
from tests.tasks.test_data import home
from tests.tasks.test_news import address, books

__all__ = ["address", "books", "home"]  # fixtures
Books = tuple[MlflowClient, str]


@pytest.fixture
def asked(desk: Desk, books: Books, home: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv("AWS_ENDPOINT_URL", desk.url)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    return desk


def test_what_is_nothing_is_refused_with_what_there_is(asked: Desk, books: Books) -> None:
    """A whole digest, or a name with a space, cannot be an endpoint's: SageMaker is not asked about it."""
    for what in ("typo", "a" * 64, "no_such_name", "two `words`"):
        with pytest.raises(RefusedRequest, match="nothing is known of") as raised:
            lineage_of(what)
        assert books[1] in raised.value.remedy, "the models are named"


def test_an_endpoint_whose_version_was_deleted_is_shown_all_the_same(asked: Desk) -> None:
    config = asked.serve(plan_of("gone", "ALL_AT_ONCE"), "7")
    (found,) = lineage_of("gone")
    (variant,) = found.children
    assert (found.facts["status"], variant.title) == ("InService", f"{config} / AllTraffic")
    assert variant.facts["traffic"] == "100%"
    (version,) = variant.children
    assert version.title == "tiny/7" and version.deleted
