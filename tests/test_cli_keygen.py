"""`pysock keygen`: what it writes, and that a server and its clients can use it."""

from __future__ import annotations

import errno
import os
import re
import shlex
import shutil
import ssl
import stat
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import certificates
import pysock
from certificates import check_talk
from conftest import TIME_FACTOR
from pysock import tls
from pysock.cli import load, main
from pysock.cli.options import client_security, server_security

pytest.importorskip("cryptography", reason="no build of cryptography for this Python")

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

LIMIT = 30 * TIME_FACTOR
MADE = {"certificate.pem", "private-key.pem", "authkey"}

shake = certificates.shake

needs_modes = pytest.mark.skipif(os.name == "nt", reason="files have no modes there")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def keygen(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the command; it must succeed and say nothing on stderr; return what it prints."""

    def keygen(*arguments: str) -> str:
        assert main(["keygen", *arguments]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        return out

    return keygen


@pytest.fixture
def complaint(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the command; it must fail as given; return its one line."""

    def complaint(status: int, *arguments: str) -> str:
        assert main(["keygen", *arguments]) == status
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("pysock keygen: ")
        assert err.count("\n") == 1
        return err

    return complaint


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def certificate(folder: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / "certificate.pem").read_bytes())


def row(out: str, name: str) -> str:
    found = re.search(rf"^ +{name} +(.+)$", out, re.MULTILINE)
    assert found, out
    return found[1]


def call(out: str, name: str) -> dict[str, Any]:
    """Return the arguments of the printed line that calls pysock.*name*."""
    (line,) = [text.strip() for text in out.splitlines() if f"pysock.{name}(" in text]
    assert line.startswith(f"pysock.{name}(")
    line = line.replace(f"pysock.{name}", "arguments")
    known = {"pysock": pysock, "arguments": arguments, "handler": bytes.upper}
    found: dict[str, Any] = eval(line, known)
    return found


def arguments(address: str, handler: Any = None, **options: Any) -> dict[str, Any]:
    return {"address": address, "handler": handler, **options}


# ---------------------------------------------------------------- what it makes


def test_three_files_are_made(keygen, folder):
    out = keygen()
    assert {*contents(folder)} == MADE
    assert re.fullmatch(rb"[0-9a-f]{64}\n", contents(folder)["authkey"])
    assert row(out, "pin") == tls.pin_of(folder / "certificate.pem")


@needs_modes
@pytest.mark.parametrize("force", [[], ["--force"]])
def test_secrets_are_private_from_the_first_moment(keygen, folder, monkeypatch, force):
    """Whatever the umask; a file that somebody else has put there is not taken."""
    opened = {}

    def spy(path: Any, flags: int, mode: int = 0o777) -> int:
        fd = real(path, flags, mode)
        opened[Path(path).name.removesuffix(".new")] = os.fstat(fd).st_mode & 0o777
        assert flags & os.O_EXCL
        return fd

    real, umask = os.open, os.umask(0)
    try:
        monkeypatch.setattr(os, "open", spy)
        keygen(*force)
    finally:
        os.umask(umask)
    assert opened == {"certificate.pem": 0o644, "private-key.pem": 0o600, "authkey": 0o600}
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == opened


def test_each_run_makes_others(keygen, folder):
    keygen()
    first = contents(folder)
    keygen("--force")
    assert not {*first.values()} & {*contents(folder).values()}


def test_folder_is_where_they_go(keygen, folder):
    (folder / "gëheim '1'").mkdir()
    out = keygen("gëheim '1'")
    assert {*contents(folder / "gëheim '1'")} == MADE
    assert isinstance(call(out, "Server")["tls"], ssl.SSLContext)


def test_folder_is_made_for_its_owner(keygen, folder):
    keygen("new")
    assert {*contents(folder / "new")} == MADE
    assert stat.S_IMODE((folder / "new").stat().st_mode) == 0o700


def test_certificate_s_fields(keygen, folder):
    keygen("--name", "a.example", "--days", "7")
    made = certificate(folder)
    begin, end = made.not_valid_before_utc, made.not_valid_after_utc
    assert timedelta(days=7) < end - begin < timedelta(days=7, minutes=6)
    assert made.subject.rfc4514_string() == "CN=a.example"
    assert made.issuer == made.subject
    extensions = {type(found.value): found.value for found in made.extensions}
    assert not extensions[x509.BasicConstraints].ca
    assert extensions[x509.KeyUsage].digital_signature
    assert not extensions[x509.KeyUsage].key_cert_sign
    assert {*extensions[x509.ExtendedKeyUsage]} == {
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
    }
    identifier = extensions[x509.SubjectKeyIdentifier].digest
    assert extensions[x509.AuthorityKeyIdentifier].key_identifier == identifier


def test_names_are_this_machine_s(keygen, folder, monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "Box-1.lan")
    assert row(keygen(), "for") == "Box-1.lan, localhost, 127.0.0.1, ::1"
    monkeypatch.setattr("socket.gethostname", lambda: "no name at all")
    assert row(keygen("--force"), "for") == "localhost, 127.0.0.1, ::1"


def test_names_are_those_given(keygen, folder):
    names = ["b.example", "bücher.example", "*.c.example", "192.0.2.7", "2001:DB8:0::7"]
    out = keygen(*(word for name in names for word in ("--name", name)))
    found = certificate(folder).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert found.value.get_values_for_type(x509.DNSName) == [
        "b.example",
        "xn--bcher-kva.example",
        "*.c.example",
    ]
    addresses = found.value.get_values_for_type(x509.IPAddress)
    assert [str(address) for address in addresses] == ["192.0.2.7", "2001:db8::7"]
    assert "b.example, xn--bcher-kva.example, *.c.example, 192.0.2.7, 2001:db8::7" in out


def test_name_that_is_long(keygen, folder):
    name = ".".join(["x" * 60] * 4)
    keygen("--name", name)
    found = certificate(folder).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert found.value.get_values_for_type(x509.DNSName) == [name]


# ---------------------------------------------------------------- what it is good for


@pytest.mark.parametrize("flags", [0, ssl.VERIFY_X509_STRICT])
@pytest.mark.parametrize("partial", [0, ssl.VERIFY_X509_PARTIAL_CHAIN])
def test_certificate_can_be_trusted_by_its_file(keygen, folder, shake, flags, partial):
    """Also as strictly as Python 3.13 looks at it; and by a server, as a client's."""
    keygen()
    files = folder / "certificate.pem", folder / "private-key.pem"
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for context in (server, client):
        context.load_cert_chain(*files)
        context.load_verify_locations(files[0])
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags = flags | partial
    for name in ("localhost", "127.0.0.1", "::1"):
        check_talk(*shake(client, server, name))
    assert "not valid for 'elsewhere'" in str(shake(client, server, "elsewhere")[0])


def check_lines(out: str) -> None:
    """Do what the printed lines say, at a free port."""
    server, client = call(out, "Server"), call(out, "Client")
    assert server.pop("address") == "tls://:5210"
    assert client.pop("handler") is None
    with pysock.Server("tls://127.0.0.1:0", **server).start() as started:
        host, _, port = client.pop("address").rpartition(":")
        assert (host, port) == ("tls://127.0.0.1", "5210")
        with pysock.Client(started.address, **client, timeout=LIMIT) as connected:
            assert connected.request(b"hello") == b"HELLO"


def test_printed_lines_work(keygen):
    check_lines(keygen("--name", "127.0.0.1", "--name", "::1"))


def test_printed_address_has_brackets_where_they_are_due(keygen):
    assert call(keygen("--name", "::1"), "Client")["address"] == "tls://[::1]:5210"


@pytest.mark.parametrize(
    "arguments",
    [
        ["keys", "--name", "127.0.0.1"],
        ["it's", "--name", "app.example"],
        [".", "--name", "::1", "--user", "alice"],
    ],
)
def test_printed_commands_are_whole(keygen, folder, arguments):
    """What a server and a client are given is read as it was made, and fits together."""
    out = keygen(*arguments)
    (folder / "authkey").write_bytes((folder / arguments[0] / "authkey").read_bytes())
    (folder / "authkey").chmod(0o600)
    if "--user" in arguments:
        subprocess.run(["sh", "-c", row(out, "its user")], cwd=folder, check=True)
    commands = [shlex.split(line) for line in out.splitlines() if "     pysock s" in line]
    (_, serve, *for_server), (_, send, *for_client) = commands
    assert (serve, send) == ("serve", "send")
    served = load("serve")[1].parse_intermixed_args(for_server)
    sent = load("send")[1].parse_intermixed_args(for_client)
    assert served.bind == ["tls://:5210"]
    assert sent.address.endswith(":5210")
    assert sent.messages == ["hello"]
    server_options = server_security(served, served.bind)
    client_options = client_security(sent)
    client_options["server_hostname"] = arguments[2]
    with (
        pysock.Server("tls://127.0.0.1:0", bytes.upper, **server_options).start() as server,
        pysock.Client(server.address, timeout=LIMIT, **client_options) as client,
    ):
        assert client.request(b"hello") == b"HELLO"


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash here")
def test_printed_path_is_one_for_a_shell_whatever_the_output_can_show(folder):
    (folder / "gë'h\\eim").mkdir()
    status, out, err = run("gë'h\\eim", "--user", "bob", PYTHONIOENCODING="ascii")
    assert (status, err) == (0, "")
    made = ["bash", "-c", row(out, "its user")]
    subprocess.run(made, cwd=folder, check=True)
    secret = (folder / "gë'h\\eim" / "authkey").read_text()
    assert (folder / "users").read_text() == f"bob {secret}"


def test_line_for_the_file_of_users(keygen, folder):
    out = keygen("--user", "zoë", "--name", "127.0.0.1")
    users = folder / "users"
    subprocess.run(["sh", "-c", row(out, "its user")], cwd=folder, check=True)
    assert stat.S_IMODE(users.stat().st_mode) == 0o600
    secret = (folder / "authkey").read_text().strip()
    assert users.read_text("utf-8") == f"zoë {secret}\n"
    assert secret not in out
    assert "user='zoë'" in out
    check_lines(out)


# ---------------------------------------------------------------- what it refuses


@pytest.mark.parametrize("name", sorted(MADE))
def test_nothing_is_overwritten_without_force(keygen, complaint, folder, name):
    (folder / name).write_text("mine")
    assert complaint(1) == f"pysock keygen: {name} exists already; --force replaces it\n"
    assert contents(folder) == {name: b"mine"}
    keygen("--force")
    assert {*contents(folder)} == MADE
    assert contents(folder)[name] != b"mine"


@needs_modes
def test_force_replaces_links_and_modes(keygen, folder):
    (folder / "mine").write_text("mine")
    (folder / "authkey").symlink_to("mine")
    (folder / "private-key.pem").touch(0o666)
    (folder / "authkey.new").symlink_to("mine")  # left by somebody
    keygen("--force")
    assert {*contents(folder)} == MADE | {"mine"}
    assert contents(folder)["mine"] == b"mine"
    for name in ("authkey", "private-key.pem"):
        assert (folder / name).lstat().st_mode & 0o177777 == 0o100600


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_failure_half_way_leaves_all_as_it_was(keygen, complaint, folder, monkeypatch, force):
    if force:
        keygen()
    before = contents(folder)

    def full(path: Any, *rest: Any) -> int:
        if "authkey" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return real(path, *rest)

    real = os.open
    monkeypatch.setattr(os, "open", lambda path, flags, mode=0o777: full(path, flags, mode))
    assert "cannot write authkey" in complaint(1, *force)
    assert contents(folder) == before


def test_folder_that_is_none(complaint, folder):
    (folder / "file").touch()
    assert "cannot write nowhere/deep" in complaint(1, "nowhere/deep")
    assert "cannot write file" in complaint(1, "file")
    assert "cannot write file" in complaint(1, "file", "--force")


@pytest.mark.parametrize(
    ("arguments", "seen"),
    [
        (["--name", ""], "'' is not the name or address of a host"),
        (["--name", "a b"], "'a b' is not the name"),
        (["--name", "host:5210"], "'host:5210' is not the name"),
        (["--name", "tls://host"], "is not the name"),
        (["--name", "a..b"], "is not the name"),
        (["--name", "x" * 64], "is not the name"),
        (["--name", "\udcff"], r"'\udcff' is not the name"),
        (["--days", "0"], "'0' is not a whole number from 1 to 36500"),
        (["--days", "1e9"], "'1e9' is not a whole number"),
        (["--days", "36501"], "'36501' is not a whole number from 1 to 36500"),
        (["--user", ""], "'' is not one word"),
        (["--user", "a b"], "'a b' is not one word"),
        (["--user", "#a"], "'#a' is not one word"),
        (["--user", "a\x07"], "control character"),
        (["--user", "x" * 256], "256 bytes"),
        (["--user", "\udcff"], "can't encode"),
        (["a", "b"], "unrecognized arguments: b"),
    ],
)
def test_wrong_command_line_makes_nothing(complaint, folder, arguments, seen):
    assert seen in complaint(2, *arguments)
    assert contents(folder) == {}


def test_without_cryptography_it_says_what_to_install(complaint, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography", None)
    assert "pip install 'pysock-framing[cli]'" in complaint(1)
    assert contents(folder) == {}


# ---------------------------------------------------------------- as a program


def run(*arguments: str, **env: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-m", "pysock", "keygen", *arguments],
        capture_output=True,
        timeout=LIMIT,
        env={**os.environ, **env},
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_program_without_rich(folder):
    (folder / "rich.py").write_text("raise ImportError('rich')")
    status, out, err = run(PYTHONPATH=os.pathsep.join([str(folder), *sys.path]))
    assert (status, err) == (0, "")
    assert len(row(out, "pin")) == 64
    assert run()[::2] == (
        1,
        "pysock keygen: certificate.pem exists already; --force replaces it\n",
    )


def test_output_that_cannot_show_everything(folder):
    (folder / "gëheim").mkdir()
    status, out, err = run("gëheim", PYTHONIOENCODING="ascii")
    assert (status, err) == (0, "")
    assert r"'g\xebheim/authkey'" in out or r"'g\xebheim\\authkey'" in out
    status, out, err = run("--user", "zoë", PYTHONIOENCODING="ascii")
    assert (status, out) == (2, "")
    assert err == r"pysock keygen: the output cannot show the user 'zo\xeb'" + os.linesep
    assert {*contents(folder / "gëheim")} == MADE
    assert [path.name for path in folder.iterdir()] == ["gëheim"]
