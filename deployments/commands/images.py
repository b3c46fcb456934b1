"""``slimline images``: AWS's own container images by region and version, and whether the vendored table and the
SageMaker SDK agree on them. JumpStart models by their id.
"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from deployments.commands.names import one_of
from deployments.commands.terminal import AsJson, Code, guarded, out, show_json, use_stack
from deployments.local.stack import stack_here
from tasks.errors import RefusedRequest

if TYPE_CHECKING:
    from tasks.adapters.engines import Environment
    from tasks.adapters.images import ImageKind

DEVICES: dict[str, tuple[str, ...]] = {
    "lmi": ("ml.g5.xlarge",),
    "huggingface": ("ml.m5.xlarge", "ml.g5.xlarge"),
    "neuron": ("ml.inf2.xlarge",),
}


def images(
    region: Annotated[str, typer.Option(help="AWS region")] = "us-east-1",
    kind: Annotated[
        str | None,
        typer.Option(
            help="lmi, huggingface or neuron (default: all)", autocompletion=one_of("lmi", "huggingface", "neuron")
        ),
    ] = None,
    sdk: Annotated[bool, typer.Option("--sdk", help="Ask the SageMaker SDK too, and compare")] = False,
    jumpstart: Annotated[str | None, typer.Option(help="Resolve this JumpStart model by the SDK instead")] = None,
    instance_type: Annotated[str, typer.Option(help="For --jumpstart (default: the model's own)")] = "",
    as_json: AsJson = False,
    aws: Annotated[
        bool, typer.Option("--aws", help="--jumpstart: AWS with your own credentials, not the stack")
    ] = False,
) -> None:
    """List the images that the vendored table knows; with --sdk, beside what AWS's SDK says.

    Exit code 3 when the two disagree.
    """
    with guarded(as_json):
        if jumpstart is not None:
            if not aws:
                use_stack(False, None)
            found = _jumpstart(jumpstart, region, instance_type)
            show_json(found) if as_json else _print_pairs(found)
            return
        rows = compare(region, kind, _environment() if sdk else None)
    if as_json:
        show_json(rows)
    else:
        _print_rows(rows)
    raise typer.Exit(Code.NO if any(row.get("agrees") is False for row in rows) else Code.DONE)


def compare(region: str, kind: str | None, environment: Environment | None) -> list[dict[str, Any]]:
    """One row an image of the vendored table; with an environment, the SDK's address of it and whether they agree.

    Raises:
        RefusedRequest: there is no such kind, or the table knows no image in this region.
    """
    from tasks.adapters.images import resolve_image, table
    from tasks.adapters.sagemaker_sdk import ImageAsk, sdk_images

    if kind is not None and kind not in DEVICES:
        raise RefusedRequest(
            "there is no such kind of image", observed=kind, limit=", ".join(DEVICES), remedy="choose one of these"
        )
    asks = [
        ImageAsk(each, region, version, device)
        for each in ([kind] if kind else DEVICES)
        for version in table()["images"][each]["versions"]
        for device in DEVICES[each]
    ]

    def vendored(ask: ImageAsk) -> str | None:
        name: ImageKind = ask.kind  # type: ignore[assignment]  # one of DEVICES
        try:
            return resolve_image(name, ask.region, ask.version, ask.instance_type)
        except RefusedRequest:
            return None

    rows: list[dict[str, Any]] = [dataclasses.asdict(ask) | {"image": vendored(ask)} for ask in asks]
    if environment is not None:
        for row, answer in zip(rows, sdk_images(environment, tuple(asks)), strict=True):
            row |= {"sdk": answer, "agrees": answer == row["image"]}
    return rows


def _environment() -> Environment:
    """The SDK's, where it is built."""
    from tasks.adapters.engines import find_environment
    from tasks.adapters.sagemaker_sdk import SDK

    home = stack_here(None).home / "engines"
    found = find_environment(SDK, home)
    if found is None:
        raise RefusedRequest(
            "the SageMaker SDK has no environment here", observed=f"none in {home}", limit="a built environment",
            remedy="slimline engines --build sagemaker",
        )  # fmt: skip
    return found


def _jumpstart(model_id: str, region: str, instance_type: str) -> dict[str, Any]:
    from tasks.adapters.sagemaker_sdk import ModelAsk, sdk_model

    return dataclasses.asdict(sdk_model(_environment(), ModelAsk(model_id, region, instance_type=instance_type)))


def _print_rows(rows: list[dict[str, Any]]) -> None:
    compared = "sdk" in rows[0]
    table = Table("kind", "version", "instances", "image", *(["SDK"] if compared else []))
    table.columns[3].overflow = "fold"  # an address is copied, whole
    for row in rows:
        said = ["agrees" if row["agrees"] else str(row["sdk"] or "knows none")] if compared else []
        table.add_row(row["kind"], row["version"], row["instance_type"], row["image"] or "–", *said)
    out.print(table)


def _print_pairs(found: dict[str, Any]) -> None:
    for name, value in found.items():
        out.print(f"{name}: {value if isinstance(value, str) else json.dumps(value)}")
