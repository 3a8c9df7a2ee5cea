"""What docs/deploy.md shows works: behind HAProxy, under systemd; the manifest is coherent."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import linux, require_peer
from pages import Page, replaced
from peers import LONG, until
from pysock import Client, Connection, ConnectionClosed
from pysock.address import connect
from pysock.cli import Parser, serve

PAGE = Page("docs/deploy.md")
TEXT = PAGE.text

pytestmark = linux

(HANDLER,) = PAGE.blocks("python")
(HAPROXY,) = PAGE.blocks("haproxy")
SOCKET, SERVICE = PAGE.blocks("ini")
(MANIFEST,) = PAGE.blocks("yaml")
COMMAND = shlex.split(PAGE.blocks("sh")[0])
ENDING = int(re.search(r"ends within (\d+) seconds more", TEXT)[1])


def setting(unit: str, name: str) -> str:
    (value,) = re.findall(rf"^{name}=(.*)$", unit, re.MULTILINE)
    return value


def end(process: subprocess.Popen[Any]) -> int:
    process.terminate()
    try:
        return process.wait(LONG)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise


# ------------------------------------------------------------ HAProxy


class Backend:
    """The page's server, on sockets that the system has chosen the ports of."""

    def __init__(self, folder: Path, version: str, ports: tuple[int, int] = (0, 0)) -> None:
        (folder / "app.py").write_text(HANDLER)
        sockets = [socket.create_server(("127.0.0.1", port)) for port in ports]
        self.port, self.health_port = (sock.getsockname()[1] for sock in sockets)
        changes = {
            "tcp://:8000": f"fd://{sockets[0].fileno()}",
            "tcp://:8080": f"fd://{sockets[1].fileno()}",
            "10.0.0.5": "127.0.0.1",
            "4": "1",
            "v2": version,
        }
        assert COMMAND[0] == "pysock" and set(changes) <= set(COMMAND)
        with (folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *(changes.get(word, word) for word in COMMAND)],
                cwd=folder,
                pass_fds=[sock.fileno() for sock in sockets],
                stderr=log,
            )
        for sock in sockets:
            sock.close()

    def stats(self) -> dict[str, Any]:
        with contextlib.closing(
            http.client.HTTPConnection("127.0.0.1", self.health_port, LONG)
        ) as client:
            client.request("GET", "/stats")
            return json.load(client.getresponse())


class Balancer:
    """The page's HAProxy, in front of two backends."""

    def __init__(self, folder: Path, version: str, send: str) -> None:
        self._folder, self._version = folder, version
        self._log = folder / "haproxy.log"
        with contextlib.ExitStack() as self._running:
            self.one, self.two = self.start(), self.start()
            self._run_haproxy(send)
            self._running = self._running.pop_all()

    def _run_haproxy(self, send: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener, self._log.open("wb") as log:
            self.sockaddr = listener.getsockname()
            config = replaced(
                HAPROXY,
                ("maxconn 4000", "maxconn 50"),  # descriptors may be few where tests run
                ("bind :8000", f"bind fd@{listener.fileno()}"),
                ("server one 10.0.0.11:8000", self._server("one", self.one)),
                ("server two 10.0.0.12:8000", self._server("two", self.two)),
                (" port 8080", ""),
                ("fastinter 500ms", "fastinter 50ms"),
                (" inter 2s", " inter 100ms"),
                ("send-proxy-v2", send),
            )
            path = self._folder / "haproxy.cfg"
            path.write_text(config)
            process = subprocess.Popen(
                [require_peer("haproxy"), "-db", "-f", str(path)],
                pass_fds=[listener.fileno()],
                stdout=log,
                stderr=log,
            )
        self._running.callback(end, process)

    @staticmethod
    def _server(name: str, backend: Backend) -> str:
        return f"server {name} 127.0.0.1:{backend.port} port {backend.health_port}"

    def start(self, ports: tuple[int, int] = (0, 0)) -> Backend:
        backend = Backend(self._folder, self._version, ports)
        self._running.callback(end, backend.process)
        backend.stats()  # it serves
        return backend

    def has_said(self, text: str) -> None:
        until(lambda: text in self._log.read_text())

    def call(self) -> Connection:
        """Connect from an address that no proxy has."""
        sock = socket.create_connection(self.sockaddr, LONG, ("127.0.0.9", 0))
        return Connection(sock, timeout=LONG)

    def close(self) -> None:
        self._running.close()


@pytest.fixture
def balance(tmp_path: Path) -> Iterator[Any]:
    require_peer("haproxy")
    with contextlib.ExitStack() as stack:

        def start(version: str = "v2", send: str = "send-proxy-v2") -> Balancer:
            return stack.enter_context(contextlib.closing(Balancer(tmp_path, version, send)))

        yield start


def check(connection: Connection) -> None:
    """Prove that the server knows the client's own address."""
    host, port = connection.getsockname()
    connection.send(b"hello")
    assert connection.recv() == f"{host}:{port} said hello".encode()
    assert host == "127.0.0.9"


def test_haproxy_finds_no_fault_with_the_configuration(tmp_path):
    path = tmp_path / "haproxy.cfg"
    path.write_text(HAPROXY)
    done = subprocess.run(
        [require_peer("haproxy"), "-c", "-f", str(path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "Configuration file is valid"
    assert done.stderr == ""


@pytest.mark.case("I04")
@pytest.mark.parametrize(
    ("version", "send"),
    [
        ("v2", "send-proxy-v2"),
        ("v2", "send-proxy-v2-ssl"),
        ("v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id,authority"),
        ("v1", "send-proxy"),
        ("any", "send-proxy"),
        ("any", "send-proxy-v2"),
    ],
)
def test_messages_arrive_with_the_clients_address_i04(balance, version, send):
    balancer = balance(version, send)
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            check(stack.enter_context(balancer.call()))
        accepted = [backend.stats()["accepted"] for backend in (balancer.one, balancer.two)]
        assert sum(accepted) == 4 and min(accepted) > 0


@pytest.mark.case("H21")
def test_connection_past_the_proxy_is_closed_h21(balance):
    balancer = balance()
    sock = socket.create_connection(("127.0.0.1", balancer.one.port), LONG)
    with Connection(sock, timeout=LONG) as connection:
        connection.send(b"hello")
        with pytest.raises((ConnectionClosed, ConnectionResetError)):
            connection.recv()
    with balancer.call() as connection:
        check(connection)


def test_stopped_backend_is_taken_out_and_comes_back(balance):
    balancer = balance()
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            check(stack.enter_context(balancer.call()))
        assert end(balancer.one.process) == 0
        for _ in range(20):  # also before HAProxy has found out
            with balancer.call() as connection:
                check(connection)
        balancer.has_said("Server pysock/one is DOWN")
        with balancer.call() as connection:
            check(connection)
        assert balancer.two.stats()["accepted"] >= 21
    again = balancer.start((balancer.one.port, balancer.one.health_port))
    balancer.has_said("Server pysock/one is UP")
    while not again.stats()["accepted"]:
        with balancer.call() as connection:
            check(connection)


def test_what_is_under_way_is_finished_through_the_proxy(balance):
    """A message of which half has come when its server is told to end."""
    balancer = balance()
    with contextlib.ExitStack() as stack:
        busy = [stack.enter_context(balancer.call()) for _ in range(2)]
        for connection in busy:
            # Sent as one, so that the reply to the first shows that the half is there.
            os.write(connection.fileno(), b"\0\0\0\5first\0\0\0\6sec")
            assert connection.recv().endswith(b" said first")
        balancer.one.process.terminate()
        balancer.has_said("Server pysock/one is DOWN")
        for connection in busy:
            os.write(connection.fileno(), b"ond")
            assert connection.recv().endswith(b" said second")
        assert balancer.one.process.wait(LONG) == 0


# ------------------------------------------------------------ systemd


def test_systemd_finds_no_fault_with_the_units(tmp_path):
    program, _, _ = setting(SERVICE, "ExecStart").partition(" ")
    (tmp_path / "messages.socket").write_text(SOCKET)
    (tmp_path / "messages.service").write_text(replaced(SERVICE, (program, sys.executable)))
    done = subprocess.run(
        [require_peer("systemd-analyze"), "verify", "./messages.socket", "./messages.service"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_unit_waits_for_the_drain():
    drain = float(options_of(setting(SERVICE, "ExecStart")).drain)
    assert float(setting(SERVICE, "TimeoutStopSec")) > drain + ENDING


def ask(address: Path) -> bytes:
    with Client(address, timeout=LONG) as client:
        return client.request(b"code")


@pytest.mark.case("I06", "I07")
def test_service_runs_under_systemd_socket_activate_i06(tmp_path):
    """ExecStart as it stands, with its socket and ear; then ExecReload, and the end."""
    program, _, arguments = setting(SERVICE, "ExecStart").partition(" ")
    arguments = replaced(
        arguments,
        ("tcp://:8080", f"unix:{tmp_path}/health"),
        ("--processes 4", "--processes 2"),
    )
    address, app = tmp_path / "messages", tmp_path / "app.py"
    app.write_text("def handler(message):\n    return b'old ' + message\n")
    command = [require_peer("systemd-socket-activate"), f"--listen={address}"]
    command += [f"-EPYTHONPATH={os.environ.get('PYTHONPATH', '')}"]
    command += [f"-ENOTIFY_SOCKET={tmp_path}/notify"]
    command += [sys.executable, "-m", Path(program).name, *shlex.split(arguments)]
    with contextlib.ExitStack() as stack:
        ear = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        ear.settimeout(LONG)
        ear.bind(str(tmp_path / "notify"))
        log = stack.enter_context((tmp_path / "log").open("w+"))
        service = subprocess.Popen(command, cwd=tmp_path, stderr=log)
        stack.callback(end, service)
        until(lambda: "Listening on" in (tmp_path / "log").read_text())

        assert ask(address) == b"old code"
        assert ear.recv(100) == b"READY=1"
        with connect(tmp_path / "health", LONG) as sock:
            sock.settimeout(LONG)
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert sock.recv(100).startswith(b"HTTP/1.0 200 OK\r\n")

        app.write_text("def handler(message):\n    return b'new ' + message * 2\n")
        reload = replaced(setting(SERVICE, "ExecReload"), ("$MAINPID", str(service.pid)))
        subprocess.run(shlex.split(reload), check=True, timeout=LONG)
        assert ear.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        assert ear.recv(100) == b"READY=1"
        until(lambda: ask(address) == b"new codecode")  # the last old worker has to hear of it

        service.send_signal(signal.SIGTERM)
        assert ear.recv(100) == b"STOPPING=1"
        assert service.wait(LONG) == 0, (tmp_path / "log").read_text()
        assert address.exists()  # it is systemd's
        assert not (tmp_path / "health").exists()


# ------------------------------------------------------------ Kubernetes, and the commands


def options_of(command: str | list[str]) -> Any:
    """The options of a command on the page, read as `pysock serve` reads them."""
    words = shlex.split(command) if isinstance(command, str) else command
    assert Path(words[0]).name == "pysock" and words[1] == "serve"
    parser = Parser("pysock serve", "", "")
    serve.configure(parser)
    return parser.parse_intermixed_args(words[2:])


def number(name: str) -> int:
    (value,) = re.findall(rf"^ *{name}: (\d+)$", MANIFEST, re.MULTILINE)
    return int(value)


def test_commands_of_the_page_are_understood():
    found = re.findall(r"^(?:ExecStart=)?((?:\S*/)?pysock serve .*)$", TEXT, re.MULTILINE)
    assert len(found) == 2
    for command in found:
        assert options_of(command).handler == "app:handler"


def test_manifest_has_the_form_of_one():
    """Without a reader of YAML: two objects, even indents, nothing that a tab has made."""
    assert "\t" not in MANIFEST
    for line in MANIFEST.splitlines():
        assert line == "---" or re.fullmatch(r"( {2})*(#.*|(- )?[\w.-]+:( \S.*)?)", line), line
    objects = MANIFEST.split("---\n")
    assert [re.findall(r"^(?:kind|apiVersion): (.*)$", text, re.M) for text in objects] == [
        ["apps/v1", "Deployment"],
        ["v1", "Service"],
    ]
    assert len(set(re.findall(r"^ +app: (.*)$", MANIFEST, re.MULTILINE))) == 1


def test_manifest_fits_the_command_it_runs():
    serving, sleeping = (
        json.loads(words)
        for words in re.findall(r"command: (\[.*\])$", MANIFEST, re.MULTILINE)
    )
    options = options_of(serving)
    ports = re.findall(r"- name: (\w+)\n +containerPort: (\d+)\n", MANIFEST)
    assert ports == [
        ("messages", options.bind[0].rpartition(":")[2]),
        ("health", options.health.rpartition(":")[2]),
    ]
    assert re.search(r"httpGet:\n +path: /\n +port: health\n", MANIFEST)
    assert re.search(r"port: 8000\n +targetPort: messages\n", MANIFEST)
    pause = int(sleeping[1])
    assert number("terminationGracePeriodSeconds") > pause + options.drain + ENDING
    # The pod leaves the service before it stops to accept.
    assert pause > number("periodSeconds") * number("failureThreshold")
