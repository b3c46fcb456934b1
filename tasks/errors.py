"""Every error that Slimline raises on purpose.

    SlimlineError
    ├── Refused            bad input, seen before any work started
    │   ├── RefusedModel       unknown, unsupported or unsafe model
    │   ├── RefusedData        empty, unreadable or mismatched text
    │   ├── RefusedRecipe      a recipe that cannot work
    │   └── RefusedRequest     a request that SageMaker would reject or silently misread
    ├── DownloadFailed     a package could not be fetched; worth another try (adapters/packages.py)
    ├── EngineNotBuilt     pip could not install an engine's packages
    │   └── EngineUnreachable  a registry did not answer; worth another try
    ├── ArtifactDamaged    an artifact is missing or its bytes do not match its digest
    ├── GateFailed         the candidate does not answer like the original
    ├── BatchFailed        a transform job failed, or its answers are not whole
    │   └── BatchInterrupted   SageMaker's own fault; worth another try
    ├── NotReproduced      a version that was made again came out differently
    ├── ReleaseRestored    the canary was bad; the old version serves all traffic again
    └── ReleaseStuck       no verdict in the time allowed, or the endpoint is in a state we must not touch

A message has four parts: cause, observed, limit, remedy. None is optional: an error that cannot say what to do next
is not finished.
"""

from __future__ import annotations

import re

# torch raises a plain RuntimeError for the CPU, a subclass for a GPU.
_OUT_OF_MEMORY = re.compile(r"can't allocate memory|out of memory", re.IGNORECASE)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, as Python says it or as torch does."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None
    )


class SlimlineError(Exception):
    """Base class. ``str(error)`` reads as four short labelled lines. ``transient``: time may mend it, so a task may
    try again.
    """

    transient = False

    def __init__(self, cause: str, *, observed: object, limit: object, remedy: str) -> None:
        self.cause = cause
        self.observed = observed
        self.limit = limit
        self.remedy = remedy
        super().__init__(f"{cause}\n  observed: {observed}\n  limit:    {limit}\n  remedy:   {remedy}")

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions with keyword-only arguments do not survive a process boundary by themselves.
        return (_rebuild, (type(self), self.cause, self.observed, self.limit, self.remedy))


def _rebuild(kind: type[SlimlineError], cause: str, observed: object, limit: object, remedy: str) -> SlimlineError:
    return kind(cause, observed=observed, limit=limit, remedy=remedy)


class Refused(SlimlineError):
    """Bad input. Nothing was started and nothing was written."""


class RefusedModel(Refused):
    """The model is unknown, of an unsupported architecture, or asks for code of its own."""


class RefusedData(Refused):
    """The text is empty, unreadable, or too short for what was asked."""


class RefusedRecipe(Refused):
    """The recipe cannot work as written."""


class RefusedRequest(Refused):
    """SageMaker would refuse this request, or would silently do something else."""


class EngineNotBuilt(SlimlineError):
    """The environment of an engine could not be made. Nothing of it is left."""


class EngineUnreachable(EngineNotBuilt):
    """As above, because a server or the way to it failed."""

    transient = True


class ArtifactDamaged(SlimlineError):
    """An artifact is missing, or its bytes do not match its digest."""


class GateFailed(SlimlineError):
    """The candidate is outside the gate's limits. Nothing was registered."""


class BatchFailed(SlimlineError):
    """A transform job failed or was stopped, or a record has no answer."""


class BatchInterrupted(BatchFailed):
    """As above, by a fault of SageMaker's."""

    transient = True


class NotReproduced(SlimlineError):
    """A version that was made again has figures outside its bands."""


class ReleaseRestored(SlimlineError):
    """The new version was taken back; the previous one serves all traffic."""


class ReleaseStuck(SlimlineError):
    """The release cannot go on and cannot be judged."""
