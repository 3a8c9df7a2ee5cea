"""Both ends of what multiprocessing.connection speaks: who holds up whom, and who fails."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest

import pysock
from gate import warnings_in
from mp_ends import refuses, refusing
from peers import LONG, SHORT, Task, background, until
from proofs import KEY, OTHER_KEY
from pysock import AuthenticationError, formats, mpconnection
from pysock.interop import Client, Listener, MultiprocessingSession

MIB = 1 << 20

# ------------------------------------------------------------ two of ours


@pytest.fixture(params=[None, KEY], ids=["no key", "key"])
def key(request: pytest.FixtureRequest) -> bytes | None:
    return request.param


def calling(listener: Any, **options: Any) -> Task:
    """A client in a thread; it asks once and returns the reply."""

    def ask() -> bytes:
        with Client(
            listener.address, **{"authkey": KEY, "timeout": LONG, **options}
        ) as client:
            return client.request(b"x")

    return Task(ask)


def answered(listener: Listener) -> None:
    """Accept a client and answer it."""
    with listener.accept(LONG) as connection:
        connection.send(connection.recv().upper())


def test_messages_go_both_ways(key, tmp_path):
    unix_too = [tmp_path / "s"] if hasattr(socket, "AF_UNIX") else []
    for address in ("127.0.0.1:0", *unix_too):
        with Listener(address, authkey=key) as listener:
            task = calling(listener, authkey=key)
            answered(listener)
            assert task.finish() == b"X"
    assert not (tmp_path / "s").exists()


def test_what_the_connections_are_made_with(key):
    small = formats.MULTIPROCESSING.replace(max_frame=1000)
    options: Any = {"authkey": key, "framing": small, "linger": 1.5}
    with Listener("127.0.0.1:0", timeout=3, keepalive=(9, 9, 9), **options) as listener:
        task = Task(lambda: Client(listener.address, timeout=7, **options))
        with listener.accept(LONG) as connection, task.finish() as client:
            assert (connection.framing, client.framing) == (small, small)
            assert (connection.timeout, client.timeout) == (3, 7)
            assert (connection.linger, client.linger) == (1.5, 1.5)
            assert (connection.keepalive, client.keepalive) == ((9, 9, 9), None)


def test_message_that_comes_with_the_last_of_the_proof(monkeypatch):
    large = bytes(MIB)
    send = pysock.Connection.send

    def both(self: pysock.Connection, message: bytes) -> None:
        if message == b"#WELCOME#" and self.timeout:  # the client's, which waits
            assert self.framing.max_frame == 256
            kept, self.framing = self.framing, pysock.Raw()
            send(self, kept.encode(message) + formats.MULTIPROCESSING.encode(large))
            self.framing = kept
        else:
            send(self, message)

    monkeypatch.setattr(pysock.Connection, "send", both)
    with Listener("127.0.0.1:0", authkey=KEY) as listener:
        task = Task(lambda: Client(listener.address, authkey=KEY))
        with listener.accept(LONG) as connection, task.finish():
            assert connection.recv() == large


# ------------------------------------------------------------ who holds nobody up


@contextlib.contextmanager
def silent(listener: Any, count: int = 1) -> Iterator[list[socket.socket]]:
    """Clients that send nothing."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(socket.create_connection(listener.address, LONG))
            for _ in range(count)
        ]


def test_silent_client_holds_up_nobody():
    with Listener("127.0.0.1:0", authkey=KEY) as listener, silent(listener, 5):
        for _ in range(2):
            task = calling(listener)
            answered(listener)
            assert task.finish() == b"X"


def test_silent_client_is_dropped_in_time(caplog):
    with (
        refusing(authkey=KEY, handshake_timeout=SHORT) as listener,
        silent(listener) as (client,),
    ):
        assert len(client.recv(99)) == 63  # the challenge
        assert client.recv(99) == b""
    (warning,) = warnings_in(caplog)
    assert "an answer to its challenge has not come in" in warning


def test_time_between_two_calls_does_not_count():
    with Listener("127.0.0.1:0", authkey=KEY) as listener, silent(listener) as (client,):
        with pytest.raises(TimeoutError):
            listener.accept(0)
        began = listener._proofs[0].began
        listener._left_at -= 3600  # as if it had been as long ago
        with pytest.raises(TimeoutError):
            listener.accept(0)
        assert listener._proofs[0].began >= began + 3600
        assert len(client.recv(99)) == 63


def test_more_silent_clients_than_there_are_places(monkeypatch, caplog):
    monkeypatch.setattr(mpconnection, "_PATIENCE", SHORT)
    most = mpconnection._MOST
    with Listener("127.0.0.1:0", authkey=KEY) as listener, silent(listener, most + 3) as them:
        task = calling(listener)
        answered(listener)
        assert task.finish() == b"X"
        assert len(listener._proofs) == most - 1
        for client in them[:4]:  # the oldest had to make room
            assert len(client.recv(99)) == 63
            assert client.recv(99) == b""
    assert f"dropped, {most} proofs of a key were under way" in warnings_in(caplog)[0]


def test_oldest_keeps_its_place_for_a_while(monkeypatch):
    monkeypatch.setattr(mpconnection, "_MOST", 2)
    monkeypatch.setattr(mpconnection, "_PATIENCE", 3600)
    with Listener("127.0.0.1:0", authkey=KEY) as listener, silent(listener, 2) as them:
        with pytest.raises(TimeoutError):
            listener.accept(0)
        task = calling(listener)
        with pytest.raises(TimeoutError):
            listener.accept(SHORT)
        assert len(listener._proofs) == 2
        them[0].close()
        answered(listener)
        assert task.finish() == b"X"


def test_one_that_had_to_make_room_just_when_it_went_on(monkeypatch):
    monkeypatch.setattr(mpconnection, "_MOST", 1)
    monkeypatch.setattr(mpconnection, "_PATIENCE", 0)
    with Listener("127.0.0.1:0", authkey=KEY) as listener, silent(listener) as (first,):
        with pytest.raises(TimeoutError):
            listener.accept(0)
        first.sendall(bytes(4))
        with silent(listener) as (second,):
            wait = listener._wait
            # Which of them a selector names first is its own affair.
            monkeypatch.setattr(listener, "_wait", lambda deadline: wait(deadline)[::-1])
            until(lambda: len(wait(0)) == 2)
            with pytest.raises(TimeoutError):
                listener.accept(0)
            assert [proof.peer for proof in listener._proofs] == [second.getsockname()]


@pytest.mark.case("L05")
def test_listener_goes_on_when_descriptors_are_short(monkeypatch, caplog):
    with Listener("127.0.0.1:0", authkey=KEY) as listener:
        accept = listener._listening.accept

        def short() -> Any:
            monkeypatch.setattr(listener._listening, "accept", accept)
            raise mpconnection.Shortage("Too many open files")

        monkeypatch.setattr(listener._listening, "accept", short)
        task = calling(listener)
        answered(listener)
        assert task.finish() == b"X"
    assert "Too many open files" in warnings_in(caplog)[0]


def is_taken(lock: Any) -> bool:
    if lock.acquire(blocking=False):
        lock.release()
        return False
    return True


@pytest.mark.case("D10")
def test_close_while_another_thread_does_is_no_error(monkeypatch):
    listener = Listener("127.0.0.1:0")
    waker = listener._waker

    def late() -> None:
        Task(listener.close).finish()
        wake()

    wake = waker.wake
    monkeypatch.setattr(waker, "wake", late)
    listener.close()
    assert listener.fileno() == -1


def test_close_wakes_who_accepts(key):
    with Listener("127.0.0.1:0", authkey=key) as listener:
        assert listener.fileno() >= 0
        tasks = [Task(refuses, listener), Task(refuses, listener)]
        until(lambda: is_taken(listener._turn))
        listener.close()
        for task in tasks:
            task.finish()
        refuses(listener)
        assert listener.fileno() == -1
        listener.close()


@pytest.mark.parametrize("timeout", [0, SHORT])
def test_accept_gives_up_in_time(key, timeout):
    with Listener("127.0.0.1:0", authkey=key) as listener:
        with pytest.raises(TimeoutError, match="no client"):
            listener.accept(timeout)
        task = calling(listener, authkey=key)
        answered(listener)
        assert task.finish() == b"X"


# ------------------------------------------------------------ who has no key, or goes away


def transcript(of_listener: bool) -> bytes:
    """All that one side of a proof sends, with lengths; enough of it to be cut anywhere."""
    if of_listener:
        nonce, answer = bytes(40), b"{sha256}" + bytes(32)
        said = [b"#CHALLENGE#{sha256}" + nonce, b"#WELCOME#", answer]
    else:
        said = [b"{sha256}" + bytes(32)]
    return b"".join(map(formats.MULTIPROCESSING.encode, said))


def test_listener_that_ends_anywhere_in_the_proof():
    data = transcript(of_listener=True)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        for size in range(len(data)):

            def serve(size: int = size) -> None:
                with listening.accept()[0] as sock:
                    sock.sendall(data[:size])
                    sock.shutdown(socket.SHUT_WR)
                    while sock.recv(999):
                        pass

            with background(serve), pytest.raises(AuthenticationError, match="ended before"):
                Client(listening.getsockname(), authkey=KEY)


def test_client_that_ends_anywhere_in_the_proof(caplog):
    data = transcript(of_listener=False)
    with refusing(authkey=KEY) as listener:
        for size in range(len(data)):
            with socket.create_connection(listener.address, LONG) as sock:
                sock.sendall(data[:size])
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(999):
                    pass
        assert listener._proofs == []
    assert all("ended before an answer" in warning for warning in warnings_in(caplog))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "an HTTP client"),
        (b"\0\0\1\1" + bytes(257), "length 257 exceeds 256"),
        (b"\xff\xff\xff\xff\0\0\0\1\0\0\0\0", "length 4294967296 exceeds 256"),
        (b"\0\0\0\5hello", "has the other side an authkey"),
    ],
)
def test_client_that_speaks_something_else(data, why, caplog):
    with (
        refusing(authkey=KEY) as listener,
        socket.create_connection(listener.address, LONG) as sock,
    ):
        sock.sendall(data)
        assert len(sock.recv(63, socket.MSG_WAITALL)) == 63
        assert sock.recv(99) in (b"", b"\0\0\0\x09#FAILURE#")
    (warning,) = warnings_in(caplog)
    assert why in warning


def test_key_for_a_listener_that_has_none():
    with Listener("127.0.0.1:0") as listener:
        task = Task(lambda: Client(listener.address, authkey=KEY, connect_timeout=SHORT))
        with listener.accept(LONG):
            why = r"cannot connect to tcp://127.*: a challenge has not come .* an authkey\?"
            with pytest.raises(TimeoutError, match=why):
                task.finish()


def test_deadline_is_one_for_all_of_it():
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with listening.accept()[0] as sock:
                sock.sendall(transcript(of_listener=True)[:76])  # up to #WELCOME#
                while sock.recv(999):
                    pass

        with (
            background(serve),
            pytest.raises(TimeoutError, match="an answer to its challenge has not come"),
        ):
            Client(listening.getsockname(), authkey=KEY, connect_timeout=SHORT)


# ------------------------------------------------------------ sessions


class Upper(MultiprocessingSession):
    authkey = KEY

    def handle(self) -> None:
        for message in self.connection:
            self.connection.send(message.upper())


def test_session_after_those_that_fail(caplog):
    with (
        pysock.Server("127.0.0.1:0", Upper).start() as server,
        socket.create_connection(server.server_address),
    ):
        with pytest.raises(AuthenticationError):
            Client(server.server_address, authkey=OTHER_KEY)
        with Client(server.server_address, authkey=KEY, timeout=LONG) as client:
            assert client.request(b"x") == b"X"
        until(lambda: warnings_in(caplog))
        assert server.stats["handler_errors"] == 0
    assert "the other side has another key" in warnings_in(caplog)[0]


def test_session_whose_client_is_silent(caplog):
    class Hurried(Upper):
        handshake_timeout = SHORT

    with (
        pysock.Server("127.0.0.1:0", Hurried).start() as server,
        socket.create_connection(server.server_address, LONG) as client,
    ):
        assert len(client.recv(63, socket.MSG_WAITALL)) == 63
        assert client.recv(1) == b""
    (warning,) = warnings_in(caplog)
    assert "an answer to its challenge has not come" in warning
    assert "Traceback" not in caplog.text


def test_session_keeps_the_limit_of_its_server():
    framings = []

    class Look(Upper):
        def handle(self) -> None:
            framings.append((self.connection.framing, self.connection.timeout))

    for framing in (
        pysock.LengthField(max_frame=1000),
        formats.MULTIPROCESSING.replace(max_frame=1000),
    ):
        with (
            pysock.Server("127.0.0.1:0", Look, framing=framing, timeout=9).start() as server,
            Client(server.server_address, authkey=KEY, timeout=LONG) as client,
        ):
            assert list(client) == []
    assert framings == [(formats.MULTIPROCESSING.replace(max_frame=1000), 9)] * 2


def test_session_without_a_key_lets_nobody_in(caplog):
    class Forgotten(MultiprocessingSession):
        def handle(self) -> None:
            raise NotImplementedError

    with (
        pysock.Server("127.0.0.1:0", Forgotten).start() as server,
        socket.create_connection(server.server_address, LONG) as client,
    ):
        assert client.recv(1) == b""
    assert "authkey" in caplog.text and "NotImplementedError" not in caplog.text


# ------------------------------------------------------------ arguments


@pytest.mark.parametrize("make", [Client, Listener])
@pytest.mark.parametrize(
    ("address", "options", "error", "why"),
    [
        ("tls://127.0.0.1:1", {}, ValueError, "has no TLS"),
        ("udp://127.0.0.1:1", {}, ValueError, "datagrams"),
        ("127.0.0.1:1", {"framing": pysock.LengthField()}, ValueError, "MULTIPROCESSING"),
        ("127.0.0.1:1", {"framing": "line"}, TypeError, "framing is a str"),
        ("127.0.0.1:1", {"authkey": b""}, ValueError, "authkey is empty"),
        ("127.0.0.1:1", {"authkey": "text"}, TypeError, "authkey is a str"),
        ("127.0.0.1:1", {"timeout": -1}, ValueError, "timeout is -1"),
    ],
)
def test_arguments_that_are_refused(make, address, options, error, why):
    with pytest.raises(error, match=why):
        make(address, **options)


@pytest.mark.parametrize("limit", [0, -1, float("nan")])
def test_limits_that_are_none(limit):
    with pytest.raises(ValueError, match="connect_timeout is"):
        Client("127.0.0.1:1", connect_timeout=limit)
    with pytest.raises(ValueError, match="handshake_timeout is"):
        Listener("127.0.0.1:0", handshake_timeout=limit)


@pytest.mark.case("T28")
def test_key_between_machines_needs_a_word(monkeypatch):
    with pytest.raises(ValueError, match="between machines without TLS.*insecure=True"):
        Listener("0.0.0.0:0", authkey=KEY)
    Listener("0.0.0.0:0", authkey=KEY, insecure=True).close()
    Listener("0.0.0.0:0").close()
    with Listener("127.0.0.1:0", authkey=KEY) as listener:
        monkeypatch.setattr(mpconnection, "is_local", lambda address: False)
        with pytest.raises(ValueError, match="insecure=True"):
            Client(listener.address, authkey=KEY)
        task = calling(listener, insecure=True)
        answered(listener)
        assert task.finish() == b"X"


def test_session_with_another_machine_needs_a_word(monkeypatch, caplog):
    class Open(Upper):
        insecure = True

    monkeypatch.setattr(mpconnection, "is_local", lambda address: False)
    with (
        pysock.Server("127.0.0.1:0", Upper).start() as server,
        pytest.raises(AuthenticationError),
    ):
        Client(server.server_address, authkey=KEY, insecure=True)
    assert "insecure=True" in caplog.text
    with (
        pysock.Server("127.0.0.1:0", Open).start() as server,
        Client(server.server_address, authkey=KEY, insecure=True, timeout=LONG) as client,
    ):
        assert client.request(b"x") == b"X"
