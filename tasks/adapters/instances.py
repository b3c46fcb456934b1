"""Instance types with accelerators, from a vendored table; those without, by the rule of their names.

https://aws.amazon.com/sagemaker/pricing/ and https://aws.amazon.com/ec2/instance-types/.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

_TABLE = Path(__file__).with_name("tables") / "instances.json"
_NAME = re.compile(r"ml\.([a-z]+)(\d)([a-z-]*\d*)\.(\d*)(large|xlarge|medium)")
_GIB_A_VCPU = {"c": 2, "m": 4, "r": 8, "t": 4}
NVIDIA, NEURON = ("g", "p"), ("inf", "trn")

Device = Literal["cpu", "gpu", "neuron", "unknown"]


@dataclass(frozen=True)
class Instance:
    """One instance type. ``memory`` is bytes of one accelerator, ``host`` of the machine, ``store`` of local NVMe.

    0 is: not known, or none. ``capability`` is CUDA's; ``cores`` are NeuronCores of the whole instance.
    """

    name: str
    device: Device
    accelerator: str = ""
    count: int = 0
    memory: int = 0
    capability: float = 0.0
    cores: int = 0
    host: int = 0
    store: int = 0

    @property
    def inf1(self) -> bool:
        """First-generation Inferentia: no Neuron 2 software, no guardrails."""
        return self.name.startswith("ml.inf1.")


def instance(name: str) -> Instance:
    """What is known of an instance type; device ``unknown`` where its name is none of SageMaker's."""
    found = instances().get(name)
    if found is not None:
        return found
    parts = _NAME.fullmatch(name)
    if parts is None:
        return Instance(name, "unknown")
    family, _, _, times, size = parts.groups()
    if family in NVIDIA or family in NEURON:
        return Instance(name, "gpu" if family in NVIDIA else "neuron")
    vcpus = {"medium": 1, "large": 2}.get(size, 4 * int(times or 1))
    return Instance(name, "cpu", host=vcpus * _GIB_A_VCPU.get(family, 0) << 30)


@lru_cache(maxsize=1)
def instances() -> Mapping[str, Instance]:
    """Every instance type of the table, smallest first within a family."""
    table = json.loads(_TABLE.read_text())["instances"]
    return {
        name: Instance(
            name,
            "neuron" if "cores" in row else "gpu",
            accelerator=row["accelerator"],
            count=row["count"],
            memory=row["memory_mib"] << 20,
            capability=row["capability"],
            cores=row.get("cores", 0),
            host=row["host_gib"] << 30,
            store=row["store_gb"] * 10**9,
        )
        for name, row in table.items()
    }
