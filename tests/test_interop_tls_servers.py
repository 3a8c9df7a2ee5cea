"""A `Client` over TLS, and the servers that OpenSSL, GnuTLS and socat bring along."""

from __future__ import annotations

import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import certificates
from certificates import Certificates, Files
from conftest import linux
from gate import frame
from peers import Task, background, pattern, until
from programs import LIMIT, Peer, peer
from pysock import (
    AuthenticationError,
    Client,
    ConnectionClosed,
    Delimiter,
    FrameTooLarge,
    IncompleteFrame,
    LengthField,
    tls,
)

pytestmark = linux

certs = certificates.certs

RECORD = 1021  # bytes in one of their records where they let that be chosen: odd cuts
SIZES = (0, 1, 16 * 1024, 0, 1 << 20, 1019, 3, 16 * 1024 + 1)
WANTED = [pattern(size) for size in SIZES]
LINES = [b"line" + b"x" * size for size in (0, 1, 16 * 1024, 1 << 16)]
BY_LINE, BY_LENGTH = Delimiter(b"\n"), LengthField()

versions = pytest.mark.parametrize("version", ["1.2", "1.3"])


def openssl(files: Files, ca: Path | None, version: str) -> list[Any]:
    command = ["openssl", "s_server", "-accept", "127.0.0.1:0", "-quiet", "-no_ign_eof"]
    command += ["-cert", files.certificate, "-key", files.key, "-naccept", 1]
    command += ["-tls" + version.replace(".", "_"), "-max_send_frag", RECORD]
    return command + (["-Verify", 1, "-verify_return_error", "-CAfile", ca] if ca else [])


def gnutls(files: Files, ca: Path | None, version: str) -> list[Any]:
    command = ["gnutls-serv", "--echo", "--port", 0, "--x509certfile", files.certificate]
    command += ["--x509keyfile", files.key]
    command += ["--priority", f"NORMAL:-VERS-ALL:+VERS-TLS{version}"]
    demand = ["--require-client-cert", "--verify-client-cert", "--x509cafile", ca]
    return command + (demand if ca else [])


def socat(files: Files, ca: Path | None, version: str) -> list[Any]:
    address = f"OPENSSL-LISTEN:0,bind=127.0.0.1,cert={files.certificate},key={files.key},"
    address += f"min-version=TLS{version},max-version=TLS{version},"
    address += f"verify=1,cafile={ca}" if ca else "verify=0"
    return ["socat", "-t", 0.1, "-b", RECORD, address, "-"]


SERVERS = {"openssl": openssl, "gnutls": gnutls, "socat": socat}

servers = pytest.mark.parametrize("kind", SERVERS)
# gnutls-serv answers lines itself; the others are written and read from here.
open_servers = pytest.mark.parametrize("kind", ["openssl", "socat"])


@pytest.fixture
def serve(certs: Certificates, tmp_path: Path) -> Callable[..., Any]:
    """A function: start a server of theirs."""

    def serve(
        kind: str, version: str = "1.3", files: Files | None = None, ca: Path | None = None
    ) -> Any:
        return peer(tmp_path, *SERVERS[kind](files or certs.server, ca, version))

    return serve


@pytest.fixture
def call(certs: Certificates) -> Callable[..., Client]:
    """A function: connect to a server of theirs; options are those of the context."""

    def call(program: Peer, framing: Any = BY_LENGTH, **options: Any) -> Client:
        context = certs.client_context(**options)
        return Client(f"tls://127.0.0.1:{program.port}", framing, timeout=LIMIT, tls=context)

    return call


@pytest.fixture(params=["ca", "pin"])
def trust(request: pytest.FixtureRequest, certs: Certificates) -> dict[str, Any]:
    if request.param == "ca":
        return {"ca": certs.ca}
    return {"ca": None, "pin": certs.server.pin}


@pytest.mark.case("I05")
@versions
@open_servers
def test_messages_go_both_ways_with_a_server_i05(kind, version, trust, serve, call):
    """And the client closes."""
    with serve(kind, version) as program:
        with program.connection() as inside:
            with call(program, minimum=version, **trust) as client:
                assert client.tls.version() == f"TLSv{version}"
                for sender, receiver in [(client, inside), (inside, client)]:
                    with background(sender.send_many, WANTED * 2):
                        assert [receiver.recv() for _ in WANTED * 2] == WANTED * 2
                client.send(b"last")
            assert list(inside) == [b"last"]
        assert program.end() == 0
        assert program.said == ""


@pytest.mark.case("I05")
@versions
def test_lines_come_back_from_gnutls_i05(version, trust, serve, call):
    with serve("gnutls", version) as program:
        with call(program, BY_LINE, minimum=version, **trust) as client:
            assert client.tls.version() == f"TLSv{version}"
            assert [client.request(line) for line in LINES] == LINES
        with call(program, BY_LINE, minimum=version, **trust) as client:
            assert client.request(b"once more") == b"once more"
        assert "Error" not in program.said, program.said


@pytest.mark.case("T02")
@versions
@open_servers
def test_all_arrives_before_the_end_t02(kind, version, serve, call):
    """Also where the server has sent what nobody read: under TLS 1.3 these send tickets."""
    sent = [pattern(2_000_000), b"last"]
    with serve(kind, version) as program:
        with program.connection() as inside:
            task = Task(list, inside)
            with call(program, minimum=version) as client:
                client.send_many(sent)
            assert task.finish() == sent
        assert program.end() == 0
        assert program.said == ""


@pytest.mark.case("I05")
@versions
@open_servers
def test_server_ends_cleanly_i05(kind, version, serve, call):
    with (
        serve(kind, version) as program,
        program.connection() as inside,
        call(program, minimum=version) as client,
    ):
        client.send(b"hello")
        assert inside.recv() == b"hello"
        inside.send(b"last")
        inside.shutdown(socket.SHUT_WR)
        assert list(client) == [b"last"]


@pytest.mark.case("T04")
@servers
def test_killed_server_is_told_as_cut_off(kind, serve, call):
    with serve(kind) as program, call(program, BY_LINE) as client:
        client.send(b"hello")
        if kind == "gnutls":
            assert client.recv() == b"hello"
        else:
            assert program.process.stdout.read(6) == b"hello\n"
        program.process.kill()
        with pytest.raises(IncompleteFrame, match="without its close_notify"):
            client.recv()


@pytest.mark.case("T04")
@versions
@open_servers
def test_server_that_is_killed_inside_a_frame(kind, version, serve, call):
    with serve(kind, version) as program, call(program, minimum=version) as client:
        program.write(frame(b"whole") + frame(b"x" * 9)[:7])
        assert client.recv() == b"whole"
        program.process.kill()
        with pytest.raises(IncompleteFrame) as caught:
            client.recv()
        assert (caught.value.received, caught.value.expected) == (7, 13)


# ------------------------------------------------------------ who is trusted

WRONG_PIN = "0" * 64
NOT_OURS = "unable to get local issuer certificate; if it is the right server, pass its CA as"


@pytest.mark.case("T07")
@pytest.mark.parametrize(
    ("files", "options", "reason"),
    [
        ("of_other_ca", {}, NOT_OURS),
        ("wrong_name", {}, "IP address mismatch, certificate is not valid for '127.0.0.1'; "),
        ("expired", {}, "certificate has expired; have it renewed"),
        ("early", {}, r"certificate is not yet valid.*; compare the clocks"),
        ("self_signed", {}, "self-signed certificate; if it is the right server"),
        ("server", {"ca": None, "pin": WRONG_PIN}, "the certificate's pin is [0-9a-f]{64}, "),
        ("server", {"pin": WRONG_PIN}, f"expected {WRONG_PIN}; if it was renewed pass its"),
        ("of_other_ca", {"pin": "right"}, NOT_OURS),
        ("wrong_name", {"pin": "right"}, "IP address mismatch"),
    ],
)
@pytest.mark.parametrize("kind", ["openssl", "gnutls"])
def test_server_is_not_trusted_t07(kind, files, options, reason, certs, serve, call):
    found = certs.self_signed() if files == "self_signed" else getattr(certs, files)
    if options.get("pin") == "right":
        options = {**options, "pin": found.pin}
    with serve(kind, files=found) as program:
        with pytest.raises(ssl.SSLCertVerificationError, match=reason) as caught:
            call(program, **options)
        assert str(caught.value).startswith("the server's certificate is refused: ")
        if WRONG_PIN not in options.values():  # of that no alert can tell
            until(lambda: re.search("alert|Error", program.said))


@pytest.mark.case("T07")
@pytest.mark.parametrize("files", ["wrong_name", "expired", "early", "self_signed"])
@pytest.mark.parametrize("kind", ["openssl", "gnutls"])
def test_pin_alone_is_enough_t07(kind, files, certs, serve, call):
    found = certs.self_signed() if files == "self_signed" else getattr(certs, files)
    with serve(kind, files=found) as program, call(program, ca=None, pin=found.pin) as client:
        client.send(b"hello")
        assert tls.pin_of(client.tls.getpeercert(True)) == found.pin


@versions
@servers
def test_right_certificate_of_this_client(kind, version, certs, serve, call):
    certificate, key = certs.client
    options = {"certificate": certificate, "key": key, "minimum": version}
    with (
        serve(kind, version, ca=certs.ca) as program,
        call(program, BY_LINE, **options) as client,
    ):
        client.send(b"hello")
        if kind != "gnutls":
            assert program.process.stdout.read(6) == b"hello\n"
            program.write(b"hello\n")
        assert client.recv() == b"hello"


@pytest.mark.case("T09")
@pytest.mark.parametrize(
    ("files", "theirs"),
    [
        (None, "did not return a certificate|Certificate is required|No certificate"),
        ("of_other_ca", "certificate verify failed|Error in the certificate"),
    ],
)
@versions
@servers
def test_wrong_certificate_of_this_client_t09(
    kind, version, files, theirs, certs, serve, call
):
    """Under TLS 1.3 the handshake is over here when the server finds out."""
    options = dict(zip(("certificate", "key"), getattr(certs, str(files), ()), strict=False))
    with serve(kind, version, ca=certs.ca) as program:
        if version == "1.2":
            told = "server (broke off|does not trust|failed|refused)"
            with pytest.raises(ssl.SSLError, match=told):
                call(program, minimum=version, **options)
        else:
            with call(program, **options) as client, pytest.raises(AuthenticationError):
                client.recv()
        until(lambda: re.search(theirs, program.said))


@pytest.mark.case("T08")
@servers
@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_servers_version_is_refused_t08(kind, version, certs, serve):
    context = certs.client_context(minimum="1.3" if version == "1.2" else "1.2")
    if version == "1.3":
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    with serve(kind, version) as program:
        with pytest.raises(ssl.SSLError, match="in common"):
            Client(f"tls://127.0.0.1:{program.port}", tls=context)
        until(lambda: re.search("unsupported protocol|Error in handshake", program.said))


# ------------------------------------------------------------ what servers may do besides


@pytest.fixture
def typed(certs: Certificates, tmp_path: Path) -> Callable[..., Any]:
    """A function: start a server that does what is typed, and prints all there is."""

    def typed(*options: object) -> Any:
        certificate, key = certs.server
        command = ["openssl", "s_server", "-accept", "127.0.0.1:0", *options]
        return peer(tmp_path, *command, "-cert", certificate, "-key", key)

    return typed


def flood(client: Client, stop: threading.Event) -> int:
    """Send lines until told to stop; return how many."""
    count = 0
    while not stop.wait(0.0005):  # without a pause it would never look at what is typed
        client.send(b"line %d" % count)
        count += 1
    client.send(b"end")
    return count


def printed(lines: Iterator[bytes], last: bytes) -> list[bytes]:
    """What our client has sent of all that is printed before the line *last*."""
    return [line for line in iter(lambda: next(lines), last) if line.startswith(b"line")]


@pytest.mark.case("C06")
def test_keys_are_updated_while_messages_flow(typed, call):
    """Once with a wish for the client's own new keys, once without, and so on."""
    stop = threading.Event()
    with (
        typed() as program,
        program.connection(BY_LINE) as inside,
        call(program, BY_LINE) as client,
    ):
        client.send(b"begin")
        lines = printed(inside, b"begin")
        with background(client.recv) as receiving, background(flood, client, stop) as sending:
            for count in range(40):
                program.write(b"Kk"[count % 2 : count % 2 + 1] + b"\n")
                lines += printed(inside, b"SSL_do_handshake -> 1")
            stop.set()
            lines += printed(inside, b"end")
            program.write(b"after\n")
        assert receiving.finish() == b"after"
        assert lines == [b"line %d" % count for count in range(sending.finish())]


@pytest.mark.case("C05", "T31")
def test_renegotiation_is_refused(typed, call):
    with typed("-tls1_2") as program, call(program, BY_LINE, minimum="1.2") as client:
        program.write(b"first\n")
        assert client.recv() == b"first"
        program.write(b"r\n")
        with pytest.raises(ssl.SSLError, match="handshake failure"):
            client.recv()
        until(lambda: ":no renegotiation:" in program.said)


def test_server_closes_without_a_word(typed, call):
    with typed() as program, call(program, BY_LINE) as client:
        program.write(b"first\n")
        assert client.recv() == b"first"
        program.write(b"q\n")
        with pytest.raises(IncompleteFrame, match="without its close_notify"):
            client.recv()


def test_plain_bytes_in_the_midst_are_refused(typed, call):
    with typed() as program, call(program, BY_LINE) as client:
        program.write(b"first\n")
        assert client.recv() == b"first"
        program.write(b"P\n")  # "Lets print some clear text"
        with pytest.raises(ssl.SSLError, match="bytes are not TLS records"):
            client.recv()
        with pytest.raises(ssl.SSLError, match="bytes are not TLS records"):
            client.send(b"more")


# ------------------------------------------------------------ TLS at one end only


@pytest.mark.case("H08")
def test_server_without_tls_h08(call, tmp_path):
    with peer(tmp_path, "socat", "-t", 0.1, "TCP-LISTEN:0,bind=127.0.0.1", "-") as program:
        program.write(b"220 welcome\r\n")
        with pytest.raises(ssl.SSLError, match="the server's bytes are not TLS"):
            call(program)


@pytest.mark.case("H08")
@servers
def test_client_without_tls_h08(kind, serve):
    """OpenSSL closes without a word, also with a reset; GnuTLS tells what it does not like."""
    ends = (FrameTooLarge, ConnectionClosed, ConnectionResetError)
    with serve(kind) as program:
        with Client(f"127.0.0.1:{program.port}", timeout=LIMIT) as client:
            client.send(b"hello")
            with pytest.raises(ends) as caught:
                client.recv()
        until(lambda: re.search("wrong version number|unexpected TLS packet", program.said))
    if kind == "gnutls":
        assert "a TLS server's alert (use tls://)?" in str(caught.value)
