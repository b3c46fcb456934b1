"""Which local program stands for a container image.

There is no container engine here, so an image name is mapped to a command that keeps SageMaker's container contract.
Slimline's own image runs its real program. Others must be mapped with ``--runtime NAME=COMMAND``; an image without a
program makes the endpoint Failed, never a made-up success.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable

OWN_IMAGE = "slimline-inference"
#: AWS's images whose model folders our own program can serve too. It stands in for them, and says so.
STAND_INS = {
    "djl-inference": "LMI (vLLM)",
    "huggingface-pytorch-inference": "the Hugging Face container",
    "huggingface-pytorch-tgi-inference": "Hugging Face's TGI",
}
_OWN_PROGRAM = (sys.executable, "-m", "tasks.serving.container", "serve")


class NoRuntime(Exception):
    """This stack has no program for the image."""


class Images:
    """Image name → command."""

    def __init__(self, runtimes: Iterable[str] = ()) -> None:
        """``runtimes``: ``NAME=COMMAND`` each, NAME an image's repository name without registry and tag."""
        self._commands: dict[str, tuple[str, ...]] = {OWN_IMAGE: _OWN_PROGRAM}
        for runtime in runtimes:
            name, equals, command = runtime.partition("=")
            if not name or not equals or not command.strip():
                raise ValueError(f"--runtime wants NAME=COMMAND, not {runtime!r}")
            self._commands[name] = tuple(shlex.split(command))

    def command(self, image: str) -> tuple[str, ...]:
        """The program for an image, by its repository name: ``<registry>/<path>/NAME:tag`` or ``NAME@digest``."""
        name = _repository(image)
        ours = OWN_IMAGE in name or name in STAND_INS
        found = self._commands.get(name) or (self._commands[OWN_IMAGE] if ours else None)
        if found is None:
            known = ", ".join(sorted(self._commands))
            raise NoRuntime(
                f"This stack has no runtime for the image {image}: it runs {known} as local processes. "
                f"Map it with --runtime {name}=COMMAND."
            )
        return found

    def stand_in(self, image: str) -> str:
        """A sentence where Slimline's own program runs in an AWS image's place; empty otherwise."""
        name = _repository(image)
        if name not in STAND_INS or name in self._commands:
            return ""
        return (
            f"Slimline's local engine, on this machine's CPU, stands in for {STAND_INS[name]} ({name}): its answers "
            "are the model's, its speed and memory are not that container's."
        )


def _repository(image: str) -> str:
    return image.partition("@")[0].rpartition("/")[2].partition(":")[0]
