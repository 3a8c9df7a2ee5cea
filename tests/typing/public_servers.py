"""Uses servers, keys and TLS as programs do; mypy and pyright read it, nothing runs it."""

from __future__ import annotations

import socketserver
import ssl
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, assert_type

import pysock
from pysock import auth, formats, interop, tls
from pysock.address import Address
from pysock.pytest_plugin import pysock_pair, pysock_socket_pair


def answer(message: bytes, connection: pysock.ServerConnection) -> Iterator[bytes]:
    yield message
    assert_type((connection.user, connection.stopping), tuple[str | None, bool])
    connection.send(b"more")


class Echo(pysock.Session):
    def setup(self) -> None:
        assert_type(self.connection, pysock.ServerConnection)
        assert_type(self.connection.user, str | None)
        assert_type(self.connection.stopping, bool)

    def handle(self) -> None:
        for message in self.connection:
            assert_type(message, bytes)
            self.connection.send(message)

    def finish(self) -> None:
        print(self.client_address, self.server)


class Watched(pysock.Server):
    def service_actions(self) -> None:
        assert_type(self.stats, dict[str, int])

    def handle_error(self, connection: pysock.Connection, client_address: Any) -> None:
        super().handle_error(connection, client_address)


def servers(context: ssl.SSLContext) -> None:
    with pysock.Server("tcp://127.0.0.1:0", bytes.upper, max_connections=1) as server:
        assert_type(server, pysock.Server)
        assert_type(server.fileno(), int)
        assert_type(server.start(), pysock.Server)
        assert_type((server.address, server.stopping), tuple[Address, bool])
        assert_type(server.addresses, list[Address])
        server.stop(drain=1)
    pysock.Server(("127.0.0.1", 0), answer, framing=pysock.Netstring()).serve_forever()
    pysock.Server("unix:@echo", Echo).handle_request()
    pysock.Server("unix:@echo")  # type: ignore[call-arg]
    Watched("tls://:0", Echo, tls=context, authkey={"ann": b"k" * 32}).server_close()
    Watched.allow_reuse_address = False
    assert_type(
        pysock.serve("tcp://:0", "module:handler", processes=2, framing=pysock.Raw()), int
    )


def keys(folder: Path) -> pysock.Server:
    users = auth.load_keys(folder / "users")
    assert_type(users, dict[str, tuple[bytes, ...]])
    assert_type(auth.load_key(folder / "key"), bytes)
    auth.check_authkey(users, mapping=True)
    auth.check_user("ann")
    return pysock.Server("tcp://:0", answer, authkey=users, insecure=True)


def proofs(prover: auth.Prover, verifier: auth.Verifier) -> None:
    assert_type(prover.begin(), bytes)
    assert_type((prover.wanted, prover.done), tuple[int, bool])
    assert_type((verifier.user, verifier.farewell), tuple[str, bytes])
    verifier.check(prover.begin())


def contexts(error: OSError) -> tuple[pysock.Client, str]:
    serving = tls.server_context("server.pem", client_ca=Path("ca.pem"), password=b"secret")
    assert_type(serving, ssl.SSLContext)
    pin = tls.pin_of(tls.own_certificate(serving))
    assert_type(pin, str)
    asking = tls.client_context(pin=[pin], minimum="1.2")
    assert_type(tls.explain(error, server_side=False), str)
    return pysock.Client("tls://localhost:8000", tls=asking, authkey=b"k" * 32), pin


class Upper(interop.MessageRequestHandler):
    framing = pysock.Delimiter()
    timeout = 10

    def handle(self) -> None:
        for message in self.messages:
            self.send(message.upper())


class UDPServer(interop.WholeDatagrams, socketserver.UDPServer):
    max_packet_size = 9000


class Pickled(interop.MultiprocessingSession):
    authkey = b"k" * 32
    handshake_timeout = None
    legacy = insecure = False


def migrated() -> None:
    UDPServer(("127.0.0.1", 0), Upper).get_request()
    with interop.Listener(("127.0.0.1", 0), authkey=b"k" * 32) as listener:
        assert_type(listener, interop.Listener)
        assert_type(listener.accept(timeout=1), pysock.Connection)
        print(listener.last_accepted)
    assert_type(interop.Client("unix:@a", authkey=b"k" * 32), pysock.Connection)
    pysock.Server("tcp://:0", Pickled)


def named() -> Mapping[str, pysock.Format]:
    assert_type(formats.named("dns"), pysock.Format)
    assert_type(formats.DNS.replace(max_frame=512).width, int)
    several: list[pysock.Format] = [
        formats.AMQP,
        formats.BGP,
        formats.CASSANDRA,
        formats.CHROME_NATIVE,
        formats.DNS,
        formats.ERLANG1,
        formats.ERLANG2,
        formats.ERLANG4,
        formats.HTTP2,
        formats.KAFKA,
        formats.MEMCACHED,
        formats.MODBUS,
        formats.MONGODB,
        formats.MYSQL,
        formats.POSTGRES,
        formats.SP,
        formats.THRIFT,
        formats.TLS_RECORD,
        formats.TPKT,
        formats.ZOOKEEPER,
        formats.MINECRAFT,
        formats.MQTT,
        formats.PROTOBUF,
        formats.LSP,
        formats.MULTIPROCESSING,
        formats.NETSTRING,
    ]
    assert several
    return formats.NAMED


def fixtures() -> list[Callable[..., object]]:
    return [pysock_pair, pysock_socket_pair]
