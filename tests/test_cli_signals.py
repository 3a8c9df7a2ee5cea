"""Signals as the verbs of remote commands hear them."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from peers import Task
from programs import LIMIT
from pysock.cli.signals import Handlers, Interrupts, Signals

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGURG"), reason="signals of POSIX")


class Woken(Exception):
    """What the main thread was waiting for has come."""


def raise_woken(*_: object) -> None:
    raise Woken


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A connection on which nothing comes."""
    one, other = socket.socketpair()
    with one, other:
        one.settimeout(LIMIT)
        yield one


def wait_while(silent: socket.socket, happens: Callable[[], object]) -> None:
    """Wait on a connection; meanwhile something happens in a thread of its own.

    A signal that comes there interrupts no call of the main thread: to that one it is as
    if it came just before it began to wait.
    """
    go = threading.Event()
    task = Task(lambda: go.wait(LIMIT) and happens())
    try:
        go.set()
        silent.recv(1)
    finally:
        task.finish()


def send_here(number: int) -> None:
    signal.pthread_kill(threading.get_ident(), number)


def test_signal_that_came_just_before_a_wait_is_handled(silent):
    with Signals() as signals:
        signals.handle("SIGUSR1", raise_woken)
        with pytest.raises(Woken):
            wait_while(silent, lambda: send_here(signal.SIGUSR1))


def test_exception_is_thrown_at_a_main_thread_that_waits(silent):
    with Signals() as signals, pytest.raises(Woken):
        wait_while(silent, lambda: signals.throw(Woken()))


def test_numbers_are_told_and_handlers_are_back():
    before = signal.getsignal(signal.SIGUSR1)
    told: list[int] = []
    both = threading.Event()

    def hear(number: int) -> None:
        told.append(number)
        if {signal.SIGUSR1, signal.SIGUSR2} <= set(told):
            both.set()

    with Signals(hear) as signals:
        for name in ("SIGUSR1", "SIGUSR2"):
            signals.handle(name)
            os.kill(os.getpid(), signal.Signals[name])
        assert both.wait(LIMIT)
    assert sorted(told) == sorted([signal.SIGUSR1, signal.SIGUSR2])
    assert signal.getsignal(signal.SIGUSR1) is before
    assert signal.getsignal(signal.SIGURG) is signal.SIG_DFL
    fd = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(fd)
    assert fd == -1


def test_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        handlers = Handlers()
        handlers.set("SIGUSR1", raise_woken)
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
        handlers.restore()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_interrupt_before_there_is_a_command_is_raised(silent):
    with Interrupts(most=3), pytest.raises(KeyboardInterrupt):
        wait_while(silent, lambda: send_here(signal.SIGINT))
