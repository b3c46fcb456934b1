"""Several grids in one folder: some layers in 2 bits, others in 8.

In config.json each grid is a config group of compressed-tensors whose targets are the layers' names. Plain
``from_pretrained`` gives each layer the grid of its own group. ``CompressedTensorsConfig(dequantize=True)`` does not:
transformers 5.23 takes the first group's for every layer (``get_dense_scheme`` in ``integrations/compressed_tensors``)
and loads wrong weights without a word, so such a folder is loaded without it (``loading``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tasks.compression.packing import Packing
from tasks.errors import RefusedModel


class Grids(Protocol):
    """The grids of a folder's packed layers: one ``Packing`` for all, or a ``Mixed``."""

    def of(self, prefix: str) -> Packing: ...

    def to_config(self, ignore: tuple[str, ...] = ...) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Mixed:
    """A grid for each of a list of targets, a layer's full name or ``re:`` and a pattern, as compressed-tensors has it.

    Attributes:
        targets: the first one that names a layer decides; names before patterns.
    """

    targets: tuple[tuple[str, Packing], ...]

    @classmethod
    def by_layer(cls, packings: Mapping[str, Packing]) -> Mixed:
        """From each layer's own grid."""
        return cls(tuple(packings.items()))

    def __str__(self) -> str:
        return " and ".join(sorted({str(packing) for _, packing in self.targets}))

    def of(self, prefix: str) -> Packing:
        """The grid of a layer by its full name.

        Raises:
            RefusedModel: no target names it.
        """
        from compressed_tensors.utils.match import match_name

        for target, packing in sorted(self.targets, key=lambda pair: pair[0].startswith("re:")):
            if match_name(prefix, target):
                return packing
        raise RefusedModel(
            f"config.json does not say how {prefix} is packed",
            observed=f"{len(self.targets)} targets, none of them this layer",
            limit="a config group for every packed layer",
            remedy="quantize the original model again",
        )

    def to_config(self, ignore: tuple[str, ...] = ("lm_head",)) -> dict[str, Any]:
        """``quantization_config`` of config.json: a group for each different grid, least bits first."""
        grids = sorted({packing for _, packing in self.targets}, key=lambda packing: packing.bits)
        config = grids[0].to_config(ignore)
        groups = {}
        for number, grid in enumerate(grids):
            (group,) = grid.to_config(ignore)["config_groups"].values()
            names = [target for target, packing in self.targets if packing == grid]
            groups[f"group_{number}"] = group | {"targets": names}
        return config | {"config_groups": groups}


def read_grids(config: Mapping[str, Any]) -> Grids | None:
    """What a config.json says of its packed layers, or none when the folder is dense.

    Raises:
        RefusedModel: the folder is quantized in a format that is not read here.
    """
    quantized = config.get("quantization_config") or {}
    groups = quantized.get("config_groups") or {}
    if len(groups) < 2:
        return Packing.from_config(config)
    targets = []
    for name, group in groups.items():
        packing = Packing.from_config({"quantization_config": quantized | {"config_groups": {name: group}}})
        if packing is not None:
            targets += [(target, packing) for target in group.get("targets") or []]
    return Mixed(tuple(targets))
