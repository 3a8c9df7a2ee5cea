"""`pysock serve`, through real processes: its options, its banner, its complaints."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
from pathlib import Path

import pytest

import pysock
from conftest import linux
from programs import APP, LIMIT, PYTHON, Program, serving, until
from pysock.cli import main

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="signals of POSIX")

STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} \d+ "


def run(folder: Path, *arguments: str, app: str = APP) -> tuple[int, str]:
    """Run `pysock serve` to its end; return its status and what it said on stderr."""
    (folder / "app.py").write_text(app)
    done = subprocess.run(
        [*PYTHON, "-m", "pysock", "serve", *arguments],
        cwd=folder,
        capture_output=True,
        timeout=LIMIT,
        text=True,
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


# ------------------------------------------------------------ what it does


def test_banner_names_what_is_served_and_where(tmp_path):
    arguments = ["--bind", "127.0.0.1:0", "--bind", "unix:./s", "--bind", "tcp://127.0.0.1:0"]
    arguments += ["--processes", "2", "--workers", "3", "--log-level", "error"]
    with serving(tmp_path, "app:upper", *arguments) as served:
        ports = served.has_said(
            rf"^pysock {re.escape(pysock.__version__)} serves app:upper on "
            r"tcp://127\.0\.0\.1:(\d+), unix:\./s, tcp://127\.0\.0\.1:(\d+) "
            rf"\(pid {served.pid}, 2 processes, workers: 3\)\n$"
        ).groups()
        for address in (f"127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}", f"{tmp_path}/s"):
            with pysock.Client(address, timeout=LIMIT) as client:
                assert client.request(b"a") == b"A"
        assert served.stop() == 0
        assert served.said.count("\n") == 1
        assert not (tmp_path / "s").exists()


def test_default_address_is_loopback_port_8000(tmp_path):
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", 8000))
        except OSError:
            pytest.skip("port 8000 is taken")
        sock.listen()
        status, said = run(tmp_path, "app:upper")
    assert status == 1
    assert (
        said == "pysock serve: cannot listen on tcp://127.0.0.1:8000: Address already in use\n"
    )


def test_log_is_one_line_each_with_time_process_and_level(tmp_path):
    app = "import logging\ndef handle(message): logging.getLogger('mine').warning('seen')\n"
    with serving(tmp_path, "app:handle", "--log-level", "debug", app=app) as served:
        with served.client() as client:
            client.send(b"x")
            worker = int(served.has_said(rf"{STAMP}WARNING seen\n")[0].split()[2])
        assert worker != served.pid
        assert served.stop() == 0
        for line in served.said.splitlines():
            if not line.startswith("pysock "):
                assert re.match(rf"{STAMP}[A-Z]+ \S", line)


def test_sizes_and_formats_are_as_given(tmp_path):
    arguments = ["--framing", "netstring", "--max-frame", "1k"]
    with serving(tmp_path, "app:upper", *arguments) as served:
        with served.client(framing=pysock.Netstring()) as client:
            assert client.request(b"x" * 1024) == b"X" * 1024
        with socket.create_connection(served.address[6:].split(":"), LIMIT) as sock:
            sock.sendall(b"1025:")
            assert sock.recv(1) == b""
        served.has_said("WARNING .*1025")


def test_timeouts_are_as_given(tmp_path):
    app = """
import pysock
class Talk(pysock.Session):
    def handle(self):
        try:
            self.connection.recv()
        except TimeoutError:
            self.connection.send(b"too late")
"""
    with (
        serving(tmp_path, "app:Talk", "--timeout", "0.1", app=app) as served,
        served.client() as client,
    ):
        assert client.recv() == b"too late"
    with (
        serving(tmp_path, "app:upper", "--idle-timeout", "0.2") as served,
        served.client() as client,
    ):
        assert client.request(b"a") == b"A"
        assert list(client) == []


def test_drain_is_as_given(tmp_path):
    with serving(tmp_path, "app:do", "--drain", "0") as served, served.client() as client:
        client.send(b"open('in it', 'w').close(); time.sleep(1000)")
        until((tmp_path / "in it").exists)
        assert served.stop() == 0


def test_proxy_header_is_taken_from_those_who_are_trusted(tmp_path):
    app = "def handle(message, connection): return str(connection.client_address).encode()\n"
    header = b"PROXY TCP4 192.0.2.7 192.0.2.1 4321 80\r\n"
    framed = pysock.LengthField().encode(b"")

    def ask(served: Program) -> bytes:
        with socket.create_connection(served.address[6:].split(":"), LIMIT) as sock:
            sock.sendall(header + framed)
            return sock.recv(999)

    with serving(tmp_path, "app:handle", "--proxy-protocol", "v1", app=app) as served:
        assert ask(served)[4:] == b"('192.0.2.7', 4321)"
    arguments = ["--proxy-protocol", "any", "--trusted-proxy", "10.0.0.0/8"]
    with (
        serving(tmp_path, "app:handle", *arguments, app=app) as served,
        contextlib.suppress(ConnectionResetError),
    ):
        assert ask(served) == b""


def test_health_address_answers(tmp_path):
    with serving(tmp_path, "app:upper", "--health", "unix:./h") as served:
        served.has_said("serves")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(tmp_path / "h"))
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert b" 200 " in sock.recv(999)
        assert served.stop() == 0
        assert not (tmp_path / "h").exists()


def test_factory_and_folder_are_as_given(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "made.py").write_text(
        "class Maker:\n    @staticmethod\n    def make(): return bytes.upper\n"
    )
    arguments = ["--factory", "--app-dir", "elsewhere"]
    with serving(tmp_path, "made:Maker.make", *arguments) as served:
        assert served.ask(b"a") == b"A"
        assert served.stop(signal.SIGINT) == 130


def test_module_of_the_current_folder_comes_first(tmp_path):
    (tmp_path / "colorsys.py").write_text("def handle(message): return b'mine'\n")
    with serving(tmp_path, "colorsys:handle") as served:
        assert served.ask(b"") == b"mine"


# ------------------------------------------------------------ what goes wrong


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "the following arguments are required: HANDLER"),
        ("x:y --max-frame 1T", "argument --max-frame: '1T' is not a number of bytes up to"),
        ("x:y --processes 0", "argument --processes: '0' is not a whole number from 1 to 40"),
        ("x:y --workers -1", "argument --workers: '-1' is not a whole number from 0 to 10"),
        ("x:y --max-connections x", "argument --max-connections: 'x' is not a whole number"),
        ("x:y --timeout 0", "argument --timeout: '0' is not a number of seconds above 0"),
        ("x:y --drain nan", "argument --drain: 'nan' is not a number of seconds from 0 to"),
        ("x:y --idle-timeout inf", "argument --idle-timeout: 'inf' is not a number of sec"),
        ("x:y --log-level loud", "argument --log-level: invalid choice: 'loud'"),
        ("x:y --framing morse", "no format is called 'morse'; there are amqp,"),
        ("x:y --framing dns --max-frame 1M", "--max-frame is 1048576, more"),
        ("x:y --trusted-proxy 10.0.0.0/8", "--trusted-proxy means nothing without --proxy-"),
    ],
)
def test_wrong_command_line_is_one_line_and_status_2(capsys, arguments, said):
    assert main(["serve", *arguments.split()]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"pysock serve: {said}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("app", "handler 'app' is not of the form module:name, as in app:handle"),
        ("app:", "handler 'app:' is not of the form"),
        ("app/x.py:upper", "handler 'app/x.py:upper' is not of the form"),
        ("app:upper --bind nowhere", "address 'nowhere': no port"),
        ("app:upper --bind tls://127.0.0.1:0", "address 'tls://127.0.0.1:0' needs a certif"),
        ("app:upper --bind udp://127.0.0.1:0", "address 'udp://127.0.0.1:0': cannot l"),
        ("app:upper --proxy-protocol v1 --trusted-proxy x", ""),
        ("app:upper --app-dir nowhere", "'"),
    ],
)
def test_wrong_value_is_one_line_and_status_2(tmp_path, arguments, said):
    bind = [] if "--bind" in arguments else ["--bind", "./s"]
    status, err = run(tmp_path, *arguments.split(), *bind)
    assert err.startswith(f"pysock serve: {said}")
    assert err.count("\n") == 1
    assert status == 2
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("handler", "app", "said"),
    [
        ("nope:x", "", "there is no module 'nope' in {0}, nor elsewhere on Python's path"),
        (
            "app.sub:x",
            "",
            "there is no module 'app.sub' in {0}, nor elsewhere on Python's path",
        ),
        ("app:nope", "", "module 'app' ({0}/app.py) has no 'nope'"),
        ("app:os.nope", "import os", "module 'app' ({0}/app.py) has no 'os.nope'"),
        ("app:x", "x = 5", "app:x is a int, expected a function or a Session class"),
        (
            "app:x",
            "\nimport nothing_of_that_name",
            "cannot import 'app': {0}/app.py, line 2: ModuleNotFoundError: "
            "No module named 'nothing_of_that_name'",
        ),
        (
            "app:x",
            "\n\ndef x(:",
            "cannot import 'app': {0}/app.py, line 3: SyntaxError: invalid syntax",
        ),
        (
            "app:x",
            "import json\ndef f():\n  json.loads('{')\nf()",
            "cannot import 'app': {0}/app.py, line 3: JSONDecodeError: Expecting",
        ),
        (
            "app:x",
            "import sys\nsys.exit(3)",
            "cannot import 'app': {0}/app.py, line 2: System",
        ),
        ("app:x", "1 / 0 #\n", "cannot import 'app': {0}/app.py, line 1: ZeroDivisionError: "),
        ("app:x", "raise ValueError('a\\nb')", "cannot import 'app': {0}/app.py, line 1: Val"),
        ("app:x", "import os; os._exit(7)", "the first worker ended with status 7"),
        (
            "app:x",
            "import os; os.kill(os.getpid(), 9)",
            "the first worker was killed by SIGKILL",
        ),
    ],
)
def test_handler_that_cannot_be_had_is_one_line_and_status_1(tmp_path, handler, app, said):
    path = tmp_path / "s"
    status, err = run(tmp_path, handler, "--bind", "./s", "--processes", "3", app=app)
    assert err.startswith(f"pysock serve: {said.format(tmp_path)}")
    assert err.count("\n") == 1
    assert status == 1
    assert not path.exists()


@pytest.mark.parametrize(
    ("app", "said"),
    [
        ("def x(): return 5", "x() is a int, expected a function or a Session class"),
        ("def x():\n  1 / 0", "x() failed: {0}/app.py, line 2: ZeroDivisionError: division"),
        ("def x(one): 1 / 0", "x() failed: TypeError: x() missing 1 required positional"),
    ],
)
def test_factory_that_fails_is_one_line_and_status_1(tmp_path, app, said):
    status, err = run(tmp_path, "app:x", "--factory", "--bind", "./s", app=app)
    assert err.startswith(f"pysock serve: app:{said.format(tmp_path)}")
    assert err.count("\n") == 1
    assert status == 1


def test_address_in_use_is_one_line_and_status_1(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as sock:
        address = f"tcp://127.0.0.1:{sock.getsockname()[1]}"
        status, err = run(tmp_path, "app:upper", "--bind", "./s", "--bind", address)
    assert (status, err) == (
        1,
        f"pysock serve: cannot listen on {address}: Address already in use\n",
    )
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("./nowhere/s", "cannot listen on unix:./nowhere/s: No such file or directory"),
        # Not even root has it.
        pytest.param("/proc/s", "cannot listen on unix:///proc/s: ", marks=linux),
        ("./app.py", "cannot listen on unix:./app.py: a file that is no socket stands there"),
        ("fd://77", "cannot listen on fd://77: descriptor 77 is not open"),
    ],
)
def test_address_that_cannot_be_had_is_one_line_and_status_1(tmp_path, address, said):
    status, err = run(tmp_path, "app:upper", "--bind", address)
    assert err.startswith(f"pysock serve: {said}")
    assert err.count("\n") == 1
    assert status == 1


def test_help_tells_signals_statuses_and_examples(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # away from the sources
    done = subprocess.run(
        [*PYTHON, "-m", "pysock", "serve", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0
    for word in ("SIGTERM", "SIGHUP", "exit status: 0", "130", "pysock serve app:handle"):
        assert word in done.stdout
