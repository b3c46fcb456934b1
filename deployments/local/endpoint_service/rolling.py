"""Rolling deployments: batches of the new fleet take over from as many instances of the old one.

As "Rolling Deployments" in the SageMaker developer guide has it: a batch is provisioned, takes its part of the traffic
and bakes; then as many instances of the old fleet end, so the endpoint never has fewer than before. An alarm in a bake,
or a batch that does not start, brings the old fleet back in batches of RollbackMaximumBatchSize (all of it if nothing
is said). If even that fails the endpoint is UpdateRollbackFailed and both fleets serve with what they have.
"""

from __future__ import annotations

from collections.abc import Iterator

from deployments.local.endpoint_service.clock import Clock
from deployments.local.endpoint_service.fleets import Fleet, FleetFailed
from deployments.local.endpoint_service.guard import Guard, RolledBack
from deployments.local.endpoint_service.rules import instances_of
from deployments.local.endpoint_service.state import IN_SERVICE, UPDATE_ROLLBACK_FAILED, Endpoint, Pending
from deployments.local.endpoint_service.wire import Json

_ALL: Json = {"Type": "CAPACITY_PERCENT", "Value": 100}


def batches(size: int, count: int) -> Iterator[int]:
    """How many instances of the new fleet there are after each batch: 2 of 5 gives 2, 4, 5."""
    yield from range(size, count, size)
    yield count


class Rolling:
    """One rolling deployment of ``green`` onto an endpoint whose ``blue`` fleet serves. Both have one variant."""

    def __init__(self, endpoint: Endpoint, green: Fleet, policy: Json, clock: Clock, guard: Guard) -> None:
        assert endpoint.blue is not None
        self._endpoint = endpoint
        self._blue = endpoint.blue
        self._green = green
        self._policy = policy
        self._clock = clock
        self._guard = guard
        (self._name,) = green.variants
        self._new, self._old = green.variants[self._name], self._blue.variants[self._name]
        self._before = len(self._old.workers)

    async def run(self) -> None:
        """Promote, or go back. Ends with the endpoint InService, or UpdateRollbackFailed."""
        endpoint, green = self._endpoint, self._green
        endpoint.green = green
        endpoint.pending = Pending(green, self._clock.now())
        try:
            await self._roll()
            self._guard.at_the_end()
        except (RolledBack, FleetFailed) as reason:
            self._guard.note(f"rolling back from {green.config.name}: {reason}")
            await self._return()
        else:
            endpoint.blue, endpoint.green, endpoint.config = green, None, green.config.name
            self._new.whole = None
            endpoint.retired.append(self._blue.summary())
            self._guard.note(f"{green.config.name} serves all traffic; {self._blue.config.name} is terminated")
            endpoint.status = IN_SERVICE
        endpoint.pending, endpoint.rolling, endpoint.returning = None, 0, False
        endpoint.modified = self._clock.now()

    async def _roll(self) -> None:
        count, wait = self._new.desired, float(self._policy["WaitIntervalInSeconds"])
        size = instances_of(self._policy["MaximumBatchSize"], count)
        if self._guard.inf1():
            size, wait = count, 0.0
        await self._green.prepare()
        for reached in batches(size, count):
            first = not self._new.workers
            self._guard.stage("Creating" if first else "Updating", f"Starting instances up to {reached} of {count}.")
            with self._guard.unscaled():
                await self._green.grow(self._name, reached)
            self._guard.stage("ActivatingTraffic", f"Activating traffic on {reached} of {count} instance(s).")
            self._share(new=reached, old=0 if reached == count else max(0, self._before - reached))
            self._guard.note(f"traffic on {self._green.config.name}: {reached}/{count} instance(s)")
            self._guard.stage(
                "Baking",
                f"Baking for {wait:.0f} seconds (WaitIntervalInSeconds) with traffic enabled on {reached} of {count} "
                "instance(s).",
            )
            await self._guard.bake(wait)
            self._guard.stage("Deleting", f"Terminating instances of {self._blue.config.name}.")
            await self._blue.shrink(self._name, self._old.active)

    async def _return(self) -> None:
        """Bring the old fleet back, batch by batch, while as much of the new one ends."""
        endpoint, count = self._endpoint, self._before
        endpoint.returning = True  # a service that comes back now brings the old fleet back
        size = instances_of(self._policy.get("RollbackMaximumBatchSize", _ALL), count)
        self._share(old=len(self._old.workers), new=count - len(self._old.workers))
        try:
            while (have := len(self._old.workers)) < count:
                self._guard.stage("Updating", f"Rolling back: {have} of {count} old instance(s) serve.")
                await self._blue.grow(self._name, min(count, have + size))
                have = len(self._old.workers)
                self._share(old=have, new=count - have)
                await self._green.shrink(self._name, self._new.active)
        except FleetFailed as error:
            self._failed(str(error))
            return
        self._guard.stage("Deleting", f"Terminating the instances of {self._green.config.name}.")
        endpoint.green, endpoint.leaving = None, [self._green]
        await self._green.retire()
        endpoint.leaving = []
        endpoint.retired.append(self._green.summary())
        endpoint.status = IN_SERVICE
        self._guard.note(f"rolled back: {count} instance(s) of {self._blue.config.name} serve all traffic")

    def _failed(self, why: str) -> None:
        endpoint = self._endpoint
        endpoint.green, endpoint.mixed = None, self._green
        endpoint.status, endpoint.failure = UPDATE_ROLLBACK_FAILED, f"The rollback failed: {why}"[:1024]
        self._guard.note(
            f"{endpoint.failure} {len(self._old.workers)} old and {len(self._new.workers)} new instance(s) serve."
        )

    def _share(self, old: int, new: int) -> None:
        """That many instances of each fleet take traffic: an instance of one as much as an instance of the other."""
        self._old.active = min(old, len(self._old.workers))
        self._new.active = max(0, min(new, len(self._new.workers)))
        self._new.whole = self._old.active + self._new.active
