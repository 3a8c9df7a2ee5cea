"""What docs/security.md shows works as it stands: commands, programs, files of others."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import certificates
import pysock
from conftest import linux, require_peer
from pages import Page, Site, promised, replaced
from peers import LONG, until
from proofs import KEY
from pysock import tls

PAGE = Page("docs/security.md")

pytestmark = linux

certs = certificates.certs

MODULES = PAGE.programs()
PAIRS = ["unix", "uids", "pin", "ca"]  # a server's program and a client's
ALONE = [
    name
    for name in MODULES
    if name != "app.py" and not name.endswith(("_server.py", "_client.py"))
]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    uid = ("# uid 1000 ", f"# uid {os.getuid()} ")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield Site(tmp_path, PAGE, listener, uid)


def talk(site: Site, name: str, client: str = "") -> str:
    """Run a server's program and a client's; return what the client prints."""
    client = client or f"{name}_client.py"
    with site.serving(sys.executable, "-W", "error", f"{name}_server.py"):
        if "unix:" in MODULES[client]:
            until((site.folder / "app.sock").exists)
        said = site.program(client)
    assert said == (promised(MODULES[client]) or said)
    return "\n".join(said)


def keygen(site: Site) -> None:
    pytest.importorskip("cryptography")
    site.script(PAGE.blocks("sh", PAGE.section("Several machines: a pin and a key"))[0])


# ------------------------------------------------------------ commands and programs


def test_unix_socket(site):
    site.script(PAGE.blocks("sh", PAGE.section("One machine: Unix sockets"))[0])
    assert talk(site, "unix") == f"uid {os.getuid()} said hello"


def test_unix_socket_of_several_users(site):
    site.script(PAGE.blocks("sh", PAGE.section("Other users of the machine"))[0])
    assert talk(site, "uids", "unix_client.py") == f"uid {os.getuid()} said hello"


def test_pin_and_key_from_the_first_to_the_renewed(site):
    pytest.importorskip("cryptography")
    require_peer("openssl")
    site.script(*PAGE.blocks("sh", PAGE.section("Several machines: a pin and a key")))
    assert talk(site, "pin") == "alice said hello"
    files = PAGE.section("Several machines: a pin and a key")
    for name, mode in re.findall(
        r"^\| `([\w.-]+)` \|.*\| (any|0600) \|$", files, re.MULTILINE
    ):
        found = (site.folder / name).stat().st_mode & 0o777
        assert mode == "any" or found == int(mode, 8), name


def test_ca(site):
    require_peer("openssl")
    site.script(*PAGE.blocks("sh", PAGE.section("Several machines: a CA")))
    assert talk(site, "ca") == "alice said hello"
    # Neither end can be the other with its certificate.
    for names in (("alice", "server"), ("server", "server"), ("alice", "alice")):
        client, server = (
            (site.folder / f"{name}.pem", site.folder / f"{name}-key.pem") for name in names
        )
        ca = site.folder / "ca.pem"
        context = tls.server_context(*server, client_ca=ca)
        with pysock.Server("tls://127.0.0.1:0", bytes, tls=context).start() as target:
            known = tls.client_context(ca, certificate=client[0], key=client[1])
            fits = names == ("alice", "server")
            with (
                contextlib.nullcontext()
                if fits
                else pytest.raises((ssl.SSLError, pysock.AuthenticationError, OSError)),
                pysock.Client(target.address, tls=known, timeout=LONG) as talking,
            ):
                assert talking.request(b"x") == b"x"


@pytest.mark.parametrize("name", ALONE)
def test_program_prints_what_its_comments_say(site, name):
    if "certificate.pem" in MODULES[name]:
        keygen(site)
    site.check_program(name)


def test_every_block_is_run():
    pairs = {f"{name}_server.py" for name in PAIRS}
    pairs |= {f"{name}_client.py" for name in PAIRS if name != "uids"}
    assert {*MODULES} == {"app.py", *pairs, *ALONE}
    assert len(PAGE.blocks("python")) == len(MODULES)
    assert len(PAGE.blocks("sh")) == 9  # each has a test on this page
    assert {*re.findall(r"^```(\w+)$", PAGE.text, re.MULTILINE)} == {
        "python",
        "sh",
        "ini",
        "yaml",
        "haproxy",
    }


# ------------------------------------------------------------ files that others can read


FILES = PAGE.section("Files that others can read are refused")


def loaded(site: Site, certs: certificates.Certificates) -> Path:
    """A folder with the files that the server needs."""
    folder = site.folder / "secret"
    folder.mkdir()
    for name, data in (
        ("certificate.pem", certs.server.certificate.read_bytes()),
        ("private-key.pem", certs.server.key.read_bytes()),
        ("users", f"alice {KEY.hex()}\n".encode()),
    ):
        (folder / name).write_bytes(data)
        (folder / name).chmod(0o600)
    return folder


def check_served(site: Site, certs: certificates.Certificates, command: list[str]) -> None:
    """Run a command that serves; talk to it."""
    context = certs.client_context()
    with (
        site.serving(*map(site.here, command)),
        pysock.Client(
            f"localhost:{site.port}", tls=context, authkey=KEY, user="alice", timeout=LONG
        ) as client,
    ):
        assert client.request(b"hello") == b"alice said hello"


def test_unit_serves_what_systemd_hands_out(site, certs):
    (unit,) = PAGE.blocks("ini", FILES)
    (command,) = re.findall(r"^ExecStart=(.+)$", unit, re.MULTILINE)
    secret = loaded(site, certs)
    names = {"private-key.pem", "users"}
    assert {*re.findall(r"LoadCredential=([\w.-]+):", unit)} == names
    assert {*re.findall(r"\$\{CREDENTIALS_DIRECTORY\}/([\w.-]+)", command)} == names
    command = replaced(
        command,
        ("${CREDENTIALS_DIRECTORY}", str(secret)),
        ("/opt/messages/venv/bin/pysock", "pysock"),
        ("/etc/messages", str(secret)),
        ("fd://3", "tls://:5210"),
    )
    check_served(site, certs, shlex.split(command))


def test_systemd_finds_no_fault_with_the_unit(tmp_path):
    sockets, service = Page("docs/deploy.md").blocks("ini")
    program = "/opt/messages/venv/bin/pysock"
    (tmp_path / "messages.socket").write_text(sockets)
    unit = tmp_path / "messages.service"
    unit.write_text(replaced(service, (program, sys.executable)))
    (tmp_path / "messages.service.d").mkdir()
    (more,) = PAGE.blocks("ini", FILES)
    more = replaced(more, (program, sys.executable))
    (tmp_path / "messages.service.d" / "tls.conf").write_text(more)
    done = subprocess.run(
        [require_peer("systemd-analyze"), "verify", "./messages.socket", "./messages.service"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_pod_serves_what_kubernetes_hands_out(site, certs):
    (manifest,) = PAGE.blocks("yaml", FILES)
    (words,) = re.findall(r"command: (\[.*\])$", manifest, re.MULTILINE)
    assert re.findall(r"mountPath: (\S+)", manifest) == ["/secret"]
    assert "defaultMode: 0440\n" in manifest
    # Kubernetes has the group of the files be this one.
    assert len({*re.findall(r"(?:runAsUser|fsGroup): (\d+)", manifest)}) == 1
    secret = str(loaded(site, certs))
    check_served(site, certs, [word.replace("/secret", secret) for word in json.loads(words)])


# ------------------------------------------------------------ load balancers


BALANCERS = PAGE.section("Load balancers")


@contextlib.contextmanager
def haproxy(folder: Path, config: str, *fds: int) -> Iterator[None]:
    path = folder / "haproxy.cfg"
    path.write_text(config)
    with (folder / "haproxy.log").open("wb") as log:
        process = subprocess.Popen(
            [require_peer("haproxy"), "-db", "-f", str(path)], pass_fds=fds, stderr=log
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(LONG)


def test_tls_passes_through_the_balancer(site, certs):
    (command,) = PAGE.blocks("sh", BALANCERS)
    (config,) = PAGE.blocks("haproxy", BALANCERS)
    loaded(site, certs)
    command = replaced(
        site.here(command),
        ("10.0.0.5", "127.0.0.1"),
        ("certificate.pem", "secret/certificate.pem"),
        ("private-key.pem", "secret/private-key.pem"),
        ("--users users", "--users secret/users"),
    )
    app = "def handler(message, connection):\n    return repr((connection.user, "
    app += "connection.client_address[0])).encode()\n"
    (site.folder / "app.py").write_text(app)
    with socket.create_server(("127.0.0.1", 0)) as front:
        config = replaced(
            config,
            ("bind :5210", f"bind fd@{front.fileno()}"),
            ("10.0.0.11:5210", f"127.0.0.1:{site.port}"),
        )
        with (
            haproxy(site.folder, config, front.fileno()),
            site.serving(*shlex.split(command)),
            socket.create_connection(front.getsockname(), LONG, ("127.0.0.9", 0)) as sock,
            pysock.Client(
                sock=sock,
                tls=certs.client_context(),
                server_hostname="localhost",
                authkey=KEY,
                user="alice",
                timeout=LONG,
            ) as client,
        ):
            assert client.request(b"hello") == b"('alice', '127.0.0.9')"


@pytest.mark.case("T19")
@pytest.mark.parametrize("behind", ["ssl verify none", ""])
def test_proof_fails_where_tls_ends_at_the_proxy(tmp_path, certs, behind):
    other = certs.issue(*certificates.NAMES)
    both = tmp_path / "both.pem"
    both.write_bytes(other.certificate.read_bytes() + other.key.read_bytes())
    options = {"tls": certs.server_context()} if behind else {}
    with (
        pysock.Server("127.0.0.1:0", bytes, authkey=KEY, **options).start() as server,
        socket.create_server(("127.0.0.1", 0)) as front,
    ):
        config = replaced(
            PAGE.blocks("haproxy", BALANCERS)[0],
            ("bind :5210", f"bind fd@{front.fileno()} ssl crt {both}"),
            ("10.0.0.11:5210 send-proxy-v2", f"127.0.0.1:{server.address.port} {behind}"),
        )
        address = f"tls://localhost:{front.getsockname()[1]}"
        with (
            haproxy(tmp_path, config, front.fileno()),
            pytest.raises(pysock.AuthenticationError, match="TLS ends at a proxy before it"),
        ):
            pysock.Client(address, tls=certs.client_context(), authkey=KEY)
