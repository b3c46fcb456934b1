"""Cores and GPUs of SageMaker's instance types: CloudWatch counts their load in percent of one, added up.

Cores follow from the size's name: two for ``large``, four for ``xlarge``, 4 N for ``Nxlarge`` (EC2's instance types
page, https://aws.amazon.com/ec2/instance-types/, read 2026-11-27); what does not is listed. GPUs are listed: a family's
sizes share out its GPUs as they like.
"""

from __future__ import annotations

import re

_SIZE = re.compile(r"ml\.(?P<family>[a-z0-9-]+)\.(?P<size>medium|large|(?P<times>\d*)xlarge)")
_ODD_CORES = {"ml.c4.8xlarge": 36, "ml.t2.medium": 2, "ml.t3.medium": 2}
_GPU_FAMILY = re.compile(r"(?:g|gr|p)\d")
_ONE_GPU = {"g4dn", "g5", "g6", "g6e", "gr6", "p2", "p3", "p5"}
_SEVERAL_GPUS = {
    "p2": {8: 8, 16: 16},
    "p3": {8: 4, 16: 8},
    "p3dn": {24: 8},
    "p4d": {24: 8},
    "p4de": {24: 8},
    "p5": {48: 8},
    "p5e": {48: 8},
    "p5en": {48: 8},
    "g4dn": {12: 4},
    "g5": {12: 4, 24: 4, 48: 8},
    "g6": {12: 4, 24: 4, 48: 8},
    "g6e": {12: 4, 24: 4, 48: 8},
}


def cores(instance_type: str) -> int | None:
    """Virtual CPUs; none where the name does not tell."""
    if instance_type in _ODD_CORES:
        return _ODD_CORES[instance_type]
    found = _SIZE.fullmatch(instance_type)
    if found is None or found["size"] == "medium":
        return None
    return 2 if found["size"] == "large" else 4 * int(found["times"] or 1)


def gpus(instance_type: str) -> int | None:
    """NVIDIA GPUs; 0 of an instance that has none, none where the list does not know a GPU family's size."""
    found = _SIZE.fullmatch(instance_type)
    family = found["family"] if found else instance_type.removeprefix("ml.").partition(".")[0]
    if not _GPU_FAMILY.match(family):
        return 0
    size = int(found["times"] or 1) if found and found["times"] is not None else 0
    several = _SEVERAL_GPUS.get(family, {}).get(size)
    return several or (1 if size and family in _ONE_GPU else None)
