"""TLS and keys as `pysock send` and `bench` use them, and options that cannot be used."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

import certificates
import pysock
import secured
from programs import LIMIT, PYTHON, serving
from pysock.cli import main
from pysock.cli.options import in_options
from secured import APP, given, refused, run, told, write

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="signals of POSIX")

certs = certificates.certs
secrets = secured.secrets
own_address = secured.own_address


# ------------------------------------------------------------ send


@pytest.fixture
def server(certs) -> Iterator[pysock.Server]:
    seen: list[bytes] = []

    class Talk(pysock.Session):
        def handle(self) -> None:
            for message in self.connection:
                seen.append(message)
                if message == b"end":
                    self.connection.send(b"ended")
                    return
                self.connection.send(message.upper())

    tls = certs.server_context()
    with pysock.Server("tls://127.0.0.1:0", Talk, tls=tls).start() as server:
        server.seen = seen  # type: ignore[attr-defined]
        yield server


def test_lines_are_sent_and_answered(server, certs):
    lines = "".join(f"line {i}\n" for i in range(2000))
    done = run("send", server.address, "--ca", certs.ca, text=lines)
    assert done == (0, lines.upper(), "")


def test_without_replies_the_server_s_silence_is_the_end(server, certs):
    options = ["--ca", certs.ca, "--no-reply", "--timeout", "0.5"]
    assert run("send", server.address, *options, "a", "b") == (0, "", "")
    assert server.seen == [b"a", b"b"]


def test_until_close_takes_what_comes_to_the_end(server, certs):
    options = ["--ca", certs.ca, "--until-close"]
    assert run("send", server.address, *options, "a", "end") == (0, "A\nended\n", "")


def test_server_that_is_cut_off_is_a_failure(certs):
    """TLS that ends without its close_notify is no end, wherever it happens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"tls://127.0.0.1:{listener.getsockname()[1]}"
        command = [*PYTHON, "-P", "-m", "pysock", "send", address, "--ca", str(certs.ca), "hi"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            listener.settimeout(LIMIT)
            sock = listener.accept()[0]
            sock.settimeout(LIMIT)
            with certs.server_context().wrap_socket(sock, server_side=True) as tls:
                assert tls.recv(99)
            assert process.communicate(timeout=LIMIT)[1].startswith(
                "pysock send: the connection failed: the stream was cut off: "
            )
            assert process.returncode == 255


# ------------------------------------------------------------ bench


def test_bench_measures_a_server_with_tls_and_key(tmp_path, certs, secrets, own_address):
    """From another machine only so many connections may be made at a time."""
    options = [*given(certs.server), "--authkey", secrets.authkey]
    options += ["--bind", "tls://0.0.0.0:0"]
    with serving(tmp_path, "app:tell", *options, app=APP) as served:
        address = served.address.replace("0.0.0.0", own_address)
        bench = ["bench", address, "--ca", certs.ca, "--server-hostname", "localhost"]
        bench += ["--authkey", secrets.authkey, "-t", "0.3", "--warmup", "0", "-c", "100"]
        for count in ("1", "6"):
            done = run(*bench, "-p", count, "--json")
            assert (done.status, done.err) == (0, "")
            result = json.loads(done.out)
            assert result["answered"] > 0 and not any(result["errors"].values()), result
            assert result["connections_opened"] == 100
        assert served.stop() == 0
        assert "WARNING" not in served.said


def test_bench_tells_why_it_is_not_let_in(tmp_path, certs, secrets):
    options = [*given(certs.server), "--authkey", secrets.authkey]
    with told(tmp_path, *options) as served:
        bench = ["bench", served.address, "-t", "0.3", "-c", "4", "-p", "2"]
        pin = ["--pin", certs.server.pin]
        wrong = run(*bench, *pin, "--authkey", secrets.other)
        refused(wrong, "the server refused the key", "bench")
        refused(run(*bench, "--ca", certs.other_ca), "pass its CA as --ca", "bench")
        refused(run(*bench, *pin), "no request was answered: ", "bench")


def test_bench_of_a_server_that_demands_a_certificate(tmp_path, certs):
    options = [*given(certs.server), "--client-ca", certs.ca]
    with told(tmp_path, *options) as served:
        bench = ["bench", served.address, "--ca", certs.ca, "-t", "0.2", "-c", "2"]
        refused(run(*bench), "certificate", "bench")
        done = run(*bench, *given(certs.client))
        assert (done.status, done.err) == (0, "")


# ------------------------------------------------------------ what cannot be used


SERVE = ["serve", "app:tell", "--bind", "tls://127.0.0.1:0"]
SEND = ["send", "tls://127.0.0.1:1", "hi"]


@pytest.fixture
def complaint(capsys, tmp_path, monkeypatch):
    """Run a verb in the folder of the files; it must refuse them; return its one line."""
    monkeypatch.chdir(tmp_path)

    def complaint(*arguments: object) -> str:
        assert main([*map(str, arguments)]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.startswith(f"pysock {arguments[0]}: ")
        assert err.count("\n") == 1
        return err

    return complaint


@pytest.mark.parametrize("verb", ["serve", "send", "bench"])
def test_file_that_cannot_be_used_is_named(complaint, certs, secrets, tmp_path, verb):
    first = {"serve": [*SERVE, *given(certs.server)], "bench": ["bench", "127.0.0.1:1"]}
    verb_and_more = first.get(verb, SEND)
    write(tmp_path / "short", secrets.keys[0][:-1])
    write(tmp_path / "open", secrets.keys[0], mode=0o640)
    for file, said in (
        ("missing", "cannot read 'missing': No such file or directory\n"),
        ("", "cannot read '': No such file or directory\n"),
        (".", "cannot read '.': Is a directory\n"),
        ("open", "cannot read 'open': mode 0640 lets others use it, run chmod 600 open\n"),
        (
            "short",
            "short: expected a key of 64 hex digits, as openssl rand -hex 32 makes it\n",
        ),
    ):
        err = complaint(*verb_and_more, "--authkey", file)
        assert err.endswith(f": {said}")
        assert secrets.keys[0][:8] not in err


def test_file_of_users_that_cannot_be_used_is_named(complaint, certs, secrets, tmp_path):
    serve = [*SERVE, *given(certs.server), "--users", "broken"]
    for text, said in (
        ("alice\n", "broken:1: 1 words, expected a user and a key\n"),
        (f"\nalice {secrets.keys[0][1:]}\n", "broken:2: expected a key of 64 hex digits"),
        ("# nobody\n", "broken: no user is in it\n"),
        ("", "broken: no user is in it\n"),
    ):
        write(tmp_path / "broken", text)
        err = complaint(*serve)
        assert f": {said}" in err
        assert secrets.keys[0][1:9] not in err


@pytest.mark.parametrize("verb", [SERVE, SEND])
def test_certificate_that_cannot_be_used_is_named(complaint, certs, tmp_path, verb):
    good = certs.server
    write(tmp_path / "open.pem", good.key.read_text(), mode=0o644)
    write(tmp_path / "text.pem", "no certificate")
    locked = certs.self_signed(password=b"secret")
    for certificate, key, said in (
        ("missing.pem", good.key, "cannot read 'missing.pem': No such file or directory\n"),
        (good.certificate, "missing.pem", "cannot read 'missing.pem': No such file"),
        ("text.pem", good.key, "text.pem: no certificate in PEM form is in it\n"),
        (good.certificate, "text.pem", "text.pem: no private key in PEM form is in it\n"),
        (good.certificate, "open.pem", "mode 0644 lets others use it, run chmod 600 open.pem"),
        (good.certificate, certs.client.key, "is not the private key of"),
        (*locked, "the private key is encrypted; store it without a password\n"),
    ):
        err = complaint(*verb, "--certificate", certificate, "--key", key)
        assert said in err
    assert "no private key" in complaint(*verb, "--certificate", good.certificate)


def test_ca_that_cannot_be_used_is_named(complaint, certs, tmp_path):
    write(tmp_path / "text.pem", "no certificate")
    serve = [*SERVE, *given(certs.server), "--client-ca"]
    for command in (serve, [*SEND, "--ca"], ["bench", "127.0.0.1:1", "--ca"]):
        assert "cannot read 'missing.pem': No such" in complaint(*command, "missing.pem")
        assert "text.pem: no certificate in PEM" in complaint(*command, "text.pem")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--bind tls://:0", "address 'tls://:0' needs a certificate: --certificate"),
        ("--bind TLS://:0", "address 'TLS://:0' needs a certificate: --certificate"),
        ("--key k", "--key means nothing without --certificate"),
        ("--client-ca k", "--client-ca means nothing without --certificate"),
        ("--tls12", "--tls12 means nothing without --certificate"),
        ("--authkey k --users k", "argument --users: not allowed with argument --authkey"),
        ("--insecure", "--insecure is for an authkey without TLS: a certificate is checked"),
        ("--insecure --authkey k --certificate k", "--insecure is for an authkey without"),
        ("--allow-uid nosuchuser", "argument --allow-uid: 'nosuchuser' is no user of this"),
        ("--allow-uid -1", "argument --allow-uid: '-1' is no user of this machine"),
    ],
)
def test_wrong_options_of_serve(complaint, arguments, said):
    assert f": {said}" in complaint("serve", "app:tell", *arguments.split())


@pytest.mark.parametrize("verb", ["send", "bench"])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            "127.0.0.1:1 --pin 1234",
            "argument --pin: '1234' is no pin, which has 64 hex digits",
        ),
        ("127.0.0.1:1 --key k", "--key is of no use without --certificate"),
        ("127.0.0.1:1 --user alice", "user 'alice' has no --authkey to prove"),
        ("127.0.0.1:1 --insecure", "--insecure is for an authkey without TLS: a certifi"),
        ("tls://127.0.0.1:1 --insecure --authkey k", "--insecure is for an authkey without"),
        ("unix:@x --tls12", "the name in the server's certificate is to be checked: pass"),
    ],
)
def test_wrong_options_of_clients(complaint, verb, arguments, said):
    assert f": {said}" in complaint(verb, *arguments.split())


def test_library_s_advice_is_said_in_options():
    assert (
        in_options("pass certificate= and key= there") == "pass --certificate and --key there"
    )
    assert in_options("does the server use authkey=?") == "does the server use --authkey?"
    assert in_options("pass tls=, or insecure=True") == "pass --certificate, or --insecure"
    assert (
        in_options("pass its CA there, as client_ca=") == "pass its CA there, as --client-ca"
    )
    assert in_options("max_frame=1 is monkey=2") == "max_frame=1 is monkey=2"


def test_help_shows_the_options_together():
    for verb, options in {
        "serve": "--certificate --key --client-ca --tls12 --authkey --users --insecure "
        "--allow-uid",
        "send": "--ca --pin --server-hostname --certificate --key --tls12 --authkey --user "
        "--insecure",
        "bench": "--ca --pin --server-hostname --certificate --key --tls12 --authkey --user",
    }.items():
        done = subprocess.run(
            [sys.executable, "-P", "-m", "pysock", verb, "--help"],
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        group = done.stdout.partition("\nTLS and keys:\n")[2].partition("\n\n  --")[2]
        for option in options.split():
            assert f"{option} " in f"  --{group}", option
