"""Deployment steps in whole instances, and where a request goes. No processes."""

from __future__ import annotations

import pytest

from deployments.local.endpoint_service.clock import Clock
from deployments.local.endpoint_service.images import Images, NoRuntime
from deployments.local.endpoint_service.modeldata import NoModelData, _inside, split
from deployments.local.endpoint_service.rolling import batches
from deployments.local.endpoint_service.rollout import plan
from deployments.local.endpoint_service.rules import deployment, instances_of
from deployments.local.endpoint_service.wire import AwsError
from tests.local.stack import canary, policy, rolling


def linear(value: int, kind: str = "CAPACITY_PERCENT") -> dict:  # type: ignore[type-arg]
    step = {"Type": kind, "Value": value}
    return policy({"Type": "LINEAR", "WaitIntervalInSeconds": 30, "LinearStepSize": step}, end=60)


def steps(config: dict, **counts: int) -> list[tuple[dict[str, int], float]]:  # type: ignore[type-arg]
    return [(dict(step.active), step.seconds) for step in plan(config["BlueGreenUpdatePolicy"], counts)]


def test_canary_bakes_then_everything_moves() -> None:
    assert steps(canary(25, wait=120, end=60), main=4) == [({"main": 1}, 120), ({"main": 4}, 60)]


def test_linear_moves_in_equal_steps_and_a_smaller_last_one() -> None:
    assert steps(linear(2, "INSTANCE_COUNT"), main=5) == [({"main": 2}, 30), ({"main": 4}, 30), ({"main": 5}, 60)]


def test_linear_with_unequal_variants_ends_with_all() -> None:
    found = steps(linear(50), a=4, b=2)
    assert found == [({"a": 2, "b": 1}, 30), ({"a": 4, "b": 2}, 60)]


def test_all_at_once_is_one_step() -> None:
    assert steps(policy({"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": 5}, end=9), main=3) == [({"main": 3}, 9)]


def test_inf1_falls_back_to_all_at_once_without_a_bake() -> None:
    found = plan(canary(25)["BlueGreenUpdatePolicy"], {"main": 4}, inf1=True)
    assert [(step.active, step.seconds) for step in found] == [({"main": 4}, 0.0)]


@pytest.mark.parametrize(
    ("percent", "count", "instances"), [(25, 4, 1), (50, 3, 1), (10, 3, 1), (50, 10, 5), (33, 10, 3)]
)
def test_percent_is_cut_to_whole_instances(percent: int, count: int, instances: int) -> None:
    assert instances_of({"Type": "CAPACITY_PERCENT", "Value": percent}, count) == instances


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (canary(60), 10),
        (canary(3, "INSTANCE_COUNT"), 5),
        (canary(50), 1),  # a one-instance endpoint has no canary
        (linear(9), 20),
        (linear(51), 20),
        (linear(1, "INSTANCE_COUNT"), 20),
        (policy({"Type": "CANARY", "WaitIntervalInSeconds": 1}), 4),
        (
            policy(
                {
                    "Type": "ALL_AT_ONCE",
                    "WaitIntervalInSeconds": 1,
                    "CanarySize": {"Type": "INSTANCE_COUNT", "Value": 1},
                }
            ),
            4,
        ),
        ({"AutoRollbackConfiguration": {"Alarms": []}}, 4),
        (rolling(51, "CAPACITY_PERCENT"), 20),
        (rolling(1), 1),  # a one-instance endpoint has no batch of at most half
        (rolling(1), 21),  # less than 5 percent
    ],
)
def test_impossible_policies_are_refused(config: dict, count: int) -> None:  # type: ignore[type-arg]
    with pytest.raises(AwsError) as refused:
        deployment(config, {"main": count})
    assert refused.value.code == "ValidationException"


@pytest.mark.parametrize(("size", "count", "reached"), [(2, 4, [2, 4]), (2, 5, [2, 4, 5]), (1, 2, [1, 2]), (4, 4, [4])])
def test_batches_end_with_the_whole_fleet(size: int, count: int, reached: list[int]) -> None:
    assert list(batches(size, count)) == reached


def test_the_clock_runs_n_times_as_fast() -> None:
    wall = iter([100.0, 101.5])
    assert Clock(60, start=1_000.0, monotonic=lambda: next(wall)).now() == 1_090.0


def test_images_map_to_programs_and_nothing_is_made_up() -> None:
    images = Images(["echo=python echo.py --x 'a b'"])
    assert images.command("registry.example:5000/team/echo:1") == ("python", "echo.py", "--x", "a b")
    assert images.command("123.dkr.ecr.eu-west-1.amazonaws.com/slimline-inference:0.1.0")[-1] == "serve"
    assert images.command("my-slimline-inference@sha256:00")[-1] == "serve"
    with pytest.raises(NoRuntime, match="triton-server"):
        images.command("763104351884.dkr.ecr.us-east-1.amazonaws.com/triton-server:24.09")


@pytest.mark.parametrize("key", ["../out", "a/../../out", "", "."])
def test_object_keys_cannot_climb_out_of_the_model_folder(tmp_path, key: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(NoModelData):
        _inside(tmp_path, key)


def test_model_data_must_be_in_s3() -> None:
    assert split("s3://bucket/a/b%20c") == ("bucket", "a/b c")
    with pytest.raises(NoModelData):
        split("https://example.com/model.tar.gz")
