"""Signals in the middle of a client's call, and clients on both sides of a fork."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import datagrams
from conftest import linux
from datagrams import stuff
from peers import LONG, PROMPT, SHORT, Task, asleep, background, run_python, until
from pysock import ConnectionClosed, DatagramClient

few_ends, receive = datagrams.few_ends, datagrams.receive
udp_ends, unix_ends = datagrams.udp_ends, datagrams.unix_ends

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals, fork")
# Not by SIGALRM: these tests have signals of their own.
pytestmark = pytest.mark.timeout(method="thread")


class Alarm(Exception):
    pass


# ------------------------------------------------------------ fork


@pytest.mark.case("S06")
@posix
def test_client_belongs_to_the_process_that_made_it(udp_ends):
    printed = run_python(
        """if True:
        import os, socket, pysock
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind(("127.0.0.1", 0))
            client = pysock.DatagramClient(peer.getsockname(), timeout=10)
            for number in range(9):
                peer.sendto(b"%d" % number, client.getsockname())
            while not client.pending:
                client.recv()
            pid = os.fork()
            if not pid:
                for call in (client.recv, client.recv_many, client.recvfrom, client.detach,
                             lambda: client.recv_into(bytearray(9)),
                             lambda: client.send(b""), lambda: client.send_many([b""]),
                             lambda: client.sendto(b"", peer.getsockname()),
                             lambda: client.request(b"")):
                    try:
                        call()
                    except RuntimeError as exc:
                        assert "made before the fork and belongs to the parent" in str(exc)
                    else:
                        os._exit(1)
                client.close()
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
            print(client.recv_many()[-1], client.send(b"x"), peer.recv(9))
            client.close()
        """
    )
    assert printed == "b'8' None b'x'\n"


@posix
def test_path_stays_when_a_child_closes_its_copy(tmp_path):
    printed = run_python(
        """if True:
        import os, sys, pysock
        with pysock.DatagramClient(bind=sys.argv[1]) as client:
            pid = os.fork()
            if not pid:
                client.close()
                os._exit(0)
            os.waitpid(pid, 0)
            print(os.path.exists(sys.argv[1]))
        print(os.path.exists(sys.argv[1]))
        """,
        str(tmp_path / "me"),
    )
    assert printed == "True\nFalse\n"


# ------------------------------------------------------------ signals


def signal_when_waiting(client: DatagramClient) -> Task:
    """Send this thread a signal once it waits for *client*."""
    before, main = sum(client.stats[3::4]), threading.get_ident()

    def send() -> None:
        until(lambda: sum(client.stats[3::4]) > before)
        time.sleep(SHORT)  # from counting the wait to sleeping
        signal.pthread_kill(main, signal.SIGUSR1)

    return Task(send)


@pytest.fixture
def on_signal() -> Any:
    """Set the handler of SIGUSR1."""
    before = signal.getsignal(signal.SIGUSR1)
    yield lambda handler: signal.signal(signal.SIGUSR1, handler)
    signal.signal(signal.SIGUSR1, before)


def raise_alarm(*_: object) -> None:
    raise Alarm


@pytest.mark.case("P11")
@posix
@pytest.mark.parametrize("timeout", [None, LONG])
def test_signal_while_waiting_goes_unnoticed(few_ends, receive, on_signal, timeout):
    client = few_ends.client
    client.timeout = timeout
    counted: list[int] = []
    on_signal(lambda *_: (counted.append(1), few_ends.say(b"x")))
    sending = signal_when_waiting(client)
    assert receive(client) == b"x"
    sending.finish()
    assert counted == [1]


@pytest.mark.case("P12")
@posix
def test_handler_that_raises_loses_no_datagram(few_ends, receive, on_signal):
    client = few_ends.client
    on_signal(lambda *_: (few_ends.say(b"first", b"second"), raise_alarm()))
    sending = signal_when_waiting(client)
    with pytest.raises(Alarm):
        receive(client)
    sending.finish()
    assert receive(client) == b"first"
    assert receive(client) == b"second"


@linux
@pytest.mark.parametrize("way", ["send", "sendto", "request", "send_many"])
def test_handler_that_raises_while_sending_sends_nothing(unix_ends, on_signal, way):
    client, name = unix_ends.client, unix_ends.peer.getsockname()
    held = stuff(client)
    calls: dict[str, Callable[[], Any]] = {
        "send": lambda: client.send(b"x"),
        "sendto": lambda: client.sendto(b"x", name),
        "request": lambda: client.request(b"x"),
        "send_many": lambda: client.send_many([b"x"]),
    }
    on_signal(raise_alarm)
    sending = signal_when_waiting(client)
    with pytest.raises(Alarm) as caught:
        calls[way]()
    sending.finish()
    if way == "send_many":
        assert caught.value.accepted == 0  # type: ignore[attr-defined]
    assert [unix_ends.hear() for _ in range(held)] == [b"stuffed"] * held
    client.send(b"next")
    assert unix_ends.hear() == b"next"


@pytest.mark.case("P11")
@posix
def test_storm_of_signals_loses_nothing_and_restarts_no_deadline(few_ends):
    client = few_ends.client
    counted: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda *_: counted.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        for number in range(100):
            few_ends.say(b"%d" % number)
            assert client.recv() == b"%d" % number
            client.send(b"%d" % number)
            assert few_ends.hear() == b"%d" % number
        client.timeout = 3 * SHORT
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            client.recv()
        assert time.monotonic() - began < PROMPT
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert counted


@posix
def test_handler_that_closes_ends_the_only_thread_s_receive():
    """A plain blocking receive knows of no descriptor that would wake it"""
    printed = run_python(
        """if True:
        import os, signal, pysock
        client = pysock.DatagramClient("udp://127.0.0.1:9")
        def close(*_):
            if client.closed:
                print("asleep", flush=True)
                os._exit(0)
            client.close()
        signal.signal(signal.SIGALRM, close)
        signal.setitimer(signal.ITIMER_REAL, 0.1, 0.5)
        try:
            client.recv()
        except pysock.ConnectionClosed:
            print("closed")
        """
    )
    assert printed == "closed\n"


@posix
def test_close_while_a_request_waits_behind_a_receiver(udp_ends, on_signal):
    """The request is held up by a signal, so that close() is first at the receiver's turn"""
    client, main = udp_ends.client, threading.get_ident()
    receiving = asleep(client, client.recv)
    client.timeout = 0
    closing: list[Task] = []

    def close(*_: object) -> None:
        closing.append(Task(client.close))
        receiving.join(LONG)
        closing[0].join(SHORT)

    def request_has_its_turn() -> bool:
        try:
            client.send(b"")
        except BlockingIOError:
            return True
        return False

    def interrupt() -> None:
        until(request_has_its_turn)
        time.sleep(SHORT)  # from there to the receiver's turn
        signal.pthread_kill(main, signal.SIGUSR1)

    on_signal(close)
    with background(interrupt):
        try:
            with pytest.raises(ConnectionClosed):
                client.request(b"?", timeout=PROMPT / 4)
        finally:
            until(lambda: closing)
            closing[0].finish()
    with pytest.raises(ConnectionClosed):
        receiving.finish()
