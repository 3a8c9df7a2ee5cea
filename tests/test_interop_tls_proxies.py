"""HAProxy and stunnel in front of a server: with TLS at either side of them, or through."""

from __future__ import annotations

import ast
import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import certificates
from certificates import Certificates, Files
from conftest import linux
from gate import serving, warnings_in
from peers import pattern, until
from programs import LIMIT, peer
from pysock import (
    AuthenticationError,
    Client,
    ConnectionClosed,
    IncompleteFrame,
    Server,
    Session,
)

pytestmark = linux

certs = certificates.certs

CLIENT = "127.0.0.9"  # no proxy's address
KEY = b"k" * 32
SIZES = (0, 1, 16 * 1024, 1 << 20, 1019)
WANTED = [pattern(size) for size in SIZES]

HAPROXY = """
global
    maxconn 50
    nbthread 1
defaults
    mode tcp
    timeout connect 10s
    timeout client 60s
    timeout server 60s
listen front
    bind fd@{fd} {bind}
    server back 127.0.0.1:{port} {options}
"""

STUNNEL = """
foreground = yes
syslog = no
debug = info
pid =
[service]
accept = 127.0.0.1:0
connect = 127.0.0.1:{port}
{options}
"""


@pytest.fixture
def haproxy(tmp_path: Path) -> Callable[..., Any]:
    """A function: run HAProxy in front of a server; gives where it listens."""

    @contextlib.contextmanager
    def run(server: Server, bind: str, options: str) -> Iterator[Any]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            fd, port = listener.fileno(), server.server_address[1]
            config = tmp_path / "haproxy.cfg"
            config.write_text(HAPROXY.format(fd=fd, bind=bind, port=port, options=options))
            where = listener.getsockname()
            with peer(tmp_path, "haproxy", "-db", "-f", config, fds=(fd,)):
                listener.close()  # or clients would wait for one that has ended
                yield where

    return run


@pytest.fixture
def stunnel(tmp_path: Path) -> Callable[..., Any]:
    """A function: run stunnel in front of a server."""

    def run(server: Server, *options: str) -> Any:
        config = tmp_path / "stunnel.conf"
        text = STUNNEL.format(port=server.server_address[1], options="\n".join(options))
        config.write_text(text)
        return peer(tmp_path, "stunnel", config)

    return run


def call(where: Any, tls: ssl.SSLContext | None, **options: Any) -> Client:
    """Connect from an address that no proxy has."""
    sock = socket.create_connection(where, LIMIT, (CLIENT, 0))
    try:
        if tls is not None:
            options = {"tls": tls, "server_hostname": "localhost", **options}
        return Client(sock=sock, timeout=LIMIT, **options)
    except BaseException:
        sock.close()
        raise


def bundle(files: Files, folder: Path) -> Path:
    """The path of a certificate with its key behind it."""
    path = folder / f"{files.certificate.stem}-bundle.pem"
    path.touch(0o600)
    path.write_bytes(files.certificate.read_bytes() + files.key.read_bytes())
    return path


def tell(message: bytes, connection: Any) -> bytes:
    """Answer "who" with what is known of the client, in Python; the rest as it came."""
    if message != b"who":
        return message
    proxy = connection.proxy
    fields = {} if proxy is None else {"authority": proxy.authority, **ssl_fields(proxy.tlvs)}
    return repr((connection.client_address, connection.user, fields)).encode()


def ssl_fields(tlvs: Any) -> dict[str, Any]:
    """What the TLV of TLS says, by the names of HAProxy's specification."""
    found = dict(tlvs).get(0x20)
    if found is None:
        return {}
    fields = {"client": found[0], "verify": int.from_bytes(found[1:5], "big")}
    names = {0x21: "version", 0x22: "cn", 0x23: "cipher", 0x24: "sig_alg", 0x25: "key_alg"}
    rest = found[5:]
    while rest:
        end = 3 + int.from_bytes(rest[1:3], "big")
        fields[names[rest[0]]] = rest[3:end].decode()
        rest = rest[end:]
    return fields


def who(client: Client) -> Any:
    """What the server knows of this client: its user, and the fields of the header."""
    address, *known = ast.literal_eval(client.request(b"who").decode())
    assert address == client.getsockname()
    assert address[0] == CLIENT
    return known


def check_talk(client: Client) -> None:
    assert [client.request(message) for message in WANTED] == WANTED
    assert client.request_many(WANTED) == WANTED


class Echo(Session):
    """Until the last message."""

    def handle(self) -> None:
        for message in self.connection:
            self.connection.send(message)
            if message == b"last":
                return


def check_last(client: Client, server: Server) -> None:
    """The server's end of the conversation comes as such."""
    client.send(b"last")
    assert list(client) == [b"last"]
    until(lambda: not server.stats["connections"])


# ------------------------------------------------------------ HAProxy


@pytest.mark.case("I04")
@pytest.mark.parametrize("known", [False, True])
def test_haproxy_tells_of_the_tls_that_ends_there_i04(known, haproxy, certs, tmp_path, caplog):
    """Also of the client's certificate: flags 1 TLS, 2 and 4 a certificate."""
    bind = f"ssl crt {bundle(certs.server, tmp_path)} ca-file {certs.ca} verify optional"
    wanted = "authority,ssl,cert-cn,ssl-cipher,cert-sig,cert-key,crc32c"
    files = certs.issue("client@example.org", common_name="worker 7")
    shown = {"certificate": files.certificate, "key": files.key} if known else {}
    with (
        serving(tell, proxy_protocol="v2") as server,
        haproxy(server, bind, f"send-proxy-v2-ssl proxy-v2-options {wanted}") as where,
        call(where, certs.client_context(**shown)) as client,
    ):
        user, fields = who(client)
        assert user is None
        assert fields.pop("cipher").startswith("TLS_")
        assert fields == {
            "authority": "localhost",
            "client": 7 if known else 1,
            "verify": 0,
            "version": "TLSv1.3",
            "sig_alg": "ecdsa-with-SHA256",
            "key_alg": "EC256",
            **({"cn": "worker 7"} if known else {}),
        }
        check_talk(client)
    assert warnings_in(caplog) == []


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_end_of_the_server_comes_through_haproxy(version, haproxy, certs, tmp_path):
    bind = f"ssl crt {bundle(certs.server, tmp_path)} ssl-max-ver TLSv{version}"
    with (
        serving(Echo, proxy_protocol="v2") as server,
        haproxy(server, bind, "send-proxy-v2") as where,
        call(where, certs.client_context(minimum=version)) as client,
    ):
        assert client.tls.version() == f"TLSv{version}"
        check_last(client, server)


@pytest.mark.case("I04")
@pytest.mark.parametrize("send", ["send-proxy-v2", "send-proxy-v2-ssl", "send-proxy"])
def test_haproxy_lets_tls_and_the_proof_through_i04(send, haproxy, certs, caplog):
    """A PROXY header, TLS, the proof, messages."""
    options = {"tls": certs.server_context(), "authkey": {"ann": KEY}}
    with (
        serving(tell, proxy_protocol="any", **options) as server,
        haproxy(server, "", send) as where,
    ):
        trusting = certs.client_context()
        with call(where, trusting, authkey=KEY, user="ann") as client:
            user, fields = who(client)
            assert user == "ann"
            assert fields.get("client", 0) == 0  # no TLS at the proxy
            check_talk(client)
        assert warnings_in(caplog) == []
        with pytest.raises(AuthenticationError, match="refused the key"):
            call(where, trusting, authkey=KEY[::-1] + b"x", user="ann")
        until(lambda: warnings_in(caplog))
        (line,) = warnings_in(caplog)
        assert line.startswith(f"{CLIENT}:")
        assert "the proof of user 'ann' is wrong" in line


@pytest.mark.case("I04")
def test_haproxy_encrypts_again_i04(haproxy, certs, tmp_path, caplog):
    """A PROXY header and TLS of the proxy's own, with another certificate in front."""
    bind = f"ssl crt {bundle(certs.issue('localhost'), tmp_path)}"
    options = f"send-proxy-v2-ssl ssl verify required ca-file {certs.ca}"
    with (
        serving(tell, proxy_protocol="v2", tls=certs.server_context()) as server,
        haproxy(server, bind, options) as where,
    ):
        with call(where, certs.client_context()) as client:
            user, fields = who(client)
            assert (user, fields["version"]) == (None, "TLSv1.3")
            check_talk(client)
        until(lambda: not server.stats["connections"])
    assert warnings_in(caplog) == []


@pytest.mark.case("T19")
@pytest.mark.parametrize(
    ("encrypted", "same"), [(False, False), (False, True), (True, False), (True, True)]
)
def test_proof_fails_where_tls_ends_on_the_way(
    encrypted, same, haproxy, certs, tmp_path, caplog
):
    """But for a proxy that has the server's own certificate, and TLS behind it."""
    files = certs.server if same else certs.issue("localhost")
    options = {"tls": certs.server_context()} if encrypted else {}
    behind = f" ssl verify required ca-file {certs.ca}" if encrypted else ""
    with (
        serving(tell, proxy_protocol="v2", authkey=KEY, **options) as server,
        haproxy(
            server, f"ssl crt {bundle(files, tmp_path)}", f"send-proxy-v2{behind}"
        ) as where,
    ):
        if encrypted and same:
            with call(where, certs.client_context(), authkey=KEY) as client:
                assert who(client)[0] == ""
        else:
            with pytest.raises(AuthenticationError, match="TLS ends at a proxy before it"):
                call(where, certs.client_context(), authkey=KEY)
            until(lambda: warnings_in(caplog))
            (line,) = warnings_in(caplog)
            assert "or another certificate" in line


@pytest.mark.parametrize(
    "check", ["send-proxy-v2 check-send-proxy", "send-proxy-v2 check-send-proxy check-ssl"]
)
def test_checks_of_haproxy_are_no_alarm(check, haproxy, certs, caplog):
    options = f"check inter 20ms verify none {check}"
    with (
        serving(tell, proxy_protocol="v2", tls=certs.server_context()) as server,
        haproxy(server, "", options) as where,
    ):
        until(lambda: server.stats["accepted"] > 3)
        with call(where, certs.client_context()) as client:
            check_talk(client)
        assert warnings_in(caplog) == []


# ------------------------------------------------------------ stunnel


def presented(files: Files) -> tuple[str, str]:
    return f"cert = {files.certificate}", f"key = {files.key}"


@pytest.mark.parametrize("trust", ["ca", "pin"])
def test_stunnel_before_a_plain_server(trust, stunnel, certs, caplog):
    options = {"ca": certs.ca} if trust == "ca" else {"ca": None, "pin": certs.server.pin}
    with (
        serving(Echo) as server,
        stunnel(server, *presented(certs.server)) as program,
    ):
        where = ("127.0.0.1", program.port)
        with call(where, certs.client_context(**options)) as client:
            check_talk(client)
        program.has_said(r"TLS closed \(SSL_read\)")  # and not just its socket
        with call(where, certs.client_context(**options)) as client:
            check_last(client, server)
    assert warnings_in(caplog) == []


@pytest.mark.case("I04")
def test_stunnel_tells_the_clients_address_i04(stunnel, certs):
    with (
        serving(tell, proxy_protocol="v1") as server,
        stunnel(server, *presented(certs.server), "protocol = proxy") as program,
        call(("127.0.0.1", program.port), certs.client_context()) as client,
    ):
        assert who(client) == [None, {"authority": None}]
        check_talk(client)


@pytest.fixture
def tunnel(stunnel: Any, certs: Certificates) -> Callable[..., Any]:
    """A function: run stunnel as the client of a server with TLS."""

    def tunnel(
        server: Server,
        ca: Path | None = None,
        files: Files | None = None,
        version: str = "1.3",
    ) -> Any:
        options = [f"CAfile = {ca or certs.ca}", "verifyChain = yes", "checkHost = localhost"]
        options += ["client = yes", f"sslVersionMax = TLSv{version}"]
        return stunnel(server, *options, *(presented(files) if files else ()))

    return tunnel


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_stunnel_before_a_plain_client(version, tunnel, certs, caplog):
    context = certs.server_context(client_ca=certs.ca, minimum=version)
    with (
        serving(Echo, tls=context) as server,
        tunnel(server, files=certs.client, version=version) as program,
    ):
        with call(("127.0.0.1", program.port), None) as client:
            check_talk(client)
        until(lambda: not server.stats["connections"])
        program.has_said(rf"TLSv{version} ciphersuite")
        program.has_said(r"TLS closed \(SSL_read\)")
        with call(("127.0.0.1", program.port), None) as client:
            check_last(client, server)
    assert warnings_in(caplog) == []


def test_killed_stunnel_is_told_as_cut_off(tunnel, certs, caplog):
    caplog.set_level("INFO")
    with (
        serving(Echo, tls=certs.server_context()) as server,
        tunnel(server) as program,
        call(("127.0.0.1", program.port), None) as client,
    ):
        assert client.request(b"hello") == b"hello"
        program.process.kill()
        assert list(client) == []
        until(lambda: not server.stats["connections"])
        told = str(IncompleteFrame(0, None))
        until(lambda: any(line.endswith(told) for line in caplog.messages))
        assert warnings_in(caplog) == []


ENDED = (ConnectionClosed, ConnectionResetError)  # as the server's end meets the message


def test_stunnel_does_not_trust_the_server(tunnel, certs, caplog):
    with (
        serving(Echo, tls=certs.server_context()) as server,
        tunnel(server, ca=certs.other_ca) as program,
    ):
        where = ("127.0.0.1", program.port)
        with pytest.raises(ENDED), call(where, None) as client:
            client.recv()
        until(lambda: warnings_in(caplog))
        (line,) = warnings_in(caplog)
        assert "the client does not trust this side's certificate" in line
        program.has_said("certificate verify failed")


def test_server_does_not_trust_stunnel(tunnel, certs, caplog):
    with (
        serving(Echo, tls=certs.server_context(client_ca=certs.ca)) as server,
        tunnel(server, files=certs.of_other_ca) as program,
    ):
        where = ("127.0.0.1", program.port)
        with pytest.raises(ENDED), call(where, None) as client:
            client.recv()
        until(lambda: warnings_in(caplog))
        (line,) = warnings_in(caplog)
        assert "the client's certificate is refused" in line
        program.has_said("alert unknown ca")


def test_proof_of_a_plain_client_fails_behind_stunnel(tunnel, certs):
    """It knows of no certificate, and the server of its own."""
    with (
        serving(Echo, tls=certs.server_context(), authkey=KEY) as server,
        tunnel(server) as program,
        pytest.raises(AuthenticationError, match="refused the key"),
    ):
        call(("127.0.0.1", program.port), None, authkey=KEY)
