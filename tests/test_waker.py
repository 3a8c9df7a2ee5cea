"""What wakes another thread writes to a descriptor, which must be its own still."""

from __future__ import annotations

import select
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from conftest import linux
from peers import LONG, SHORT, Task
from pysock.waker import Waker


@pytest.fixture
def waker() -> Iterator[Waker]:
    waker = Waker()
    yield waker
    waker.close()


def is_awake(waker: Waker) -> bool:
    return bool(select.select([waker], [], [], 0)[0])


class Slow:
    """The end that is written to, with a pause before it is."""

    def __init__(self, sock: Any, pause: Any) -> None:
        self.sock, self.pause = sock, pause

    def send(self, data: bytes) -> int:
        self.pause()
        return int(self.sock.send(data))

    def close(self) -> None:
        self.sock.close()


def test_woken_until_it_is_calm(waker: Waker) -> None:
    assert not is_awake(waker)
    for _ in range(3):
        waker.wake()
    assert is_awake(waker)
    waker.calm()
    assert not is_awake(waker)


def test_woken_more_often_than_there_is_room_for(waker: Waker) -> None:
    for _ in range(100_000):
        waker.wake()
    waker.calm()
    assert not is_awake(waker)


def test_closed_one_is_not_woken(waker: Waker) -> None:
    waker.close()
    waker.wake()
    waker.calm()
    waker.close()
    assert waker.fileno() == -1


def test_it_is_not_closed_while_another_thread_writes_to_it(waker: Waker) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def pause() -> None:
        inside.set()
        assert go_on.wait(LONG)

    sock = waker._waking
    waker._waking = Slow(sock, pause)
    waking = Task(waker.wake)
    assert inside.wait(LONG)
    closing = Task(waker.close)
    time.sleep(SHORT)
    assert closing.is_alive() and sock.fileno() >= 0
    go_on.set()
    waking.finish()
    closing.finish()
    assert sock.fileno() == -1


@pytest.mark.parametrize("call", ["wake", "close"])
def test_handler_of_a_signal_may_come_while_it_is_woken(waker: Waker, call: str) -> None:
    slow = Slow(waker._waking, lambda: None)

    def handler() -> None:
        slow.pause = lambda: None
        getattr(waker, call)()

    slow.pause = handler
    waker._waking = slow
    Task(waker.wake).finish()
    assert (waker.fileno() == -1) == (call == "close")


@linux
@pytest.mark.thread_unsafe(reason="signals")
def test_signals_wake_it(waker: Waker) -> None:
    before = waker.wake_on_signals()
    earlier = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        signal.raise_signal(signal.SIGUSR1)
        assert is_awake(waker)
    finally:
        signal.signal(signal.SIGUSR1, earlier)
        assert signal.set_wakeup_fd(before) == waker._waking.fileno()
