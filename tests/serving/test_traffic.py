from __future__ import annotations

import threading

import pytest

from tasks.serving.traffic import send_traffic


def test_it_ends_by_itself_and_counts_every_answer() -> None:
    lock, seen = threading.Lock(), []

    def send(prompt: str) -> int:
        with lock:
            seen.append(prompt)
            number = len(seen)
        if number % 4 == 0:
            raise ConnectionError("gone")
        return 500 if number % 4 == 1 else 200

    done = send_traffic(send, ["a", "b"], rate=40, stop=threading.Event(), max_seconds=0.5)
    assert done.sent == len(seen) == 20 - done.skipped
    assert done.ok == sum(number % 4 in (2, 3) for number in range(1, done.sent + 1))
    assert done.failed == done.sent - done.ok
    assert abs(seen.count("a") - seen.count("b")) <= 1 + done.skipped


def test_the_stop_event_ends_it() -> None:
    stop = threading.Event()

    def send(prompt: str) -> int:
        stop.set()
        return 200

    assert send_traffic(send, ["a"], rate=1, stop=stop, max_seconds=3600).sent == 1


def test_an_answer_that_hangs_neither_delays_nor_multiplies_the_others() -> None:
    release, lock, under_way, most = threading.Event(), threading.Lock(), 0, 0

    def send(prompt: str) -> int:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        release.wait(30)
        with lock:
            under_way -= 1
        return 200

    timer = threading.Timer(2.0, release.set)
    timer.start()
    done = send_traffic(send, ["a"], rate=50, stop=threading.Event(), max_seconds=0.5, max_under_way=3)
    timer.join()
    assert (done.sent, most) == (3, 3)
    assert done.skipped == 25 - 3


@pytest.mark.parametrize(
    ("prompts", "rate", "seconds"), [([], 1, 1), (["a"], 0, 1), (["a"], 51, 1), (["a"], 1, 0), (["a"], 1, 3601)]
)
def test_bounds(prompts: list[str], rate: float, seconds: float) -> None:
    with pytest.raises(ValueError, match=r"limit|limits"):
        send_traffic(lambda _: 200, prompts, rate, threading.Event(), seconds)
