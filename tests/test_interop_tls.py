"""A `Server` over TLS, and the clients that OpenSSL, GnuTLS and socat bring along."""

from __future__ import annotations

import itertools
import os
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import certificates
import pysock
from certificates import Certificates, Files
from conftest import linux
from gate import echo, frame, serving, warnings_in
from peers import background, pattern, until
from programs import LIMIT, Peer, peer
from pysock import Client, Delimiter, IncompleteFrame, Raw

pytestmark = linux

certs = certificates.certs

RECORD = 1021  # bytes in one of the peers' records where they let that be chosen: odd cuts
SIZES = (0, 1, 16 * 1024, 0, 1 << 20, 1019, 3, 16 * 1024 + 1)
WANTED = [pattern(size) for size in SIZES]
BY_LINE = Delimiter(b"\n")

CUT = str(IncompleteFrame(0, None))
NO_VERSION = "the two sides have no TLS version in common"

versions = pytest.mark.parametrize("version", ["1.2", "1.3"])


# ------------------------------------------------------------ their clients


def openssl_client(
    port: int, ca: Path, files: Files | None, version: str, typed: bool, folder: Path
) -> list[Any]:
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-brief"]
    command += [f"-tls{version.replace('.', '_').removesuffix('_0')}", "-verify_return_error"]
    command += ["-CAfile", ca, "-verify_hostname", "localhost", "-max_send_frag", RECORD]
    command += ["-cipher", "ALL:@SECLEVEL=0"]  # or it would not try what is old
    command += ["-cert", files.certificate, "-key", files.key] if files else []
    return command if typed else [*command, "-nocommands"]


def gnutls_client(
    port: int, ca: Path, files: Files | None, version: str, typed: bool, folder: Path
) -> list[Any]:
    command = ["gnutls-cli", "127.0.0.1", "--port", port, "--x509cafile", ca]
    command += ["--verify-hostname", "localhost", "--logfile", folder / "told"]
    command += ["--priority", f"NORMAL:-VERS-ALL:+VERS-TLS{version}"]
    if files:
        command += ["--x509certfile", files.certificate, "--x509keyfile", files.key]
    return [*command, "--inline-commands"] if typed else command


def socat_client(
    port: int, ca: Path, files: Files | None, version: str, typed: bool, folder: Path
) -> list[Any]:
    address = f"OPENSSL:127.0.0.1:{port},cafile={ca},commonname=localhost,"
    address += f"min-version=TLS{version},max-version=TLS{version}"
    address += f",cert={files.certificate},key={files.key}" if files else ""
    return ["socat", "-t", 0.1, "-b", RECORD, "-", address]


CLIENTS = {"openssl": openssl_client, "gnutls": gnutls_client, "socat": socat_client}

clients = pytest.mark.parametrize("kind", CLIENTS)


@pytest.fixture
def call(certs: Certificates, tmp_path: Path) -> Any:
    """A function: start a client of theirs, which connects to a server of ours."""

    def call(
        kind: str,
        server: pysock.Server,
        version: str = "1.3",
        files: Files | None = None,
        typed: bool = False,
    ) -> Any:
        port = server.server_address[1]
        command = CLIENTS[kind](port, certs.ca, files, version, typed, tmp_path)
        return peer(tmp_path, *command, tells=tmp_path / "told")

    return call


def check_refusal(
    program: Peer, server: pysock.Server, caplog: Any, theirs: str, ours: str
) -> None:
    """Both ends say why there is no connection."""
    with program.connection() as stream:
        assert list(stream) == []
    program.end()
    assert re.search(theirs, program.said), program.said
    until(lambda: server.stats["handshake_failures"])
    (line,) = warnings_in(caplog)
    assert re.search(ours, line), line


@pytest.mark.case("I05")
@versions
@clients
def test_messages_come_back_to_a_client_i05(kind, version, certs, call, caplog):
    """And the client closes."""
    known = set()

    def handler(message: bytes, connection: Any) -> bytes:
        known.add(connection.tls.version())
        return message

    context = certs.server_context(minimum=version)
    with serving(handler, tls=context) as server, call(kind, server, version) as program:
        with program.connection() as stream:
            assert [stream.request(message) for message in WANTED[:4]] == WANTED[:4]
            assert stream.request_many(WANTED) == WANTED
            stream.shutdown(socket.SHUT_WR)
            assert list(stream) == []
        assert program.end() == 0, program.said
        until(lambda: not server.stats["connections"])
    assert known == {f"TLSv{version}"}
    assert warnings_in(caplog) == []


class Once(pysock.Session):
    """Answers one message, and closes."""

    def handle(self) -> None:
        self.connection.send(self.connection.recv())


class Cuts(Once):
    """The same, but TLS is not told of it."""

    def handle(self) -> None:
        super().handle()
        with socket.socket(fileno=os.dup(self.connection.fileno())) as below:
            below.shutdown(socket.SHUT_WR)
        list(self.connection)


@pytest.mark.case("I05")
@versions
@clients
def test_client_sees_a_clean_end_i05(kind, version, certs, call):
    context = certs.server_context(minimum=version)
    with serving(Once, tls=context) as server, call(kind, server, version) as program:
        with program.connection() as stream:
            assert stream.request(b"hello") == b"hello"
            assert list(stream) == []
        assert program.end() == 0, program.said


@pytest.mark.parametrize("kind", ["openssl", "gnutls"])
def test_end_is_another_for_these_clients_where_it_is_cut(kind, certs, call):
    """What the test above would show if no close_notify came."""
    with (
        serving(Cuts, tls=certs.server_context()) as server,
        call(kind, server) as program,
    ):
        with program.connection() as stream:
            assert stream.request(b"hello") == b"hello"
            assert list(stream) == []
        assert program.end() == 1
        assert re.search("unexpected eof|non-properly terminated", program.said)


@pytest.mark.case("T04")
@clients
@pytest.mark.parametrize("sent", [b"", frame(b"x" * 9)[:7]])
def test_killed_client_is_told_as_cut_off(kind, sent, certs, call, caplog):
    caplog.set_level("INFO")
    with (
        serving(echo, tls=certs.server_context()) as server,
        call(kind, server) as program,
        program.connection() as stream,
    ):
        # Sent as one, so that the reply to the first shows that the rest is there.
        program.write(frame(b"first") + sent)
        assert stream.recv() == b"first"
        program.process.kill()
        told = f": {IncompleteFrame(7, 13) if sent else CUT}"
        until(lambda: any(line.endswith(told) for line in caplog.messages))
        assert len(warnings_in(caplog)) == bool(sent)


@versions
@clients
def test_right_certificate_of_a_client(kind, version, certs, call):
    def handler(message: bytes, connection: Any) -> bytes:
        ((_, name),) = connection.tls.getpeercert()["subjectAltName"]
        return name.encode()

    context = certs.server_context(minimum=version, client_ca=certs.ca)
    with (
        serving(handler, tls=context) as server,
        call(kind, server, version, certs.client) as program,
        program.connection() as stream,
    ):
        assert stream.request(b"who am I?") == b"client@example.org"


@pytest.mark.parametrize(
    ("files", "theirs", "ours"),
    [
        pytest.param(
            "none",
            "alert (handshake failure|certificate required)"
            "|Handshake failed|Certificate is required",
            "the client has sent no certificate, which this side demands: pass certificate=",
            id="none",
        ),
        pytest.param(
            "of_other_ca",
            "alert unknown ca|CA is unknown",
            "the client's certificate is refused: unable to get local issuer certificate; "
            "if it is the right client, pass its CA as client_ca=",
            id="of_other_ca",
        ),
    ],
)
@versions
@clients
def test_wrong_certificate_of_a_client(
    kind, version, files, theirs, ours, certs, call, caplog
):
    context = certs.server_context(minimum=version, client_ca=certs.ca)
    if (kind, version) == ("socat", "1.3"):
        theirs = ""  # the alert comes after its handshake, and it does not tell of those
    with (
        serving(echo, tls=context) as server,
        call(kind, server, version, getattr(certs, files, None)) as program,
    ):
        check_refusal(program, server, caplog, theirs, ours)


@pytest.mark.case("T07")
@pytest.mark.parametrize(
    ("files", "theirs", "ours"),
    [
        ("of_other_ca", "local issuer|issuer is unknown", "client does not trust|its log may"),
        ("expired", "has expired|expired certificate", "has expired: renew it|its log may"),
        ("early", "not yet valid", "its log may"),
        ("wrong_name", "hostname mismatch|name .* does not match", "asked for another name"),
    ],
)
@pytest.mark.parametrize("kind", ["openssl", "gnutls"])
def test_certificate_that_clients_refuse_t07(kind, files, theirs, ours, certs, call, caplog):
    context = pysock.tls.server_context(*getattr(certs, files))
    with serving(echo, tls=context) as server, call(kind, server) as program:
        check_refusal(program, server, caplog, theirs, ours)


@pytest.mark.case("T08")
@pytest.mark.parametrize(
    ("kind", "version", "minimum"),
    [
        *itertools.product(["openssl", "gnutls"], ["1.0", "1.1"], ["1.2", "1.3"]),
        *itertools.product(CLIENTS, ["1.2"], ["1.3"]),
        *itertools.product(CLIENTS, ["1.3"], ["only 1.2"]),
    ],
)
def test_clients_version_is_refused_t08(kind, version, minimum, certs, call, caplog):
    context = certs.server_context(minimum=minimum.removeprefix("only "))
    if minimum.startswith("only"):
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    theirs = "alert protocol version|Error in protocol version"
    with serving(echo, tls=context) as server, call(kind, server, version) as program:
        check_refusal(program, server, caplog, theirs, NO_VERSION)


@pytest.mark.case("T08")
def test_ciphers_that_have_nothing_in_common_t08(certs, call, caplog):
    context = certs.server_context(minimum="1.2")
    context.set_ciphers("aRSA+AES")  # its key is another one's
    theirs = "alert handshake failure|Handshake failed"
    with serving(echo, tls=context) as server, call("gnutls", server, "1.2") as program:
        check_refusal(program, server, caplog, theirs, "no cipher in common")


# ------------------------------------------------------------ what clients may do besides


def numbered(stop: threading.Event) -> Iterator[bytes]:
    """Lines, until they are to stop.

    Without a pause between them s_client would never look at what is typed.
    """
    for number in itertools.count():
        if stop.wait(0.0005):
            yield b"end"
            return
        yield b"%d" % number * 99


def check_numbered(lines: Iterator[bytes]) -> None:
    """Not one of them is lost, doubled or moved, from the second on."""
    for number in itertools.count(1):
        line = next(lines)
        if line == b"end":
            return
        assert line == b"%d" % number * 99


@pytest.mark.case("C06")
def test_keys_are_updated_while_messages_flow(certs, call):
    """Once without a wish for the server's own new keys, once with, and so on."""
    stop = threading.Event()

    def handler(message: bytes) -> Any:
        return numbered(stop) if message == b"go" else message

    with (
        serving(handler, tls=certs.server_context(), framing=BY_LINE) as server,
        call("openssl", server, typed=True) as program,
        program.connection(BY_LINE) as stream,
    ):
        assert stream.request(b"go") == b"0" * 99
        with background(check_numbered, stream):
            for count in range(1, 41):
                program.write(b"kK"[count % 2 : count % 2 + 1] + b"\n")
                until(lambda: program.said.count("KEYUPDATE") == count)  # noqa: B023
            stop.set()
        assert stream.request(b"after") == b"after"


@pytest.mark.case("C06")
def test_gnutls_updates_its_keys(certs, call):
    with (
        serving(echo, tls=certs.server_context(), framing=BY_LINE) as server,
        call("gnutls", server, typed=True) as program,
    ):
        with program.connection(BY_LINE) as stream:
            for number in range(1, 4):
                assert stream.request(b"%d" % number) == b"%d" % number
                program.write(b"^rekey1^\n")
            assert stream.request(b"after") == b"after"
            stream.shutdown(socket.SHUT_WR)
            assert list(stream) == []
        assert program.end() == 0
        assert program.said.count("Rekey was completed") == 3


@pytest.mark.case("C05", "T31")
@pytest.mark.parametrize(
    ("kind", "wish", "theirs"),
    [
        ("openssl", b"R\n", ":no renegotiation:"),
        ("gnutls", b"^renegotiate^\n", "No renegotiation is allowed"),
    ],
)
def test_renegotiation_is_refused_and_the_server_goes_on(
    kind, wish, theirs, certs, call, caplog
):
    context = certs.server_context(minimum="1.2")
    with (
        serving(echo, tls=context, framing=BY_LINE) as server,
        call(kind, server, "1.2", typed=True) as program,
        Client(server.address, BY_LINE, timeout=LIMIT, tls=certs.client_context()) as other,
    ):
        with program.connection(BY_LINE) as stream:
            assert stream.request(b"before") == b"before"
            program.write(wish)
            assert list(stream) == []
        assert program.end() == 1
        assert theirs in program.said
        until(lambda: server.stats["connections"] == 1)
        assert len(warnings_in(caplog)) == 1
        assert other.request(b"after") == b"after"


# ------------------------------------------------------------ TLS at one end only

ALERT = bytes([21, 3, 3, 0, 2, 2])  # a fatal one begins so


@pytest.mark.case("H08")
@pytest.mark.parametrize(
    ("sent", "ours"),
    [
        (frame(b"hello"), "the client's bytes are not TLS"),
        (b"GET / HTTP/1.1\r\n\r\n", "the client speaks HTTP without TLS"),
    ],
)
def test_plain_client_is_refused_h08(sent, ours, certs, tmp_path, caplog):
    with serving(echo, tls=certs.server_context()) as server:
        where = f"TCP:127.0.0.1:{server.server_address[1]}"
        with peer(tmp_path, "socat", "-t", 0.1, "-", where) as program:
            program.write(sent)
            with program.connection(Raw()) as stream:
                assert b"".join(stream)[:-1] == ALERT
            assert program.end() == 0
        (line,) = warnings_in(caplog)
        assert ours in line
        with Client(server.address, timeout=LIMIT, tls=certs.client_context()) as good:
            assert good.request(b"x") == b"x"


@pytest.mark.case("H08")
@clients
def test_tls_client_is_refused_without_tls_h08(kind, call, caplog):
    with serving(echo) as server, Client(server.address, timeout=LIMIT) as good:
        with call(kind, server) as program:
            with program.connection() as stream:
                assert list(stream) == []
            assert program.end() == 1
            assert re.search("unexpected eof|non-properly terminated", program.said)
        (line,) = warnings_in(caplog)
        assert "a TLS peer?" in line
        assert good.request(b"x") == b"x"
