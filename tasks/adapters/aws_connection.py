"""One way to call AWS, or the embedded stack: every request is checked before it leaves, every refusal has a name."""

from __future__ import annotations

import functools
import json
import re
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Any, Literal

import boto3
from botocore.config import Config
from botocore.session import Session as BotocoreSession

from tasks.adapters.sagemaker_errors import named_errors, no_region
from tasks.adapters.sagemaker_limits import check_request, service_models

Service = Literal[
    "sagemaker", "sagemaker-runtime", "cloudwatch", "s3", "application-autoscaling",
    "sts", "iam", "ecr", "service-quotas",
]  # fmt: skip
_ATTEMPTS = 6  # botocore's standard mode: exponential back-off with jitter, throttling and 5xx answers only


class Connection:
    """Clients of one region. Safe for several threads."""

    def __init__(self, region: str | None, endpoint_url: str | None) -> None:
        self.endpoint_url = endpoint_url.rstrip("/") if endpoint_url else None
        with named_errors("any call"):
            self._session = _session(region)
        if not self._session.region_name:
            raise no_region()
        self.region: str = self._session.region_name
        self._clients: dict[tuple[str, int], Any] = {}
        self._making = threading.Lock()  # making a client is not thread-safe in boto3

    def _client(self, service: str, attempts: int) -> Any:
        config = Config(
            retries={"mode": "standard", "total_max_attempts": attempts},
            connect_timeout=5,
            read_timeout=70,  # SageMaker cuts an inference at 60 s
            max_pool_connections=24,
            user_agent_extra="slimline",
        )
        with named_errors(f"{service}:*"):
            return self._session.client(service, endpoint_url=self.endpoint_url, config=config)  # type: ignore[call-overload]

    def client(self, service: Service, *, retry: bool = True) -> Any:
        """boto3's client of a service, made once."""
        key = (service, _ATTEMPTS if retry else 1)
        if key not in self._clients:
            with self._making:
                if key not in self._clients:
                    self._clients[key] = self._client(*key)
        return self._clients[key]

    def regions(self, partition: str) -> list[str]:
        """Where SageMaker is, as this botocore knows."""
        found: list[str] = self._session.get_available_regions("sagemaker", partition_name=partition)
        return found

    @property
    def place(self) -> str:
        """Where resources of this connection live; names are unique within it."""
        return f"{self.endpoint_url or 'aws'}/{self.region}"

    @property
    def s3(self) -> Any:
        """For transfers of several requests each; single requests go through ``call``."""
        return self.client("s3")

    def call(self, service: Service, operation: str, *, retry: bool = True, **params: Any) -> dict[str, Any]:
        """Make one request and return its answer.

        Raises:
            RefusedRequest: before anything leaves, when the request is outside AWS's limits.
            NoCredentials, AccessDenied: see ``named_errors``. Everything else is botocore's own error.
        """
        check_request(service, operation, params)
        client = self.client(service, retry=retry)
        with named_errors(f"{service.removesuffix('-runtime')}:{operation}"):
            answer: dict[str, Any] = getattr(client, _snake(operation))(**params)
        return answer

    def pages(self, service: Service, operation: str, key: str, **params: Any) -> Iterator[Any]:
        """Every item of a list operation that pages with NextToken."""
        token: dict[str, Any] = {}
        while True:
            answer = self.call(service, operation, **params, **token)
            yield from answer.get(key, [])
            if answer.get("NextToken") in (None, "", token.get("NextToken")):
                return  # the same token again would be the same page for ever
            token = {"NextToken": answer["NextToken"]}

    def now(self) -> float:
        """The service's own clock, seconds since 1970, from its Date header, whatever the clock here says."""
        return date_of(self.call("sagemaker", "ListEndpoints", MaxResults=1))

    @functools.cached_property
    def rehearsal_speed(self) -> float | None:
        """How many seconds of the embedded stack pass in one of ours; none on AWS (a VPC endpoint's URL is AWS too)."""
        if self.endpoint_url is None:
            return None
        try:
            with urllib.request.urlopen(f"{self.endpoint_url}/_slimline/info", timeout=10) as answer:
                return float(json.load(answer)["speed"])
        except urllib.error.HTTPError:
            return None
        except (KeyError, TypeError, ValueError):
            return None

    def stand_ins(self, endpoint: str) -> list[str]:
        """Of the embedded stack: a sentence for each image of the endpoint that another program stands in for."""
        url = f"{self.endpoint_url}/_slimline/fleets/{urllib.parse.quote(endpoint, safe='')}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                fleets = json.load(answer)["fleets"]
        except urllib.error.HTTPError:  # no such endpoint
            return []
        said = {variant["stand_in"] for fleet in fleets for variant in fleet["variants"].values()}
        return sorted(said - {""})


def _session(region: str | None) -> boto3.session.Session:
    core = BotocoreSession()
    core.register_component("data_loader", service_models())
    return boto3.session.Session(region_name=region, botocore_session=core)


def date_of(answer: dict[str, Any]) -> float:
    """When the service answered, by its own clock, seconds since 1970 (whole seconds)."""
    headers = answer["ResponseMetadata"]["HTTPHeaders"]
    return parsedate_to_datetime(headers["date"]).timestamp()


def _snake(operation: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", operation).lower()
