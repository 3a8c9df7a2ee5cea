"""A client's way to TLS and to the proof of a key: what it checks, says, and tries again."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import certificates
import peers
from certificates import Certificates
from conftest import unix
from peers import LONG, SHORT, Task, asleep, until
from pysock import AuthenticationError, Client, ConnectionClosed, Server, tls

certs = certificates.certs
tcp_ends = peers.tcp_ends

KEY, OTHER_KEY = bytes(range(32)), bytes(32)
HERE = "tls://127.0.0.1:0"


@pytest.fixture
def server(certs: Certificates) -> Iterator[Server]:
    with Server(HERE, bytes.upper, tls=certs.server_context()).start() as server:
        yield server


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A listener that lets clients connect, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def url(listener: socket.socket, scheme: str = "tls") -> str:
    return f"{scheme}://127.0.0.1:{listener.getsockname()[1]}"


# ------------------------------------------------------------ who is at the other end


def test_ca_and_name(server, certs):
    with Client(server.address, tls=certs.client_context(), timeout=LONG) as client:
        assert client.request(b"x") == b"X"
        assert client.tls.version() == "TLSv1.3"
        assert client.tls.getpeercert()["subjectAltName"]
    assert str(server.address).startswith("tls://127.0.0.1:")


def test_pin(server, certs):
    context = tls.client_context(pin=certs.server.pin)
    with Client(server.address, tls=context, timeout=LONG) as client:
        assert client.request(b"x") == b"X"


def test_tcp_address_with_a_context_is_tls(server, certs):
    at = f"tcp://127.0.0.1:{server.address.port}"
    with Client(at, tls=certs.client_context(), timeout=LONG) as client:
        assert client.request(b"x") == b"X"


def test_tls_address_alone_trusts_the_systems_cas(server):
    with pytest.raises(ssl.SSLCertVerificationError, match="pass its CA as ca="):
        Client(server.address)


def test_wrong_name_is_told(certs):
    context = certs.server_context()
    with Server(HERE, bytes.upper, tls=context).start() as server:
        with pytest.raises(ssl.SSLCertVerificationError, match="elsewhere"):
            Client(server.address, tls=certs.client_context(), server_hostname="elsewhere")
        with Client(
            server.address, tls=certs.client_context(), server_hostname="localhost"
        ) as client:
            assert client.request(b"x") == b"X"


@unix
def test_unix_socket_has_tls_too(certs, tmp_path):
    path = tmp_path / "s"
    with Server(path, bytes.upper, tls=certs.server_context()).start():
        with pytest.raises(ValueError, match="pass server_hostname="):
            Client(path, tls=certs.client_context())
        with Client(
            path, tls=certs.client_context(), server_hostname="localhost", timeout=LONG
        ) as client:
            assert client.request(b"x") == b"X"


def test_connected_socket(server, certs):
    sock = socket.create_connection(server.server_address)
    context = certs.client_context()
    with Client(sock=sock, tls=context, server_hostname="localhost", timeout=LONG) as client:
        assert client.request(b"x") == b"X"


def test_sslsocket_proves_a_key_inside_its_tls(certs):
    context = certs.server_context()
    with Server(HERE, bytes.upper, tls=context, authkey=KEY).start() as server:
        plain = socket.create_connection(server.server_address)
        sock = certs.client_context().wrap_socket(plain, server_hostname="localhost")
        with Client(sock=sock, authkey=KEY, timeout=LONG) as client:
            assert client.request(b"x") == b"X"
        plain = socket.create_connection(server.server_address)
        with (
            certs.client_context().wrap_socket(plain, server_hostname="localhost") as sock,
            pytest.raises(ValueError, match="has TLS already"),
        ):
            Client(sock=sock, tls=certs.client_context(), server_hostname="localhost")


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        (("tls://localhost:1", {"tls": False}), ValueError, "means TLS"),
        (("tcp://localhost:1", {"server_hostname": "x"}), ValueError, "without TLS"),
        (("tcp://localhost:1", {"tls": "yes"}), TypeError, "is a str, expected an ssl"),
        (("tcp://localhost:1", {"user": "bob"}), ValueError, "no authkey="),
        (("tcp://localhost:1", {"authkey": "secret"}), TypeError, "is a str"),
        (("tcp://localhost:1", {"authkey": b"short"}), ValueError, "has 5 bytes"),
        (("tcp://localhost:1", {"authkey": KEY, "user": "a\nb"}), ValueError, "control"),
    ],
)
def test_options_that_cannot_be(arguments, error, match):
    address, options = arguments
    with pytest.raises(error, match=match):
        Client(address, **options)


# ------------------------------------------------------------ what takes too long


@pytest.mark.parametrize("options", [{"tls": True}, {"authkey": KEY}])
def test_server_that_says_nothing(silent, options):
    address = url(silent, "tls" if "tls" in options else "tcp")
    with pytest.raises(TimeoutError, match="it was reached, but what comes before"):
        Client(address, connect_timeout=SHORT, **options)


@pytest.mark.parametrize("options", [{"tls": True}, {"authkey": KEY}])
def test_server_that_ends_at_once(silent, options):
    def end() -> None:
        with silent.accept()[0] as sock:
            sock.recv(1)

    task = Task(end)
    address = url(silent, "tls" if "tls" in options else "tcp")
    expected: Any = ssl.SSLEOFError if "tls" in options else AuthenticationError
    with pytest.raises((expected, ConnectionError)) as caught:
        Client(address, connect_timeout=LONG, **options)
    assert "closed" in str(caught.value) or "reset" in str(caught.value)
    task.finish()


# ------------------------------------------------------------ the proof of a key


@pytest.mark.case("T16")
@pytest.mark.parametrize("encrypted", [False, True])
def test_user_proves_a_key(certs, encrypted):
    seen = []

    def handler(message: bytes, connection: Any) -> bytes:
        seen.append(connection.user)
        return message

    context = certs.server_context() if encrypted else None
    users = {"ann": KEY, "bob": [OTHER_KEY, KEY]}
    address = HERE if encrypted else "127.0.0.1:0"
    with Server(address, handler, tls=context, authkey=users).start() as server:
        options = {"tls": certs.client_context()} if encrypted else {}
        for user in ("ann", "bob"):
            with Client(server.address, authkey=KEY, user=user, **options) as client:
                assert client.request(b"x") == b"x"
        for user, key in (("ann", OTHER_KEY), ("eve", KEY), ("", KEY)):
            with pytest.raises(AuthenticationError, match="refused the key"):
                Client(server.address, authkey=key, user=user, **options)
        assert seen == ["ann", "bob"]
        until(lambda: server.stats["handshake_failures"] == 3)
        with (
            Client(server.address, timeout=LONG, **options) as client,
            pytest.raises((ConnectionClosed, ConnectionError)),
        ):
            client.request(b"no proof")


def test_counts_have_only_messages(certs):
    """Neither the handshake nor the proof is one."""
    with Server("127.0.0.1:0", bytes.upper, authkey=KEY).start() as server:
        with Client(server.address, authkey=KEY) as client:
            client.request(b"x")
            assert (client.stats.messages_in, client.stats.messages_out) == (1, 1)
        until(lambda: server.stats["connections"] == 0)
        assert server.stats["messages_in"] == 1


def test_server_without_a_key_is_told_apart():
    with (
        Server("127.0.0.1:0", bytes.upper).start() as server,
        pytest.raises(AuthenticationError, match="may have no authkey="),
    ):
        Client(server.address, authkey=KEY)


@pytest.mark.case("T28")
def test_key_is_not_proved_in_the_clear_to_another_machine(silent, monkeypatch):
    monkeypatch.setattr("pysock.client.is_local", lambda peer: False)
    with pytest.raises(ValueError, match="use tls://, or insecure=True"):
        Client(url(silent, "tcp"), authkey=KEY)
    with silent.accept()[0] as peer:
        assert peer.recv(1) == b""  # not even a name was told
    with (
        Server("127.0.0.1:0", bytes.upper, authkey=KEY).start() as server,
        Client(server.address, authkey=KEY, insecure=True) as client,
    ):
        assert client.request(b"x") == b"X"


@pytest.mark.case("T28")
@pytest.mark.parametrize("address", ["0.0.0.0:0", "tcp://:0"])
def test_server_takes_no_key_in_the_clear_from_other_machines(address):
    with pytest.raises(ValueError, match="which other machines reach, without TLS"):
        Server(address, bytes.upper, authkey=KEY)
    Server(address, bytes.upper, authkey=KEY, insecure=True).server_close()
    Server(address, bytes.upper).server_close()


# ------------------------------------------------------------ mutual TLS


@pytest.fixture
def demanding(certs: Certificates) -> Iterator[Server]:
    context = certs.server_context(client_ca=certs.ca)
    with Server(HERE, bytes.upper, tls=context).start() as server:
        yield server


def test_client_with_a_certificate(demanding, certs):
    certificate, key = certs.client
    context = certs.client_context(certificate=certificate, key=key)
    with Client(demanding.address, tls=context, timeout=LONG) as client:
        assert client.request(b"x") == b"X"


@pytest.mark.case("T09")
def test_client_without_a_certificate_hears_why(demanding, certs):
    """T09: its handshake has succeeded by then, and a send may be the first to fail."""
    with (
        Client(demanding.address, tls=certs.client_context(), timeout=LONG) as client,
        pytest.raises((AuthenticationError, ConnectionError)) as caught,
    ):
        while True:
            client.send(b"x")
            client.recv()
    if caught.type is AuthenticationError:
        assert "demands a certificate" in str(caught.value)


@pytest.mark.case("T09")
def test_send_that_fails_tells_the_peers_last_word(demanding, certs):
    """T09: an alert is worth more than a broken pipe."""
    with Client(demanding.address, tls=certs.client_context(), timeout=LONG) as client:
        select.select([client.socket], [], [], LONG)
        with pytest.raises(AuthenticationError, match="demands a certificate"):
            while True:
                client.send(bytes(1 << 16))


# ------------------------------------------------------------ connecting again


def test_reconnect_over_tls_with_a_key(certs):
    context = certs.server_context()
    with Server(HERE, bytes.upper, tls=context, authkey=KEY).start() as first:
        address = first.address
        client = Client(
            address, tls=certs.client_context(), authkey=KEY, reconnect=True, timeout=LONG
        )
        assert client.request(b"x") == b"X"
    with client:
        with pytest.raises((ConnectionClosed, ConnectionError)):
            client.recv()
        with Server(address, bytes.upper, tls=context, authkey=KEY).start():
            assert client.request(b"again") == b"AGAIN"
            assert client.tls.version() == "TLSv1.3"


def test_refusals_are_not_tried_again(server, certs):
    """A certificate does not get better, and each wrong key costs time."""
    with pytest.raises(ssl.SSLCertVerificationError):
        Client(server.address, tls=certs.client_context(ca=certs.other_ca), reconnect=True)
    assert server.stats["accepted"] == 1
    with Server(HERE, bytes.upper, tls=certs.server_context(), authkey=KEY).start() as other:
        with pytest.raises(AuthenticationError):
            Client(
                other.address, tls=certs.client_context(), authkey=OTHER_KEY, reconnect=True
            )
        assert other.stats["accepted"] == 1


def test_threads_that_meet_a_broken_connection_find_it_encrypted_again(certs):
    """Nothing is sent over the new socket before its handshake is done."""
    context = certs.server_context()
    with Server(HERE, bytes.upper, tls=context).start() as server:
        with Client(
            server.address, tls=certs.client_context(), reconnect=True, timeout=LONG
        ) as client:
            for _ in range(5):
                client.request(b"x")
                client.socket.shutdown(socket.SHUT_RDWR)
                with contextlib.suppress(OSError, ConnectionClosed):
                    client.recv()
                gate = threading.Barrier(4)

                def ask(gate: threading.Barrier = gate) -> bytes:
                    gate.wait(LONG)
                    return client.request(b"many")

                tasks = [Task(ask) for _ in range(4)]
                assert [task.finish() for task in tasks] == [b"MANY"] * 4
        assert server.stats["handshake_failures"] == 0


# ------------------------------------------------------------ close


def test_close_wakes_a_receiver(server, certs):
    client = Client(server.address, tls=certs.client_context())
    receiving = asleep(client, client.recv)
    client.close()
    with pytest.raises(ConnectionClosed, match="another thread"):
        receiving.finish()


@pytest.mark.case("T29")
def test_nothing_is_said_of_keys(certs, caplog):
    caplog.set_level("DEBUG")
    key = os.urandom(32)
    with Server("127.0.0.1:0", bytes.upper, authkey=key).start() as server:
        with Client(server.address, authkey=key) as client:
            client.request(b"x")
            shown = repr(client) + repr(server) + repr(vars(server)["_handshakes"])
        with pytest.raises(AuthenticationError) as caught:
            Client(server.address, authkey=os.urandom(32))
    everything = caplog.text + shown + str(caught.value)
    for form in (key.hex(), repr(key)[2:-1]):
        assert form not in everything
