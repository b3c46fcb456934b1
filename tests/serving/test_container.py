"""The inference container as SageMaker meets it: a real process, over HTTP."""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tasks.serving.options import Options
from tests.serving.tiny_folder import CONTEXT, write_tiny_folder

START_SECONDS = 240
SERVE = ("-m", "tasks.serving.container", "serve")
# The same program with SageMaker's 60 s for an answer made 0.3: too short for 1,500 tokens, whatever the machine.
IMPATIENT = """
import sys
from tasks.serving import container, worker
worker.RESPONSE_SECONDS = 0.3
sys.exit(container.main(["serve"]))
"""


@dataclass
class Running:
    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def ask(
        self, method: str, path: str, body: bytes | None = None, content_type: str = "application/json"
    ) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, {"Content-Type": content_type} if body is not None else {})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def invoke(self, inputs: Any, **parameters: Any) -> tuple[int, Any]:
        return self.ask("POST", "/invocations", json.dumps({"inputs": inputs, "parameters": parameters}).encode())

    def wait_ready(self) -> list[int]:
        """Every status that /ping gave until it was 200."""
        seen = []
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            try:
                seen.append(self.ask("GET", "/ping")[0])
            except ConnectionRefusedError:
                time.sleep(0.05)
                continue
            if seen[-1] == 200:
                return seen
            time.sleep(0.05)
        raise AssertionError(f"not ready: {self.log.read_text()}")


@contextmanager
def running(folder: Path, log: Path, program: Sequence[str] = SERVE, **variables: str) -> Iterator[Running]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLIMLINE_")} | {
        "SM_MODEL_DIR": str(folder), "SAGEMAKER_BIND_TO_PORT": str(port), "SLIMLINE_BIND_HOST": "127.0.0.1",
        "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0",
    } | variables  # fmt: skip
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, *program], env=environment, stdout=output, stderr=output)
    try:
        yield Running(process, port, log)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_folder(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(
        folder, tmp_path_factory.mktemp("log") / "log", SLIMLINE_MAX_NEW_TOKENS="1500", SLIMLINE_MAX_WAITING="1"
    ) as started:
        started.first_pings = started.wait_ready()  # type: ignore[attr-defined]
        yield started


def test_ping_is_503_until_the_model_has_generated(server: Running) -> None:
    pings = server.first_pings  # type: ignore[attr-defined]
    assert set(pings[:-1]) == {503}
    assert pings[-1] == 200


def test_an_answer_is_the_prompt_and_greedy_text(server: Running) -> None:
    status, first = server.invoke("hello", max_new_tokens=6)
    assert status == 200
    assert [set(item) for item in first] == [{"generated_text"}]
    assert first[0]["generated_text"].startswith("hello")
    assert server.invoke("hello", max_new_tokens=6) == (200, first)
    _, bare = server.invoke("hello", max_new_tokens=6, return_full_text=False)
    assert "hello" + bare[0]["generated_text"] == first[0]["generated_text"]


def test_a_batch_answers_each_prompt_as_if_alone(server: Running) -> None:
    prompts = ["a", "a much longer prompt", "three"]
    status, together = server.invoke(prompts, max_new_tokens=5)
    assert status == 200
    assert together == [server.invoke(prompt, max_new_tokens=5)[1][0] for prompt in prompts]


def test_sampling_is_repeatable_with_a_seed_and_differs_from_greedy(server: Running) -> None:
    _, greedy = server.invoke("hello", max_new_tokens=24)
    _, one = server.invoke("hello", max_new_tokens=24, temperature=2.0, seed=1)
    _, again = server.invoke("hello", max_new_tokens=24, temperature=2.0, seed=1)
    _, other = server.invoke("hello", max_new_tokens=24, temperature=2.0, seed=2)
    _, asked_greedy = server.invoke("hello", max_new_tokens=24, temperature=2.0, do_sample=False)
    assert one == again
    assert len({json.dumps(answer) for answer in (greedy, one, other)}) == 3
    assert asked_greedy == greedy


def test_stop_ends_before_the_stop_string(server: Running) -> None:
    _, whole = server.invoke("hello", max_new_tokens=24, return_full_text=False)
    text = whole[0]["generated_text"]
    stop = next(letter for letter in text[3:] if letter.isascii() and letter.isprintable())
    _, cut = server.invoke("hello", max_new_tokens=24, return_full_text=False, stop=[stop])
    assert cut[0]["generated_text"] == text[: text.index(stop)]


def streamed(server: Running, **parameters: Any) -> list[dict[str, Any]]:
    """The events of a streamed answer, which must come one by one."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    body = json.dumps({"inputs": "hello", "parameters": parameters, "stream": True}).encode()
    connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("Content-Type")) == (200, "text/event-stream")
    events = []
    while line := answer.readline():
        assert answer.readline() == b"\n"
        events.append(json.loads(line.removeprefix(b"data: ")))
    connection.close()
    return events


@pytest.mark.parametrize("full", [True, False])
def test_a_streamed_answer_is_the_whole_one_token_by_token(server: Running, full: bool) -> None:
    asked = {"max_new_tokens": 24, "return_full_text": full}
    _, whole = server.invoke("hello", **asked)
    *tokens, last = streamed(server, **asked)
    assert [event["index"] for event in tokens] == list(range(1, 25))
    assert {event["generated_text"] for event in tokens} == {None}
    assert last["generated_text"] == whole[0]["generated_text"]
    text = "".join(event["token"]["text"] for event in (*tokens, last))
    assert ("hello" if full else "") + text == last["generated_text"]
    assert last["details"] == {"finish_reason": "length", "generated_tokens": 24, "seed": None}


def test_a_streamed_answer_never_tells_the_stop_string(server: Running) -> None:
    _, whole = server.invoke("hello", max_new_tokens=24, return_full_text=False)
    text = whole[0]["generated_text"]
    stop = next(text[at : at + 2] for at in range(3, 22) if text[at : at + 2].isascii())
    events = streamed(server, max_new_tokens=24, return_full_text=False, stop=[stop])
    told = "".join(event["token"]["text"] for event in events)
    assert told == events[-1]["generated_text"] == text[: text.index(stop)]
    assert events[-1]["details"]["finish_reason"] == "stop_sequence"


def test_a_stream_begins_before_the_answer_is_complete_and_ends_with_its_client(server: Running) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    body = json.dumps({"inputs": "hello", "parameters": {"max_new_tokens": 1500}, "stream": True}).encode()
    connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert json.loads(answer.readline().removeprefix(b"data: "))["index"] == 1
    assert server.ask("GET", "/ping")[1]["generating"] is True
    connection.close()
    answer.close()
    deadline = time.monotonic() + 60
    while server.ask("GET", "/ping")[1]["generating"]:
        assert time.monotonic() < deadline


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "body"),
        (b"not json", "body"),
        (b"\xff\xfe", "body"),
        (b"[" * 100_000, "body"),
        (b"[]", "body"),
        (b'{"inputs": "a", "parameters": {"temperature": NaN}}', "body"),
        (b"{}", "inputs"),
        (b'{"inputs": ""}', "inputs"),
        (b'{"inputs": 3}', "inputs"),
        (b'{"inputs": []}', "inputs"),
        (b'{"inputs": ["a", 3]}', "inputs[1]"),
        (b'{"inputs": "\\ud800"}', "inputs"),
        (json.dumps({"inputs": ["a"] * 33}).encode(), "inputs"),
        (json.dumps({"inputs": "a" * CONTEXT}).encode(), "inputs"),
        (json.dumps({"inputs": "a" * (CONTEXT - 5)}).encode(), "parameters.max_new_tokens"),
        (b'{"inputs": "a", "parameters": []}', "parameters"),
        (b'{"inputs": "a", "parameters": {"max_new_tokens": 0}}', "parameters.max_new_tokens"),
        (b'{"inputs": "a", "parameters": {"max_new_tokens": 1501}}', "parameters.max_new_tokens"),
        (b'{"inputs": "a", "parameters": {"max_new_tokens": true}}', "parameters.max_new_tokens"),
        (b'{"inputs": "a", "parameters": {"temperature": 0}}', "parameters.temperature"),
        (b'{"inputs": "a", "parameters": {"top_p": 1.5}}', "parameters.top_p"),
        (b'{"inputs": "a", "parameters": {"do_sample": 1}}', "parameters.do_sample"),
        (b'{"inputs": "a", "parameters": {"stop": ""}}', "parameters.stop"),
        (b'{"inputs": "a", "parameters": {"top_k": 3}}', "parameters.top_k"),
        (b'{"inputs": "a", "stream": 1}', "stream"),
        (b'{"inputs": ["a", "b"], "stream": true}', "inputs"),
        (b'{"inputs": "a", "streams": true}', "streams"),
    ],
)
def test_bad_input_names_field_observed_and_limit(server: Running, body: bytes, field: str) -> None:
    status, answer = server.ask("POST", "/invocations", body)
    assert status == 400
    assert answer["error"]["field"] == field
    assert answer["error"]["observed"]
    assert answer["error"]["limit"]


def test_too_large_wrong_type_wrong_path(server: Running) -> None:
    large = json.dumps({"inputs": "a" * 6_291_456}).encode()
    status, answer = server.ask("POST", "/invocations", large)
    assert (status, answer["error"]["limit"]) == (413, "at most 6291456 bytes")
    assert server.ask("POST", "/invocations", b"a", content_type="text/csv")[0] == 415
    assert (
        server.ask("POST", "/invocations", b'{"inputs":"a"}', content_type="application/json; charset=utf-8")[0] == 200
    )
    assert server.ask("GET", "/invocations")[0] == 405
    assert server.ask("GET", "/")[0] == 404


def test_ping_answers_while_the_model_generates(server: Running) -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        answer = pool.submit(server.invoke, "hello", max_new_tokens=300)
        took = []
        while not answer.done():
            before = time.monotonic()
            assert server.ask("GET", "/ping")[0] == 200
            took.append(time.monotonic() - before)
        assert answer.result()[0] == 200
    # One thread for all would have answered a single ping, after the generation.
    assert len(took) > 5
    assert max(took) < 2, "SageMaker waits two seconds for a ping"


def test_a_full_queue_answers_503_with_its_limit(server: Running) -> None:
    gate = threading.Barrier(6)

    def one() -> tuple[int, Any]:
        gate.wait()
        return server.invoke("hello", max_new_tokens=300)

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        answers = [task.result() for task in [pool.submit(one) for _ in range(6)]]
    refused = [answer for status, answer in answers if status == 503]
    assert sorted(status for status, _ in answers)[:2] == [200, 200]
    assert len(refused) >= 1
    assert refused[0]["error"]["limit"] == "1 waiting requests"


def test_the_fault_share_is_exact_and_spread(folder: Path, tmp_path: Path) -> None:
    with running(folder, tmp_path / "log", SLIMLINE_FAULT_ERROR_SHARE="0.3") as server:
        server.wait_ready()
        statuses = [server.invoke("a", max_new_tokens=1)[0] for _ in range(20)]
        assert statuses.count(500) == 6
        assert [statuses[:10].count(500), statuses[10:].count(500)] == [3, 3]
        assert "REHEARSAL FAULT ON" in server.log.read_text()
        assert server.ask("GET", "/ping")[0] == 200


def test_sigterm_answers_what_is_under_way_and_exits_with_0(folder: Path, tmp_path: Path) -> None:
    with running(folder, tmp_path / "log", SLIMLINE_MAX_NEW_TOKENS="1500") as server:
        server.wait_ready()
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            answer = pool.submit(server.invoke, "hello", max_new_tokens=400)
            while server.ask("GET", "/ping")[1].get("generating") is not True and not answer.done():
                time.sleep(0.005)
            assert not answer.done()
            server.process.send_signal(signal.SIGTERM)
            assert answer.result()[0] == 200
        assert server.process.wait(30) == 0, server.log.read_text()


def test_sigterm_ends_it_within_thirty_seconds_whatever_is_under_way(folder: Path, tmp_path: Path) -> None:
    """More than it can answer by then: SageMaker would kill it, and an answer that is half told with it."""
    with running(folder, tmp_path / "log", SLIMLINE_MAX_NEW_TOKENS="1500") as server:
        server.wait_ready()
        with concurrent.futures.ThreadPoolExecutor(24) as pool:
            asked = [pool.submit(server.invoke, "hello", max_new_tokens=1500) for _ in range(24)]
            while server.ask("GET", "/ping")[1].get("generating") is not True:
                time.sleep(0.01)
            before = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(35) == 0, server.log.read_text()
            took = time.monotonic() - before
            ends = [each.exception() or each.result()[0] for each in asked]
        assert took < 30
        assert ends.count(200) >= 1, "what could be answered was"


def test_an_answer_that_sagemaker_would_no_longer_take_is_given_up(folder: Path, tmp_path: Path) -> None:
    """And the model is free for the next request."""
    with running(folder, tmp_path / "log", ("-c", IMPATIENT), SLIMLINE_MAX_NEW_TOKENS="1500") as server:
        server.wait_ready()
        before = time.monotonic()
        status, answer = server.invoke("hello", max_new_tokens=1500)
        assert (status, time.monotonic() - before < 10) == (500, True), answer
        assert server.ask("GET", "/ping")[0] == 200
        # A machine with other work may be late once.
        assert 200 in [server.invoke("hello", max_new_tokens=1)[0] for _ in range(3)]


def test_without_settings_it_is_where_sagemaker_looks_for_it() -> None:
    found = Options.read({})
    assert (found.host, found.port, found.model_dir) == ("0.0.0.0", 8080, Path("/opt/ml/model"))


@pytest.mark.parametrize("arguments", [["train"], []])
def test_it_is_started_with_serve_and_with_nothing_else(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "tasks.serving.container", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and "limit: serve" in done.stderr


@pytest.mark.parametrize("damage", ["no folder", "no config", "cut weights"])
def test_a_folder_that_cannot_load_ends_the_process_with_the_reason(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "model"
    if damage != "no folder":
        write_tiny_folder(folder)
    if damage == "no config":
        (folder / "config.json").unlink()
    if damage == "cut weights":
        weights = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with running(folder, tmp_path / "log") as server:
        pings = set()
        while server.process.poll() is None:
            try:
                pings.add(server.ask("GET", "/ping")[0])
            except (ConnectionError, http.client.HTTPException):
                time.sleep(0.02)
        assert server.process.returncode == 1
        assert pings <= {503}
        assert "did not load" in server.log.read_text()


@pytest.mark.parametrize(
    ("name", "value"),
    [("SAGEMAKER_BIND_TO_PORT", "0"), ("SLIMLINE_FAULT_ERROR_SHARE", "1.5"), ("SLIMLINE_THREADS", "many")],
)
def test_a_bad_setting_is_refused_at_start(folder: Path, tmp_path: Path, name: str, value: str) -> None:
    with running(folder, tmp_path / "log", **{name: value}) as server:
        assert server.process.wait(60) == 2
        assert name in server.log.read_text()
