"""What a run that dies leaves on an endpoint is brought to the end that the release itself would have come to."""

from __future__ import annotations

import pytest

from tasks.adapters.sagemaker import SageMaker
from tasks.adapters.sagemaker_history import open_release
from tasks.approve import is_at_rest, take_no
from tasks.contracts import Approval, TrialStep
from tasks.deploy import ask_shift
from tasks.errors import ReleaseStuck
from tasks.following import End, follow_rollout, wait_until_serving
from tasks.plans import ReleasePlan
from tasks.restore import bring_to_rest, is_good, require_answer
from tasks.serving.canary import Verdict
from tasks.trial import finish_trial, start_trial
from tasks.watch import conclude
from tests.adapters.releasing import LENIENT, Desk, plan_of

NO = Approval(approved=False, reason="not on a Friday")


def dies_after_its_last_step(cloud: SageMaker, desk: Desk, plan: ReleasePlan) -> None:
    """A trial that the judge has promoted: its own config serves, nothing is settled or tidied."""
    asked = start_trial(cloud, desk.version("2"), plan)
    wait_until_serving(cloud, plan.endpoint)
    cloud.rollouts.finish_trial(asked)
    wait_until_serving(cloud, plan.endpoint)


def scale(cloud: SageMaker, endpoint: str, count: int) -> None:
    cloud._aws._client("sagemaker", 1).update_endpoint_weights_and_capacities(
        EndpointName=endpoint,
        DesiredWeightsAndCapacities=[{"VariantName": "AllTraffic", "DesiredInstanceCount": count}],
    )
    wait_until_serving(cloud, endpoint)


def instances(cloud: SageMaker, endpoint: str) -> tuple[str, int]:
    serving = cloud.serving(endpoint)
    assert serving is not None
    return serving.config, serving.instances


def test_a_trial_that_died_after_its_last_step_knows_what_to_go_back_to(desk: Desk) -> None:
    plan = plan_of("d-last", "WEIGHTS")
    first, good = desk.serve(plan), desk.cloud()
    asked = start_trial(good, desk.version("2"), plan)
    proven = TrialStep(percent=50, outcome="promoted", reason="", observations=())
    assert finish_trial(good, asked, desk.version("2"), plan, (proven,), None).phase == "promoted"
    history = good.history(plan.endpoint)
    assert (history.moving_from, history.proven_in) == (first, asked.trial_config)
    assert is_good(good, plan, history), "the trial has asked enough: its own config needs no requests of its own"
    good.rollouts.restore(plan.endpoint, first)
    wait_until_serving(good, plan.endpoint)
    good.close(plan.endpoint, None)

    bad = desk.cloud(ECHO_ERROR_SHARE="1")
    dies_after_its_last_step(bad, desk, plan)
    history = bad.history(plan.endpoint)
    assert not is_good(bad, plan, history)
    again = start_trial(bad, desk.version("2"), plan)
    assert (again.previous_config, again.trial_config, again.since) == (first, None, history.since)
    rollout = conclude(End(Verdict.PROMOTE, "", (), settled_on_new=True), again, desk.version("2"), plan, bad)
    assert (rollout.phase, rollout.config, rollout.previous_config) == ("restored", first, first)


def test_what_autoscaling_reached_survives_a_trials_end(desk: Desk) -> None:
    plan = plan_of("d-scaled", "SHADOW")
    cloud, first = desk.cloud(), desk.serve(plan)
    scale(cloud, plan.endpoint, 2)
    for wanted in (None, "2"):
        start_trial(cloud, desk.version("2"), plan)
        wait_until_serving(cloud, plan.endpoint)
        if wanted is None:
            cloud.rollouts.restore(plan.endpoint, first)
        else:
            first = cloud.rollouts.update(plan.endpoint, desk.version(wanted), plan.after_shadow)
        wait_until_serving(cloud, plan.endpoint)
        assert instances(cloud, plan.endpoint) == (first, 2)


def test_the_same_count_by_chance_is_kept_on_the_way_back(desk: Desk) -> None:
    plan = plan_of("d-chance", "ALL_AT_ONCE", bake_seconds=60)
    cloud, first = desk.cloud(), desk.serve(plan)
    scale(cloud, plan.endpoint, 2)
    cloud.rollouts.update(plan.endpoint, desk.version("2"), plan.model_copy(update={"instances": 2}))
    wait_until_serving(cloud, plan.endpoint)
    cloud.rollouts.restore(plan.endpoint, first)
    wait_until_serving(cloud, plan.endpoint)
    assert instances(cloud, plan.endpoint) == (first, 2)


def test_a_dead_guarded_release_is_judged_on_all_since_it_began(desk: Desk) -> None:
    """SageMaker moves everything meanwhile: the old version answers nothing any more, and what it did answer counts."""
    plan = plan_of("d-bake", "CANARY")
    cloud, first = desk.cloud(), desk.serve(plan)
    with desk.load(plan.endpoint):
        ask_shift(cloud, desk.version("2"), plan)  # and here it dies
        wait_until_serving(cloud, plan.endpoint)
        asked, history = ask_shift(cloud, desk.version("2"), plan), cloud.history(plan.endpoint)
        assert (asked.previous_config, asked.since) == (first, history.since)
        end = follow_rollout(cloud, asked, plan, lambda share, text: None)
    assert end.verdict is Verdict.PROMOTE and "no verdict" not in end.reason, end.reason
    assert end.seen[-1].at < plan.judge.patience_seconds, "at once, and not when patience is over"
    assert is_good(cloud, plan, history)
    strict = plan.model_copy(update={"min_requests": 100_000})
    assert not is_good(cloud, strict, history)
    assert not is_at_rest(cloud, desk.version("2"), plan)
    cloud.close(plan.endpoint, first)
    assert is_at_rest(cloud, desk.version("2"), plan), "nobody is asked about a champion, so nobody can refuse it"


def test_a_kill_does_not_promote_what_the_judge_would_take_back(desk: Desk) -> None:
    """Slow, and yet every alarm is well: SageMaker moves everything once the run has died."""
    plan = plan_of("d-slow", "CANARY", judge=LENIENT.model_copy(update={"promote": False}))
    cloud = desk.cloud(ECHO_SECONDS="0.4")
    first = desk.serve(plan)
    with desk.load(plan.endpoint, rate=20):
        ask_shift(cloud, desk.version("2"), plan)
        wait_until_serving(cloud, plan.endpoint)
    assert cloud.serving_config(plan.endpoint) != first
    assert cloud.probe(plan.endpoint, plan.probe_prompt)
    assert not is_good(cloud, plan, cloud.history(plan.endpoint))


@pytest.mark.parametrize("settled", [False, True])
def test_a_no_takes_back_what_a_dead_run_has_begun_to_move(desk: Desk, settled: bool) -> None:
    plan = plan_of(f"d-no-{settled}".lower(), "CANARY", bake_seconds=60 if settled else 1800)
    cloud, first, new = desk.cloud(), desk.serve(plan), desk.version("2")
    cloud.rollouts.update(plan.endpoint, new, plan)
    if settled:
        wait_until_serving(cloud, plan.endpoint)
        assert cloud.serving_config(plan.endpoint) != first
    assert not is_at_rest(cloud, new, plan), "a person is asked"
    rollout = take_no(cloud, new, plan, NO)
    serving = cloud.serving(plan.endpoint)
    assert serving is not None and (serving.config, serving.pending_config) == (first, None)
    assert (rollout.phase, rollout.config, rollout.previous_config) == ("restored", first, first)
    assert "not on a Friday" in rollout.reason


def test_a_version_that_does_not_answer_does_not_block_the_release_that_mends_it(desk: Desk) -> None:
    plan = plan_of("d-sick", "ALL_AT_ONCE")
    cloud = desk.cloud(ECHO_ERROR_SHARE="1")
    first = cloud.rollouts.create(plan.endpoint, desk.version("1"), plan)
    wait_until_serving(cloud, plan.endpoint)
    serving = cloud.serving(plan.endpoint)
    assert serving is not None
    open_release(cloud._aws, serving.arn, first, "never-asked-for", "run")  # and here it died
    settled = bring_to_rest(cloud, plan, back=False)
    assert (settled.action, settled.config, settled.answered) == ("kept", first, False)
    assert settled.probe.startswith("no answer")
    assert not cloud.history(plan.endpoint).open
    with pytest.raises(ReleaseStuck, match="does not answer"):
        require_answer(settled)
