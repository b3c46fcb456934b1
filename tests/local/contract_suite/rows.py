"""Every operation of the service: at least one good call and one that is refused, with AWS's error code.

An operation that is added needs rows in one of these modules: the suite compares the table with what the running
service says it does. Rows run in order, against one ``World``.
"""

from __future__ import annotations

from tests.local.contract_suite import cloudwatch, runtime, sagemaker, scaling, transform
from tests.local.contract_suite.world import Row

ROWS: list[Row] = [*sagemaker.ROWS, *transform.ROWS, *cloudwatch.ROWS, *scaling.ROWS, *runtime.ROWS]
