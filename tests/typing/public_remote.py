"""Uses remote commands and test helpers as programs do; mypy and pyright read it."""

from __future__ import annotations

import signal
import socket
import subprocess
from typing import Any, assert_type

import pysock
from pysock.remote import Completed, Process, RemoteClient, RemoteServer, Request
from pysock.testing import Faults, Pair, every_cut, pair, socket_pair


def run(remote: RemoteClient) -> None:
    done = remote.run(["ls", "-l"], timeout=5, check=True, text=True)
    assert_type(done, Completed)
    assert_type((done.returncode, done.reason), tuple[int, str])
    assert_type((done.incomplete, done.dropped), tuple[bool, int])
    done.check_returncode()
    finished: subprocess.CompletedProcess[Any] = done
    remote.run("ls | wc", shell=True, env={"LANG": "C"}, overflow="tail", pty=(24, 80))
    print(finished.stdout, remote.closed)
    remote.put("here", "there", overwrite=False, progress=lambda done, size: None)
    remote.get("there", "here")
    remote.mkdir("folder")
    for entry in remote.listdir():
        assert_type((entry.size, entry.mtime_ns), tuple[int, int])


def start(address: str) -> int:
    with pysock.remote.RemoteClient(address, user="ann", authkey=b"k" * 32) as remote:
        assert_type(remote, RemoteClient)
        with remote.start(["cat"], stderr=subprocess.STDOUT) as process:
            assert_type(process, Process)
            process.write(b"line\n")
            process.close_stdin()
            process.resize(24, 80)
            assert_type(process.read(timeout=1), tuple[str, bytes] | None)
            for channel, data in process:
                assert_type((channel, data), tuple[str, bytes])
            assert_type(process.poll(), int | None)
            assert_type(process.communicate(timeout=5), tuple[bytes, bytes])
            process.send_signal(signal.SIGHUP)
            process.interrupt()
            process.terminate()
            process.kill()
            process.give_up()
            assert_type(process.last_words, float)
            return process.wait(timeout=1)


def is_allowed(request: Request) -> bool:
    print(request.user, request.peer, request.path, request.cwd, request.pty)
    assert_type(request.env.get("LANG"), str | None)
    if request.shell is not None:
        assert_type(request.shell, str)
        return False
    return request.kind == "exec" and request.argv[0] == "ls"


def serve() -> None:
    with RemoteServer("unix:a.sock", allow=is_allowed, max_running=2, workers=4) as server:
        assert_type(server, RemoteServer)
        assert_type(server.start(), RemoteServer)
        plain: pysock.Server = server
        plain.serve_forever()


def length_of(sock: socket.socket) -> int:
    return len(pysock.recv_frame(sock, pysock.Netstring()))


def faulty() -> None:
    faults = Faults(cut=1, merge=True, pause=0.1, delay=0.1, reset_at=9, end_at=8, seed=1)
    assert_type((faults.pause, faults.delay), tuple[float, float])
    assert_type((faults.reset_at, faults.end_at), tuple[int | None, int | None])
    assert_type((faults.short_writes, faults.seed), tuple[int | None, int | None])
    print(faults.cut, faults.merge)
    with pair(pysock.Netstring(), cut="random", seed=1, back=faults) as ends:
        assert_type(ends, Pair[pysock.Connection])
        near, far = ends
        assert_type((near, far), tuple[pysock.Connection, pysock.Connection])
        assert_type(ends.pieces, tuple[list[int], list[int]])
    with socket_pair(short_writes=3) as sockets:
        assert_type(sockets.a, socket.socket)
    assert_type(every_cut(b"5:hello,", length_of), int)
    pair(cut="sometimes")  # type: ignore[arg-type]
