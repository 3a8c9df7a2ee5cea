"""`pysock put` and `pysock get`, through real processes and in this one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import certificates
import secured
from programs import LIMIT, PYTHON, until
from pysock import tls
from pysock.cli import main

options = pytest.importorskip("pysock.cli.remote_options")

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="servers run on POSIX only")

certs = certificates.certs
secrets = secured.secrets

HERE = {"a": b"one", "sub/b": b"", "sub/deep/c": b"three" * 99999, "sub/\udcff \n": b"odd"}


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a server at the default address; another one is the current."""
    remote = pytest.importorskip("pysock.remote")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    folder, here = tmp_path / "served", tmp_path / "here"
    folder.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    address = f"unix://{tmp_path}/pysock.sock"
    with remote.RemoteServer(address, allow_root=True, files_root=folder) as server:
        server.start()
        yield folder
        server.stop(0)


@pytest.fixture
def ran(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run a verb; return its status and what it said."""

    def run(*arguments: str) -> tuple[int, str]:
        status = main(arguments)
        said = capsys.readouterr()
        assert said.out == ""
        return status, said.err

    return run


def fill(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if not path.is_dir()
    }


# ------------------------------------------------------------ what is copied


@pytest.mark.case("R36")
def test_file_gets_its_new_name_its_mode_and_its_time(served, ran):
    """R36"""
    fill(Path(), {"a": b"\0\1" * 500000})
    os.chmod("a", 0o640)
    os.utime("a", ns=(5, 1_000_000_007))
    assert ran("put", "a", "b") == (0, "")
    assert ran("get", "b", "c") == (0, "")
    for path in (served / "b", Path("c")):
        assert path.read_bytes() == Path("a").read_bytes()
        assert path.stat().st_mode & 0o777 == 0o640
        assert path.stat().st_mtime_ns == 1_000_000_007


@pytest.mark.parametrize("target", [".", "./", "folder", "folder/", "./folder"])
def test_files_go_into_a_folder(served, ran, target):
    fill(Path(), {"a": b"one", "sub/b": b"two"})
    (served / "folder").mkdir()
    assert ran("put", "a", "sub/b", target) == (0, "")
    place = served / target
    assert (place / "a").read_bytes() == b"one"
    assert (place / "b").read_bytes() == b"two"
    Path("folder").mkdir()
    inside = f"{target.strip('./')}/b".lstrip("/")
    assert ran("get", inside, target) == (0, "")
    assert (Path(target) / "b").read_bytes() == b"two"


def test_folder_is_copied_with_all_that_is_in_it(served, ran):
    fill(Path("tree"), HERE)
    Path("tree/empty").mkdir()
    assert ran("put", "-r", "tree", "copy") == (0, "")
    assert contents(served / "copy") == HERE
    assert (served / "copy" / "empty").is_dir()
    assert ran("put", "-r", "tree", "copy") == (0, "")
    assert contents(served / "copy" / "tree") == HERE
    assert ran("get", "-r", "copy/tree", "back") == (0, "")
    assert contents(Path("back")) == HERE
    assert Path("back/empty").is_dir()
    assert ran("get", "-r", "copy/tree", ".") == (0, "")
    assert contents(Path("tree")) == HERE
    assert ran("get", "-r", ".", "all") == (0, "")
    assert contents(Path("all/copy/tree")) == HERE


def test_recursion_takes_a_file_too(served, ran):
    fill(Path(), {"a": b"one"})
    assert ran("put", "-r", "a", "b") == (0, "")
    assert ran("get", "-r", "b", "c") == (0, "")
    assert Path("c").read_bytes() == b"one"


def test_what_is_no_file_is_told_and_left_out(served, ran):
    fill(Path("tree"), {"a": b"one", "sub/b": b"two"})
    os.mkfifo("tree/pipe")
    os.symlink("a", "tree/link")
    os.symlink("sub", "tree/round")
    assert ran("put", "-r", "tree", "copy") == (
        1,
        "pysock put: tree/pipe is no file and no folder: left out\n"
        "pysock put: tree/round is no file and no folder: left out\n",
    )
    assert contents(served / "copy") == {"a": b"one", "sub/b": b"two", "link": b"one"}
    os.mkfifo(served / "copy" / "pipe")
    os.symlink("/etc", served / "copy" / "out")
    status, said = ran("get", "-r", "copy", "back")
    assert (status, said.count("\n")) == (1, 2)
    assert contents(Path("back")) == {"a": b"one", "sub/b": b"two", "link": b"one"}


def test_files_that_exist_are_left_alone_if_that_is_wanted(served, ran):
    fill(Path(), {"a": b"new", "b": b"new"})
    fill(served, {"a": b"old"})
    assert ran("put", "--no-overwrite", "a", "b", ".") == (
        1,
        "pysock put: server: a: File exists\n",
    )
    assert contents(served) == {"a": b"old", "b": b"new"}
    status, said = ran("get", "--no-overwrite", "a", ".")
    assert status == 1
    assert said.endswith("a: File exists\n")
    assert Path("a").read_bytes() == b"new"
    assert ran("put", "a", ".") == (0, "")
    assert contents(served)["a"] == b"new"


def test_verbose_tells_every_file(served, ran):
    fill(Path(), {"a": b"x" * 1536, "b\x1b": b""})
    assert ran("put", "-v", "a", "b\x1b", ".") == (
        0,
        "pysock put: a -> a (1.5 KiB)\npysock put: 'b\\x1b' -> 'b\\x1b' (0 bytes)\n",
    )


def test_address_key_and_pin_are_as_given(tmp_path, monkeypatch, ran, certs, secrets):
    remote = pytest.importorskip("pysock.remote")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "served").mkdir()
    fill(tmp_path, {"a": b"one"})
    server = remote.RemoteServer(
        "tls://127.0.0.1:0",
        allow_root=True,
        files_root=tmp_path / "served",
        tls=tls.server_context(*certs.server),
        authkey=bytes.fromhex(secrets.keys[0]),
    )
    with server:
        server.start()
        key = ["--pin", certs.server.pin, "--authkey", secrets.authkey]
        assert ran("put", "--to", str(server.address), *key, "a", "b") == (0, "")
        assert ran("get", "--from", str(server.address), *key, "b", "c") == (0, "")
        assert (tmp_path / "c").read_bytes() == b"one"
        key[-1] = secrets.other
        status, said = ran("get", "--from", str(server.address), *key, "b", "d")
        assert (status, said.count("\n")) == (255, 1)
        server.stop(0)


# ------------------------------------------------------------ progress


def test_progress_is_shown_on_a_terminal_and_taken_away(served):
    pty = pytest.importorskip("pty")
    code = (
        "import sys, pysock.cli, pysock.cli.remote_options as o; o.PATIENCE = 0;"
        "sys.exit(pysock.cli.main(['put', 'a', '.']))"
    )
    fill(Path(), {"a": bytes(3 << 20)})
    master, slave = pty.openpty()
    try:
        done = subprocess.run([*PYTHON, "-P", "-c", code], stderr=slave, timeout=LIMIT)
        shown = os.read(master, 1 << 16)
    finally:
        os.close(master)
        os.close(slave)
    assert done.returncode == 0
    assert b"of 3.0 MiB" in shown


# ------------------------------------------------------------ what goes wrong


def test_what_fails_is_told_and_the_others_are_copied(served, ran):
    fill(Path(), {"a": b"one"})
    assert ran("put", "nope", "a", ".") == (
        1,
        "pysock put: nope: No such file or directory\n",
    )
    assert ran("get", "nope", "a", ".") == (
        1,
        "pysock get: server: nope: No such file or directory\n",
    )
    assert ran("put", ".", "x") == (1, "pysock put: . is a folder: -r copies it\n")
    (served / "sub").mkdir()
    assert ran("get", "sub", "x") == (1, "pysock get: server: sub is a folder: -r copies it\n")
    assert ran("get", "-r", "nope", "x") == (
        1,
        "pysock get: server: nope: No such file or directory\n",
    )


@pytest.mark.parametrize("target", [".", "x"])
@pytest.mark.parametrize("source", [".", "./", ""])
def test_served_folder_is_a_folder_as_any_other(served, ran, source, target):
    assert ran("get", source, target) == (1, "pysock get: . is a folder: -r copies it\n")


def test_folder_here_that_has_a_file_s_name_is_told(served, ran):
    fill(served, {"a": b"one"})
    os.mkdir("a")
    assert ran("get", "a", ".") == (
        1,
        f"pysock get: {os.getcwd()}/a is a folder here, which no file replaces\n",
    )


def test_one_path_is_not_enough(served, ran):
    both = "are needed, not '.' alone, as in:"
    assert ran("get", ".") == (
        2,
        f"pysock get: a path at the server and one here {both} pysock get report.pdf .\n",
    )
    assert ran("put", ".") == (
        2,
        f"pysock put: a path here and one at the server {both} pysock put x.pdf .\n",
    )
    assert ran("get", "a", "") == (2, "pysock get: the path here is empty\n")


def test_names_that_look_like_options_follow_two_dashes(served, ran):
    fill(Path(), {"-dash": b"one", "--": b"two"})
    assert ran("put", "--", "-dash", "--", ".") == (0, "")
    assert contents(served) == {"-dash": b"one", "--": b"two"}
    os.mkdir("back")
    assert ran("get", "--no-overwrite", "--", "-dash", "--", "back") == (0, "")
    assert contents(Path("back")) == {"-dash": b"one", "--": b"two"}


def test_what_is_no_file_here_is_refused_with_the_way_that_goes(served, ran):
    fill(Path(), {"-": b"one"})
    fill(served, {"a": b"two"})
    os.mkfifo("pipe")
    storing = "`pysock run --shell -- 'cat >FILE'` stores what it reads"
    printing = "`pysock run -- cat FILE` prints one"
    assert ran("put", "-", "b") == (
        2,
        f"pysock put: standard input is no file: {storing}; ./- is a file\n",
    )
    assert ran("put", "pipe", "b") == (
        1,
        f"pysock put: pipe is no regular file: {storing}\n",
    )
    assert ran("get", "a", "-") == (
        2,
        f"pysock get: standard output is no file: {printing}; ./- is a file\n",
    )
    assert ran("get", "a", "pipe") == (
        2,
        f"pysock get: pipe is no regular file: {printing}\n",
    )
    assert contents(served) == {"a": b"two"}
    assert ran("put", "./-", "b") == (0, "")
    assert ran("get", "a", "./-") == (0, "")
    assert Path("-").read_bytes() == b"two"


@pytest.mark.case("R36")
@pytest.mark.parametrize("path", ["../a", "/etc/a", "x/../../a", "x//a", "a.pysock-part"])
def test_path_outside_the_served_folder_is_refused(served, ran, path):
    """R36"""
    fill(Path(), {"a": b"one"})
    for verb, first, second in (("put", "a", path), ("get", path, "x")):
        status, said = ran(verb, first, second)
        assert (status, said.count("\n")) == (1, 1)
        assert not Path("x").exists()
    assert contents(served) == {}


@pytest.mark.case("R36")
@pytest.mark.parametrize("name", [b"..", b".", b"a/b", b"/etc/x", b"", b"a\0b"])
def test_name_that_a_server_gives_does_not_leave_the_folder(served, ran, monkeypatch, name):
    """R36"""
    from pysock.remote import RemoteClient
    from pysock.remote.protocol import Entry

    entries = [Entry(1, type="f", name=name), Entry(1, type="d", name=name)]
    monkeypatch.setattr(RemoteClient, "listdir", lambda self, path="": entries)
    monkeypatch.setattr(RemoteClient, "get", lambda *_, **__: pytest.fail("fetched"))
    status, said = ran("get", "-r", "sub", "x")
    assert status == 1
    assert said.count("has a name that no file may have here: left out\n") == 2
    assert os.listdir("x") == []


def test_several_files_need_a_folder(served, ran):
    fill(Path(), {"a": b"one", "b": b"two"})
    text = "x is no folder at the server, for several files\n"
    assert ran("put", "a", "b", "x") == (2, f"pysock put: {text}")
    assert ran("get", "a", "b", "x") == (2, "pysock get: x is no folder\n")
    assert ran("get", "a", "x/") == (2, "pysock get: x/ is no folder\n")


@pytest.mark.parametrize("verb", ["put", "get"])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the following arguments are required: "),
        (["a"], "a path "),
        (["a", "b", "--wrong"], "unrecognized arguments: --wrong"),
        (["a", "b", "--connect-timeout", "0"], "argument --connect-timeout: '0' is not a n"),
        (["a", "b", "--authkey", "/no/where"], "cannot read '/no/where'"),
    ],
)
def test_wrong_command_line_is_one_line_and_status_2(ran, verb, arguments, said):
    status, err = ran(verb, *arguments)
    assert status == 2
    assert err.startswith(f"pysock {verb}: {said}")
    assert err.count("\n") == 1


def test_server_without_files_is_one_line(tmp_path, monkeypatch, ran):
    remote = pytest.importorskip("pysock.remote")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    fill(tmp_path, {"a": b"one"})
    with remote.RemoteServer(f"unix://{tmp_path}/pysock.sock", allow_root=True) as server:
        server.start()
        for arguments in (["put", "a", "."], ["get", "a", "b"], ["get", "-r", "a", "b"]):
            status, said = ran(*arguments)
            assert status == 1
            assert said == f"pysock {arguments[0]}: the server has no files (--files-root)\n"
        server.stop(0)


@pytest.mark.parametrize("verb", ["put", "get"])
def test_server_that_is_missing_is_one_line_and_status_255(tmp_path, monkeypatch, ran, verb):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    status, said = ran(verb, "a", ".")
    assert status == 255
    assert said.startswith(f"pysock {verb}: cannot connect to unix://{tmp_path}/pysock.sock")
    assert said.count("\n") == 1


@pytest.fixture
def stuck(tmp_path: Path) -> Iterator[socket.socket]:
    """A server that says its version, and no more."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "pysock.sock"))
        listener.listen()
        listener.settimeout(LIMIT)
        yield listener


def waiting(tmp_path: Path, stuck: socket.socket) -> tuple[Any, socket.socket]:
    """Start a get that waits for its file."""
    process = subprocess.Popen(
        [*PYTHON, "-P", "-m", "pysock", "get", "a", str(tmp_path / "x")],
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    sock, _ = stuck.accept()
    sock.settimeout(LIMIT)
    sock.sendall(sock.recv(100))
    assert sock.recv(100)
    return process, sock


def test_connection_that_is_lost_has_status_255_and_says_how_to_go_on(tmp_path, stuck):
    process, sock = waiting(tmp_path, stuck)
    with process, sock:
        sock.shutdown(socket.SHUT_RDWR)
        said = process.stderr.read()
        assert process.wait(LIMIT) == 255
    assert said.endswith("; the same command goes on where this one ended\n")
    assert said.count("\n") == 1


def test_ctrl_c_ends_quietly_with_status_130(tmp_path, stuck):
    process, sock = waiting(tmp_path, stuck)
    with process, sock:
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT) == 130
        assert process.stderr.read() == ""


@pytest.mark.case("R36")
def test_cut_file_is_gone_on_with(served, ran, monkeypatch):
    """R36"""
    from pysock.remote import RemoteClient

    fill(Path(), {"a": os.urandom(6 << 20)})
    seen: list[int] = []
    real = RemoteClient.put

    def put(self: Any, local: str, remote: str, **how: Any) -> None:
        def progress(done: int, total: int) -> None:
            seen.append(done)
            if done > total // 2 and len(cut) == 0:
                cut.append(done)
                self.close()

        real(self, local, remote, overwrite=how["overwrite"], progress=progress)

    cut: list[int] = []
    monkeypatch.setattr(RemoteClient, "put", put)
    status, said = ran("put", "a", ".")
    assert status == 255
    assert "goes on where this one ended" in said
    seen.clear()
    until(lambda: any(name.endswith(".pysock-part") for name in os.listdir(served)))

    def again() -> bool:
        return ran("put", "a", ".")[0] == 0  # the server may have the first one still

    until(again)
    assert seen[0] > 0
    assert (served / "a").read_bytes() == Path("a").read_bytes()


@pytest.mark.parametrize("verb", ["put", "get"])
def test_help_tells_statuses_and_examples(capsys, verb):
    assert main([verb, "--help"]) == 0
    out = capsys.readouterr().out
    for word in (f"  pysock {verb} ", "exit status: 0", "130", "255", "--no-overwrite"):
        assert word in out
