"""Several processes behind one address, as a command and as a function."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import pysock
from conftest import linux
from programs import APP, LIMIT, Program, program, serving, until

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes by fork()")


# ------------------------------------------------------------ serving


def test_every_process_serves(tmp_path):
    with serving(tmp_path, "app:pid", "--processes", "3") as served:
        workers = served.workers(3)
        assert len({served.pid, *workers}) == 4
        assert served.stop() == 0
        assert served.said.count("\n") == 2, served.said  # the banner, and that it ends


def test_session_class_is_served(tmp_path):
    app = """
import pysock
class Echo(pysock.Session):
    def handle(self):
        for message in self.connection:
            self.connection.send(message[::-1])
"""
    with serving(tmp_path, "app:Echo", app=app) as served, served.client() as client:
        assert client.request_many([b"ab", b"cd"]) == [b"ba", b"dc"]
        assert served.stop() == 0
        assert list(client) == []


@pytest.mark.case("S05")
def test_master_has_no_threads_and_not_the_users_module(tmp_path):
    app = APP + "\nopen('imported', 'a').write(f'{os.getpid()} {os.getppid()}\\n')\n"
    with serving(tmp_path, "app:pid", "--processes", "2", app=app) as served:
        workers = served.workers(2)
        imported = [line.split() for line in (tmp_path / "imported").read_text().splitlines()]
        assert {int(pid) for pid, _ in imported} == set(workers)
        assert {int(parent) for _, parent in imported} == {served.pid}
        if sys.platform == "linux":
            assert len(os.listdir(f"/proc/{served.pid}/task")) == 1


@pytest.mark.case("S05")
def test_no_fork_is_warned_of(tmp_path):
    """As Python 3.12 warns of one beside threads: nor where a worker is replaced."""
    (tmp_path / "app.py").write_text(APP)
    # Where warnings are errors, as in the other programs, nobody hears of this one.
    again = "import os, sys; os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    command = ["-W", "always", "-m", "pysock", "serve", "app:do", "--processes", "2"]
    served = Program(tmp_path, ["-c", again, *command, "--bind", "127.0.0.1:0"])
    try:
        before = served.workers(2)
        os.kill(before[0], signal.SIGKILL)
        served.has_said("was killed by SIGKILL")
        served.workers(2)
        served.send_signal(signal.SIGHUP)
        served.has_said("all workers are replaced")
        until(lambda: not {*served.workers(2)} & {*before})
        assert served.stop() == 0
        assert "Warning" not in served.said
    finally:
        served.kill()


@pytest.mark.case("S10")
@linux
def test_command_that_a_handler_runs_inherits_nothing(tmp_path):
    """S10"""
    code = b"""
import subprocess
shown = "import os, signal; print(os.listdir('/proc/self/fd'), signal.pthread_sigmask(0, []),"
shown += " [signal.getsignal(n) for n in (1, 2, 15, 17, 29)])"
reply = subprocess.check_output([sys.executable, "-c", shown], close_fds=False)
"""
    with serving(tmp_path, "app:do", "--processes", "2") as served:
        fds, _, rest = served.ask(code).decode().partition("]")
        # The fourth is the listing's own.
        assert sorted(re.findall(r"\d+", fds)) == ["0", "1", "2", "3"]
        assert rest.startswith(" set()")
        assert rest.count("SIG_DFL") == 4  # Python itself handles SIGINT
        assert "default_int_handler" in rest


def test_what_a_handler_printed_is_not_lost(tmp_path):
    with serving(tmp_path, "app:do") as served:
        served.ask(b"print('this was printed')")
        assert served.stop() == 0
        assert served.said.count("this was printed") == 1


# ------------------------------------------------------------ the function

FUNCTION = """
import os, signal, socket, subprocess, sys, threading, time
import pysock

def announce(server):
    print("serves it on", server.addresses[0], flush=True)

def handle(message):
    return str(os.getpid()).encode()
"""


@pytest.mark.case("S08")
def test_function_restores_what_it_has_changed(tmp_path):
    """S08"""
    code = (
        FUNCTION
        + """
came = []
numbers = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD]
for number in numbers:
    signal.signal(number, lambda number, frame: came.append(number))
before = [signal.getsignal(number) for number in numbers]
waker = socket.socketpair()
waker[1].setblocking(False)
signal.set_wakeup_fd(waker[1].fileno())
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR1])
fds = sorted(os.listdir("/dev/fd"))

def announced(server):
    announce(server)
    subprocess.run(["true"])  # a child of the program's own
    print("chained" if came == [signal.SIGCHLD] else came, flush=True)

assert pysock.serve("tcp://127.0.0.1:0", handle, ready=announced, processes=2) == 0
assert [signal.getsignal(number) for number in numbers] == before
assert set(came) == {signal.SIGCHLD}, came
assert signal.set_wakeup_fd(-1) == waker[1].fileno()
assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == {signal.SIGTERM, signal.SIGUSR1}
assert sorted(os.listdir("/dev/fd")) == fds
assert threading.active_count() == 1
waker[0].close(), waker[1].close()
print("restored")
"""
    )
    with program(tmp_path, code) as served:
        pid = int(served.ask(b""))
        served.has_said("chained")
        os.kill(pid, signal.SIGTERM)  # one that ends by itself is replaced
        assert until(lambda: int(served.ask(b"")) != pid)
        assert served.stop() == 0, served.said
        assert served.said.endswith("restored\n")


@pytest.mark.case("S08")
def test_function_lives_with_a_program_that_reaps_all_children(tmp_path):
    """S08"""
    code = (
        FUNCTION
        + """
def reap(*_):
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass

signal.signal(signal.SIGCHLD, reap)
sys.exit(pysock.serve("tcp://127.0.0.1:0", handle, ready=announce, processes=2))
"""
    )
    with program(tmp_path, code) as served:
        pid = int(served.ask(b""))
        os.kill(pid, signal.SIGKILL)
        assert until(lambda: int(served.ask(b"")) != pid)
        assert served.stop() == 0


@pytest.mark.parametrize("first", ["SIG_IGN", "SIG_DFL"])
def test_function_may_be_called_again(tmp_path, first):
    code = (
        FUNCTION
        + f"""
signal.signal(signal.SIGCHLD, signal.{first})
for _ in range(2):
    assert pysock.serve("unix:./s", handle, ready=announce) == 130
    assert not os.path.exists("s")
    assert signal.getsignal(signal.SIGCHLD) == signal.{first}
    print("once", flush=True)
"""
    )
    with program(tmp_path, code) as served:
        for count in (1, 2):
            served.has_said("serves(?s:.*)" * count)
            with pysock.Client(str(tmp_path / "s"), timeout=LIMIT) as client:
                assert client.request(b"").isdigit()
            served.send_signal(signal.SIGINT)
            served.has_said("once(?s:.*)" * count)
        assert served.end() == 0


def test_function_that_cannot_serve_raises_and_leaves_nothing_behind(tmp_path):
    code = (
        FUNCTION
        + """
before = signal.getsignal(signal.SIGTERM), sorted(os.listdir("/dev/fd"))
with socket.create_server(("127.0.0.1", 0)) as taken:
    port = taken.getsockname()[1]
    for address, options, kind in [
        (["unix:./s", f"tcp://127.0.0.1:{port}"], {}, OSError),
        (["unix:./s", "tls://127.0.0.1:0"], {}, ValueError),
        ("unix:./s", {"workers": -1}, ValueError),
        ("unix:./s", {"bogus": 1}, TypeError),
        ("unix:./s", {"processes": 0}, ValueError),
        ("unix:./s", {"drain": float("nan")}, ValueError),
        ("unix:./s", {"health": f"tcp://127.0.0.1:{port}"}, OSError),
        ("unix:./s", {"handler": 5}, TypeError),
        ("unix:./s", {"handler": "app"}, ValueError),
        ("unix:./s", {"handler": "nowhere:x"}, RuntimeError),
        ("unix:./s", {"app_dir": "nowhere"}, ValueError),
    ]:
        handler = options.pop("handler", handle)
        try:
            pysock.serve(address, handler, **options)
        except kind as exc:
            print(f"{kind.__name__}: {exc}", flush=True)
        else:
            raise AssertionError((address, options))
        assert not os.path.exists("s"), options
assert (signal.getsignal(signal.SIGTERM), sorted(os.listdir("/dev/fd"))) == before
"""
    )
    with program(tmp_path, code) as served:
        assert served.end() == 0, served.said
        assert served.said.count("\n") == 11, served.said


@pytest.mark.case("S03")
def test_function_is_for_the_main_thread(tmp_path):
    """S03"""
    errors: list[BaseException] = []

    def call() -> None:
        try:
            pysock.serve(str(tmp_path / "s"), bytes.upper)
        except RuntimeError as exc:
            errors.append(exc)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join(LIMIT)
    assert "main thread" in str(errors[0])
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_function_serves_in_its_own_process_where_there_is_no_fork(tmp_path, number, status):
    code = (
        FUNCTION
        + """
del os.fork
try:
    pysock.serve("tcp://127.0.0.1:0", handle, processes=2)
except ValueError as exc:
    assert "fork" in str(exc)
before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
status = pysock.serve("unix:./s", handle, ready=announce)
assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
assert not os.path.exists("s")
sys.exit(status)
"""
    )
    with program(tmp_path, code) as served:
        served.has_said("serves")
        with pysock.Client(str(tmp_path / "s"), timeout=LIMIT) as client:
            assert int(client.request(b"")) == served.pid
        assert served.stop(number) == status


def test_function_may_have_threads_besides_and_warnings_may_be_errors(tmp_path):
    """Python warns of a fork beside threads; an error would leave a child to nobody."""
    code = (
        FUNCTION
        + """
import warnings
warnings.simplefilter("error")
threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
sys.exit(pysock.serve("tcp://127.0.0.1:0", handle, processes=2, ready=announce))
"""
    )
    with program(tmp_path, code) as served:
        served.has_said("serves")
        assert served.pid not in {int(served.ask(b"")) for _ in range(3)}
        assert served.stop() == 0


# ------------------------------------------------------------ sockets from elsewhere


def test_inherited_socket_is_served_and_its_path_is_left_alone(tmp_path):
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        fd = sock.fileno()
        with serving(tmp_path, "app:upper", "--bind", f"fd://{fd}", fds=(fd,)) as served:
            with pysock.Client(str(path), timeout=LIMIT) as client:
                assert client.request(b"a") == b"A"
            assert served.stop() == 0
            assert path.exists()


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(LIMIT)
        yield sock


@pytest.mark.case("I07")
def test_supervisor_is_told(tmp_path, supervisor):
    env = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
    with serving(tmp_path, "app:upper", "--processes", "2", env=env) as served:
        assert supervisor.recv(999) == b"READY=1"
        served.has_said("serves")
        served.send_signal(signal.SIGHUP)
        assert re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=\d+", supervisor.recv(999))
        assert supervisor.recv(999) == b"READY=1"
        served.send_signal(signal.SIGTERM)
        assert supervisor.recv(999) == b"STOPPING=1"
        assert served.end() == 0


def test_health_is_told_until_the_end(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as sock:
        fd, address = sock.fileno(), sock.getsockname()
        arguments = ["--processes", "2", "--health", f"fd://{fd}"]
        with serving(tmp_path, "app:do", *arguments, fds=(fd,)) as served:
            sock.close()

            def status() -> bytes:
                with socket.create_connection(address, LIMIT) as client:
                    client.sendall(b"GET / HTTP/1.0\r\n\r\n")
                    with client.makefile("rb") as file:
                        return file.readline()

            served.has_said("serves")
            for _ in range(3):
                assert b" 200 " in status()
            served.send_signal(signal.SIGHUP)
            served.has_said("all workers are replaced")
            for _ in range(3):
                assert b" 200 " in status()
            assert served.stop() == 0
            with pytest.raises(ConnectionRefusedError):
                status()
