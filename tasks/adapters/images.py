"""AWS's own container images: their address by region and version, from a vendored table.

The table names its source and date. ``resolve_image`` is the only door: what the table does not know may be asked of
somebody else, such as the ``sagemaker`` SDK's image_uris in an environment of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from tasks.adapters.instances import instance
from tasks.errors import RefusedRequest

_TABLE = Path(__file__).with_name("tables") / "images.json"
ImageKind = Literal["lmi", "huggingface", "neuron"]
Ask = Callable[[ImageKind, str, str, str], str | None]  # kind, region, version, instance type → address, or none
# The CUDA version decides the driver that the instance needs: API_ProductionVariant, InferenceAmiVersion.
_AMIS = {"13.0": "al2023-ami-sagemaker-inference-gpu-4-1", "12.8": "al2-ami-sagemaker-inference-gpu-3-1"}


def resolve_image(kind: ImageKind, region: str, version: str, instance_type: str, ask: Ask | None = None) -> str:
    """``<account>.dkr.ecr.<region>.amazonaws.com/<repository>:<tag>`` of the image that ``instance_type`` runs.

    Args:
        ask: Asked where the table has no such version or region.

    Raises:
        RefusedRequest: nobody knows one.
    """
    found = _from_table(kind, region, version, instance_type)
    if found is None and ask is not None:
        found = ask(kind, region, version, instance_type)
    if found is None:
        rows: Mapping[str, Any] = table()["images"][kind]["versions"]
        known = f"versions {', '.join(rows)} in {len(table()['accounts'])} regions (table of {table()['date']})"
        raise RefusedRequest(
            f"no {kind} image is known for this region and version", observed=f"{version} in {region}", limit=known,
            remedy="choose one of those, or build the SageMaker SDK, which may: slimline engines --build sagemaker",
        )  # fmt: skip
    return found


def ami_of(image: str) -> str:
    """InferenceAmiVersion whose driver the image's CUDA needs; empty where SageMaker's default has it."""
    return next((ami for cuda, ami in _AMIS.items() if f"-cu{cuda.replace('.', '')}" in image), "")


def cuda_of(image: str) -> float:
    """CUDA's version in an image's tag; 0 where it names none."""
    tag = image.rpartition("-cu")[2][:3]
    return int(tag) / 10 if tag.isdigit() else 0.0


def repository(image: str) -> str:
    """The last part of an image's path, without registry, tag and digest."""
    return image.partition("@")[0].rpartition("/")[2].partition(":")[0]


def _from_table(kind: ImageKind, region: str, version: str, instance_type: str) -> str | None:
    image = table()["images"][kind]
    row, account = image["versions"].get(version), table()["accounts"].get(region)
    if row is None or account is None or region in row["not_in"]:
        return None
    device = "gpu" if instance(instance_type).device == "gpu" else "cpu"
    tag = row["tag"].format(device=device, system=row.get("systems", {}).get(device, ""))
    domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return f"{account}.dkr.ecr.{region}.{domain}/{image['repository']}:{tag}"


@lru_cache(maxsize=1)
def table() -> dict[str, Any]:
    """The vendored file."""
    found: dict[str, Any] = json.loads(_TABLE.read_text())
    return found
