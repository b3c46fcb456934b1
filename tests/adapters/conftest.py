from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.adapters.releasing import SPEED, Desk
from tests.local.stack import Service


@pytest.fixture(scope="module")
def credentials() -> Iterator[None]:
    """The embedded stack's, whatever this machine has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "embedded")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "embedded")
        patch.delenv("AWS_ENDPOINT_URL", raising=False)
        patch.delenv("AWS_PROFILE", raising=False)
        yield


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, credentials: None) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("desk")
    service = Service(folder / "service", "--speed", str(SPEED), "--max-instances", "64")
    yield Desk(service.url, folder)
    service.stop()
