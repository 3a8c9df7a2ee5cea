"""What a server allows, how much of it, and what it writes down."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
from pathlib import Path
from typing import Any

import pytest

import certificates
import remotes
from conftest import linux
from peers import LONG, Task
from programs import until
from pysock import RemoteError
from pysock.remote import RemoteServer
from pysock.remote.protocol import Kind
from pysock.remote.talk import Talk
from pysock.session import ServerConnection
from remotes import MIB, Served, ask, bare_client, children, next_of, served

certs = certificates.certs
server = remotes.server
remote = remotes.remote
mark = remotes.mark


def sh(text: str) -> list[str]:
    return ["sh", "-c", text]


@pytest.mark.case("R21")
def test_variable_that_is_offered_to_all_is_dropped_where_it_is_not_allowed_r21(tmp_path):
    with served(tmp_path, allow_env=["MY_*"]) as server, server.client() as remote:
        env = {"LC_MINE": "x", "TERM": "y", "MY_OWN": "z"}
        done = remote.run(sh('echo "$LC_MINE,$TERM,$MY_OWN"'), env=env, text=True)
        assert done.stdout == ",,z\n"
        refused(server, ["true"], env={"OTHER": "x"})


def refused(server: Served, args: Any, **options: Any) -> str:
    """Have a command refused; return how that is said."""
    with server.client() as remote:
        with pytest.raises(RemoteError) as caught:
            remote.run(args, **options)
        assert caught.value.code == "refused"
        assert not remote.closed
    return str(caught.value)


# ---------------------------------------------------------------- how much


@pytest.mark.case("R25")
def test_command_beyond_max_running_is_refused_and_others_live_r25(tmp_path):
    with served(tmp_path, max_running=3) as server, server.client() as late:
        clients = [server.client() for _ in range(3)]
        running = [client.start(["cat"]) for client in clients]
        for _ in range(3):
            with pytest.raises(RemoteError, match="3 commands run already") as caught:
                late.run(["true"])
            assert caught.value.code == "busy"
        for process in running:
            assert process.communicate(b"alive", timeout=LONG) == (b"alive", b"")
        assert late.run(["echo", "now"]).stdout == b"now\n"
        for client in clients:
            client.close()


@pytest.mark.case("R25")
@pytest.mark.slow
def test_sixty_fifth_command_is_refused_r25(server):
    clients = [server.client() for _ in range(64)]
    running = [client.start(["cat"]) for client in clients]
    with server.client() as late, pytest.raises(RemoteError, match="64 commands"):
        late.run(["true"])
    for process in running:
        assert process.communicate(b"alive", timeout=LONG) == (b"alive", b"")
    for client in clients:
        client.close()


@pytest.mark.case("R27")
def test_command_that_takes_too_long_for_the_server_is_ended_r27(tmp_path):
    with served(tmp_path, time_limit=0.3) as server, server.client() as remote:
        done = remote.run(sh("echo out; exec sleep 1000"))
        assert (done.returncode, done.stdout) == (-signal.SIGHUP, b"out\n")
        assert done.reason == "it took longer than 0.3 s (time_limit)"
        assert remote.run(["true"]).reason == ""


@pytest.mark.case("R27")
def test_command_that_writes_too_much_for_the_server_is_killed_r27(tmp_path):
    with served(tmp_path, max_output=MIB) as server, server.client() as remote:
        done = remote.run(["yes"])
        assert done.returncode == -signal.SIGKILL
        assert done.reason == "it wrote more than 1048576 bytes (max_output)"
        assert len(done.stdout) <= MIB
        done = remote.run(["head", "-c", str(MIB), "/dev/zero"])
        assert (done.returncode, len(done.stdout), done.reason) == (0, MIB, "")


@pytest.mark.case("R27")
@linux
@pytest.mark.parametrize(
    ("limits", "script", "status"),
    [
        ({"cpu": 1}, "while :; do :; done", {-signal.SIGXCPU, -signal.SIGKILL}),
        ({"file_size": 1000}, "head -c 5000 /dev/zero >FILE", {1, 2, -signal.SIGXFSZ, 153}),
        ({"open_files": 5}, "ulimit -n; exit $(ulimit -n)", {5}),
        ({"memory": 100 * MIB}, "head -c 500M /dev/zero | tail -n 1 | wc -c >&2; exit 3", {3}),
    ],
    ids=lambda value: str(value)[:12],
)
def test_limit_of_a_process_holds_r27(tmp_path, limits, script, status):
    with served(tmp_path, limits=limits) as server, server.client() as remote:
        done = remote.run(sh(script.replace("FILE", str(tmp_path / "file"))))
        assert done.returncode in status, done
        assert remote.run(["echo", "next"]).stdout == b"next\n"


@pytest.mark.parametrize("time_limit", [1e7, 1e30, float("inf")])
def test_limits_that_are_wider_than_the_system_s_limit_nothing(tmp_path, time_limit):
    wide = dict.fromkeys(
        ["cpu", "memory", "processes", "file_size", "open_files"], (1 << 62) - 1
    )
    with (
        served(tmp_path, limits=wide, time_limit=time_limit) as server,
        server.client() as remote,
    ):
        done = remote.run(["echo", "hello"])
        assert (done.returncode, done.stdout, done.reason) == (0, b"hello\n", "")


@pytest.mark.parametrize("number", [-1, 1 << 62, 1 << 70, 1.5, "5"])
def test_limit_that_no_system_takes_is_refused(tmp_path, number):
    with pytest.raises(ValueError, match=r"limits\['cpu'\] is .*, expected 0 to 46116860"):
        RemoteServer(f"unix:{tmp_path}/s", allow_root=True, limits={"cpu": number})


BOMBS = {  # in the group that the command leads, and each in a session of its own
    "forks": "f() { while :; do f & done; }; f & while :; do :; done",
    "leaves": 'setsid sh -c "$0" "$0" & setsid sh -c "$0" "$0" & wait',
}


@pytest.mark.case("R34")
@linux
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("kind", ["forks", pytest.param("leaves", marks=pytest.mark.slow)])
def test_bomb_of_processes_is_ended_and_the_server_lives(tmp_path, kind):
    """As a user of its own, for the system counts processes by user, and root's not."""
    uid = 100_000 + os.getpid()
    become = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    with (
        served(tmp_path, limits={"processes": 40}, time_limit=0.5) as server,
        server.client() as remote,
        server.client() as other,
    ):
        bomb = Task(remote.run, [*become, "sh", "-c", BOMBS[kind], BOMBS[kind]])
        assert other.run(["echo", "meanwhile"]).stdout == b"meanwhile\n"
        done = bomb.finish(3 * LONG)
        assert done.returncode == (-signal.SIGHUP if kind == "forks" else 0)
        assert "time_limit" in done.reason
        assert b"fork" in done.stderr
        until(lambda: not processes_of(uid))
        assert remote.run(["echo", "next"]).stdout == b"next\n"


def processes_of(uid: int) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if path.stat().st_uid == uid:
                found.append(path.name)
    return found


@pytest.mark.parametrize(
    "options",
    [
        {"limits": {"nosuch": 1}},
        {"limits": {"cpu": -1}},
        {"max_running": 0},
        {"time_limit": 0},
        {"max_output": -1},
    ],
    ids=str,
)
def test_option_that_makes_no_sense_is_refused(tmp_path, options):
    with pytest.raises(ValueError, match="expected"):
        RemoteServer(f"unix://{tmp_path}/s", allow_root=True, **options)


@pytest.mark.case("R33")
@linux
def test_nothing_is_left_of_many_commands_r33(server, remote):
    remote.run(["true"])
    before = len(os.listdir("/proc/self/fd"))
    spawner = len(os.listdir(f"/proc/{server.spawner}/fd"))
    for i in range(100):
        assert remote.run(sh(f"exit {i}")).returncode == i
        with pytest.raises(FileNotFoundError):
            remote.run(["nosuchprogram"])
        assert remote.run(["cat"], input=b"x", pty=(9, 9) if i % 10 == 0 else None)
    until(lambda: not children(server.spawner))
    until(lambda: len(os.listdir("/proc/self/fd")) <= before)
    until(lambda: len(os.listdir(f"/proc/{server.spawner}/fd")) <= spawner)


@pytest.mark.case("R33")
def test_nothing_is_left_of_clients_that_have_gone(server):
    def kept():
        gc.collect()
        return sum(isinstance(each, ServerConnection | Talk) for each in gc.get_objects())

    before = kept()
    for _ in range(20):
        with server.client() as client:
            client.run(["true"])
            with pytest.raises(FileNotFoundError):
                client.run(["nosuchprogram"])
    until(lambda: kept() <= before)


# ---------------------------------------------------------------- signals


@pytest.mark.case("R26")
@pytest.mark.parametrize("name", ["TERM", "SIGTERM", signal.SIGTERM, int(signal.SIGTERM)])
def test_signal_reaches_the_command_r26(remote, name):
    with remote.start(["cat"]) as process:
        process.send_signal(name)
        assert process.wait(LONG) == -signal.SIGTERM
        process.send_signal(name)  # it has ended: nothing happens


@pytest.mark.case("R26")
def test_signal_that_nobody_knows_is_refused_here_r26(remote):
    with remote.start(["cat"]) as process:
        for name in ("XYZ", "", "term", 0, 9999, signal.SIGCHLD):
            with pytest.raises(ValueError, match="(?i)signal"):
                process.send_signal(name)
        assert process.communicate(b"alive") == (b"alive", b"")


@pytest.mark.case("R26")
def test_signal_after_the_end_reaches_nobody_r26(server):
    with bare_client(server.address) as connection:
        connection.send(ask("true"))
        next_of(connection, Kind.EXIT)
        connection.send(Kind.SIGNAL(b"KILL"))
        connection.send(ask("echo", "next"))
        assert next_of(connection, Kind.STDOUT) == Kind.STDOUT(b"next\n")
        next_of(connection, Kind.EXIT)


# ---------------------------------------------------------------- who may what


def test_list_of_programs_and_words_is_what_may_be_run(tmp_path):
    allow = ["echo", ["cat", "/dev/null"], "date | wc -l"]
    with served(tmp_path, allow=allow) as server, server.client() as remote:
        assert remote.run(["echo", "any", "words"]).returncode == 0
        assert remote.run(["cat", "/dev/null", "/dev/null"]).returncode == 0
        assert remote.run("date | wc -l", shell=True).returncode == 0
        for args in (["cat", "/etc/passwd"], ["cat"], ["/bin/echo"], ["sh", "-c", "echo"]):
            assert "may not" in refused(server, args)
        for text in ("echo", "date | wc -l;id", "cat /dev/null"):
            if text != "echo":
                assert "may not" in refused(server, text, shell=True)


def test_mapping_says_what_each_user_may_run(tmp_path):
    import pwd

    me = pwd.getpwuid(os.geteuid()).pw_name
    with served(tmp_path, allow={me: ["echo"], "other": ["date"]}) as server:
        with server.client() as remote:
            assert remote.run(["echo"]).returncode == 0
        assert f"user {me} may not" in refused(server, ["date"])
    with served(tmp_path, allow={"other": ["echo"]}) as server:
        refused(server, ["echo"])


def test_function_is_asked_with_the_whole_request(tmp_path):
    asked: list[Any] = []

    def allow(request: Any) -> bool:
        asked.append(request)
        return "secret" not in request.argv

    with served(tmp_path, allow=allow) as server, server.client() as remote:
        remote.run(["echo", "a b"], cwd="/", env={"LC_A": "x"})
        remote.run("echo $0", shell=True, pty=(9, 9))
        refused(server, ["echo", "secret"])
    first, second, _ = asked
    assert (first.kind, first.argv, first.shell, first.cwd) == (
        "run",
        ("echo", "a b"),
        None,
        "/",
    )
    assert (first.env, first.pty) == ({"LC_A": "x"}, False)
    assert (second.argv, second.shell, second.pty) == ((), "echo $0", True)


def test_function_that_fails_allows_nothing(tmp_path):
    with (
        served(tmp_path, faults=1, allow=lambda request: 1 / 0) as server,
        server.client() as remote,
    ):
        with pytest.raises(RemoteError, match="could not find out") as caught:
            remote.run(["true"])
        assert caught.value.code == "failed"


@pytest.mark.parametrize("allow", ["echo", 5, [5], [[]], [["a", 5]]])
def test_rule_that_makes_no_sense_is_refused(tmp_path, allow):
    with pytest.raises(TypeError, match="allow"):
        RemoteServer(f"unix://{tmp_path}/s", allow_root=True, allow=allow)


def test_root_has_to_be_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(PermissionError, match="allow_root=True"):
        RemoteServer(f"unix://{tmp_path}/s")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    RemoteServer(f"unix://{tmp_path}/s").server_close()


@pytest.mark.case("T28")
def test_address_for_strangers_needs_tls_and_a_key(certs):
    key, tls = os.urandom(32), certs.server_context()
    for options in ({}, {"authkey": key}, {"tls": tls}):
        address = "tls://127.0.0.1:0" if "tls" in options else "tcp://127.0.0.1:0"
        with pytest.raises(ValueError, match="is no Unix socket"):
            RemoteServer(address, allow_root=True, **options)
    for address in ("tcp://0.0.0.0:0", "tcp://:0", ["tcp://127.0.0.1:0", "tcp://:0"]):
        with pytest.raises(ValueError, match="which is no loopback address"):
            RemoteServer(address, allow_root=True, insecure=True)
    RemoteServer("tcp://127.0.0.1:0", allow_root=True, insecure=True).server_close()


# ---------------------------------------------------------------- the audit


@pytest.mark.case("R35")
def test_each_command_has_one_line_without_control_characters_r35(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="pysock.remote")
    with served(tmp_path, allow_env=()) as server, server.client() as remote:
        remote.run(["echo", "\x1b[31m\nred\r", "\x9b", b"\xff"])
        remote.run(sh("cat >/dev/null; echo out; echo err >&2; exit 3"), input=b"abc")
        remote.run("kill -9 $$", shell=True)
        until(lambda: "signal KILL" in caplog.text)  # what follows has a thread of its own
        refused(server, ["true"], env={"LD_PRELOAD": "x"})
        with pytest.raises(FileNotFoundError):
            remote.run(["nosuchprogram"])
    lines = [each.getMessage() for each in caplog.records if each.name == "pysock.remote"]
    assert len(lines) == 5
    assert all(line.isprintable() and line.isascii() for line in lines), lines
    for line, said in zip(
        lines,
        [
            r"\x1b[31m\nred",
            "exit 3, 3 bytes in, 4 out, 4 err",
            "signal KILL",
            "refused",
            "not",
        ],
        strict=True,
    ):
        assert said in line
