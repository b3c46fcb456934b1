"""What an hour of an instance of SageMaker real-time hosting costs: a vendored table, and a file that overrides it.

``prices.yaml`` is a list of sheets, each with its source and date; the override has the same form and comes last.
What stands in no sheet has no price: nothing is interpolated between sizes, families or regions. AWS's own list is
https://pricing.us-east-1.amazonaws.com/offers/v1.0/aws/AmazonSageMaker/current/REGION/index.json, entries with
``component`` Hosting.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from tasks.contracts import Price
from tasks.errors import Refused

TABLE = Path(__file__).with_name("prices.yaml")
REGION = "us-east-1"  # priced where no region is set

_Dollars = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_InstanceType = Annotated[str, Field(pattern=r"^ml\.[a-z0-9-]+\.[a-z0-9]+$")]


class NoPrice(Refused):
    """The table has no price for this instance type in this region. None is made up."""


class _Sheet(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(min_length=1)
    as_of: date
    quoted: bool = False
    prices: dict[str, dict[_InstanceType, _Dollars]]


_SHEETS = TypeAdapter(list[_Sheet])


class PriceTable:
    """Prices by region and instance type."""

    def __init__(self, override: Path | None = None) -> None:
        """
        Args:
            override: a file of the same form as ``prices.yaml``; what it names replaces what is vendored.

        Raises:
            Refused: it cannot be read, or is not of that form.
        """
        self._prices: dict[tuple[str, str], Price] = {}
        for path in (TABLE, *([override] if override else [])):
            for sheet in _read(path):
                self._add(sheet)

    def price(self, instance_type: str, region: str | None) -> Price:
        """The price of one instance for one hour; of ``REGION`` where none is set.

        Raises:
            NoPrice: says which types of the region have one, and how to add this one.
        """
        where = region or REGION
        found = self._prices.get((where, instance_type))
        if found is not None:
            return found
        known = sorted(kind for place, kind in self._prices if place == where)
        raise NoPrice(
            f"there is no price for {instance_type} in {where}",
            observed=f"{instance_type}, {where}",
            limit=", ".join(known) or f"regions {', '.join(sorted({place for place, _ in self._prices}))}",
            remedy="name a file with it in SLIMLINE_PRICES: "
            f"[{{source: WHERE, as_of: {date(2026, 1, 31)}, prices: {{{where}: {{{instance_type}: USD_PER_HOUR}}}}}}]; "
            "AWS publishes it at https://aws.amazon.com/sagemaker-ai/pricing/",
        )

    def all(self) -> tuple[Price, ...]:
        """Every price, by region and type."""
        return tuple(self._prices[key] for key in sorted(self._prices))

    def _add(self, sheet: _Sheet) -> None:
        for region, prices in sheet.prices.items():
            for kind, dollars in prices.items():
                self._prices[region, kind] = Price(
                    instance_type=kind,
                    region=region,
                    usd_per_hour=dollars,
                    as_of=sheet.as_of.isoformat(),
                    source=sheet.source,
                    quoted=sheet.quoted,
                )


def _read(path: Path) -> list[_Sheet]:
    try:
        return _SHEETS.validate_python(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as error:
        raise Refused(
            "the table of prices cannot be read",
            observed=f"{path}: {' '.join(str(error).split())[:300]}",
            limit="a YAML list of sheets: source, as_of (a date) and prices by region and ml. instance type, above 0",
            remedy="mend the file that SLIMLINE_PRICES names; tasks/adapters/prices.yaml is an example",
        ) from error
