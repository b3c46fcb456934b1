"""Clients that cannot live in our environment, against the endpoint service: ``python -m benchmarks.foreign_clients``.

sagemaker-core pins what we cannot have and brings 450 MB, so it gets an environment of its own below
``.slimline/engines``, built when it is first asked for, as other compression libraries do
(``tasks/adapters/engines.py``). Its script makes a model, two configurations and an endpoint, asks it, moves it to the
second configuration by canary, and deletes everything. The service is started for it, with a tiny model in the real
inference container.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3

from tasks.adapters import tiny_model
from tasks.adapters.children import run_child
from tasks.adapters.engine_kinds import Engine
from tasks.adapters.engines import build_environment, read_constraints
from tasks.settings import settings

HERE = Path(__file__).parent / "foreign"
CORE = Engine(
    name="sagemaker-core",
    packages=("sagemaker-core",),
    constraints=HERE / "sagemaker-core.txt",
    script=HERE / "sagemaker_core.py",
    check="import sagemaker.core.resources",
    gigabytes=0.45,
    variables={},
)
ACCESS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
REGION = "us-east-1"
IMAGE = f"123456789012.dkr.ecr.{REGION}.amazonaws.com/slimline-inference:0.1.0"
ROLE = "arn:aws:iam::123456789012:role/slimline-endpoint"


def main() -> None:
    parser = argparse.ArgumentParser(description="Run foreign clients against the endpoint service.")
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    parser.add_argument("--speed", type=float, default=60.0, help="of the service's clock")
    options = parser.parse_args()
    environment = build_environment(CORE, settings().engines)
    with tempfile.TemporaryDirectory(prefix="slimline-foreign-") as name:
        scratch = Path(name)
        with _service(scratch / "service", options.speed) as url:
            job = {"model": _model(scratch, url), "image": IMAGE, "role": ROLE, "report": str(scratch / "report.json")}
            (scratch / "job.json").write_text(json.dumps(job))
            variables = ACCESS | {"AWS_ENDPOINT_URL": url, "AWS_REGION": REGION, "AWS_DEFAULT_REGION": REGION}
            run_child(
                [environment.python, CORE.script, scratch / "job.json"],
                what="the scenario of sagemaker-core",
                log=scratch / "core.log",
                cwd=scratch,
                variables=variables | {"HOME": name},
                limit_s=900,
            )
        rows = json.loads(Path(job["report"]).read_text())
    client = f"sagemaker-core {read_constraints(CORE.constraints)['sagemaker-core']}"
    for row in rows:
        shown = json.dumps({"client": client, **row}) if options.json else f"{row['step']:38} {row['seconds']:7.2f} s  "
        print(shown if options.json else shown + row["seen"])


@contextmanager
def _service(data: Path, speed: float) -> Iterator[str]:
    """The endpoint service as a process of its own; its URL."""
    command = [sys.executable, "-m", "deployments.local.endpoint_service", "--port", "0", "--data", str(data)]
    process = subprocess.Popen([*command, "--speed", str(speed)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"http://\S+", line := process.stdout.readline())
        if found is None:
            raise SystemExit(f"the endpoint service did not start: {line!r}")
        yield found.group(0)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def _model(scratch: Path, url: str) -> str:
    """Write a tiny model and upload it; its S3 prefix."""
    (scratch / "tiny").mkdir()
    tiny_model.write(scratch / "tiny")
    client = boto3.client(
        "s3", endpoint_url=url, region_name=REGION, aws_access_key_id="test", aws_secret_access_key="test"
    )
    client.create_bucket(Bucket="foreign")
    for file in (scratch / "tiny").iterdir():
        client.upload_file(str(file), "foreign", f"tiny/{file.name}")
    return "s3://foreign/tiny/"


if __name__ == "__main__":
    main()
