"""What Slimline calls what it makes: variants, models and configs by their content, alarms after them, and tags.

Names come from content: the same version with the same settings has the same names, so asking twice creates once.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mypy_boto3_sagemaker.type_defs import TagTypeDef

VARIANT = "AllTraffic"
CHALLENGER = "challenger"  # the new model's variant in a trial
PREVIOUS, WANTED = "slimline:previous", "slimline:wanted"  # tags of a trial's config
ENDPOINT_NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")  # SageMaker's, and a variant's
_OWN = "slimline-own-"  # an InferenceId that begins so is of a request that no user has sent
_ENDPOINT_CHARS = 32  # of a model's or config's name, which AWS ends at 63
_MADE = re.compile(r"(.+)-(?:v[a-zA-Z0-9-]{1,12}-[0-9a-f]{12}(?:-(?:errors|latency|judge))?|scaling-[0-9a-f]{12})")


def content_name(endpoint: str, version: str, content: list[object]) -> str:
    """A name of at most 59 characters that the same request always has."""
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
    words = re.sub(r"[^a-zA-Z0-9]+", "-", f"{short_name(endpoint)}-v{version[:12]}").strip("-")
    return f"{words}-{digest}"


def is_name_of(endpoint: str, name: str) -> bool:
    """Whether ``content_name`` made ``name`` for this endpoint, or it is that of an alarm on such a config or of its
    autoscaling (``scaling_requests.scaling_name``).
    """
    found = _MADE.fullmatch(name)
    return found is not None and found[1] == short_name(endpoint)


def is_own_name(name: str) -> bool:
    """Whether ``content_name`` made ``name``, for whatever endpoint. The release role reads the tags of no others."""
    return _MADE.fullmatch(name) is not None


def own_inference() -> str:
    """An InferenceId for one request of Slimline's own, a rehearsal's or a probe: captures keep it, and unlike
    CustomAttributes no container sees it. Each is another one, for it pairs a shadow's answers too.
    """
    return f"{_OWN}{uuid.uuid4().hex}"


def is_own_inference(inference: object) -> bool:
    """Whether ``own_inference`` made what stands in a captured event as its inferenceId."""
    return isinstance(inference, str) and inference.startswith(_OWN)


def short_name(endpoint: str) -> str:
    """Two long names that begin alike stay two."""
    if len(endpoint) <= _ENDPOINT_CHARS:
        return endpoint
    digest = hashlib.sha256(endpoint.encode()).hexdigest()[:8]
    return f"{endpoint[: _ENDPOINT_CHARS - 9].rstrip('-')}-{digest}"


def tags_of(values: Mapping[str, str]) -> list[TagTypeDef]:
    return [{"Key": key, "Value": _tag(value)} for key, value in values.items()]


def _tag(value: str) -> str:
    # AWS allows letters, digits, spaces and _.:/=+-@ in a tag's value, at most 256 of them.
    return re.sub(r"[^\w\s.:/=+\-@]", "_", value)[:256]
