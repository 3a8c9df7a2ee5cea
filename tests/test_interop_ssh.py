"""The same commands by `ssh` and OpenSSH's server, and by `pysock run`: the same comes out."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import runs
from conftest import linux, require_peer
from peers import LONG, until
from runs import Served

served = runs.served

pytestmark = [linux, pytest.mark.slow]  # sshd is started as Linux has it

CONFIG = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile none
StrictModes no
UsePAM no
PermitRootLogin yes
"""

# A root's sshd wants a folder that is made at boot; where it is not, this gives it one.
IN_ITS_OWN_RUN = 'mount -t tmpfs none /run && mkdir -m 755 /run/sshd && exec "$@"'

CLIENT = """
IdentityFile {folder}/user
UserKnownHostsFile /dev/null
StrictHostKeyChecking no
LogLevel ERROR
"""

COMMANDS = [
    "echo out; echo err >&2",
    "exit 0",
    "exit 3",
    "exit 126",
    "exit 255",
    "no-such-program-anywhere",
    "/etc/passwd",
    "kill -TERM $$",
    "kill -KILL $$",
    "cat",
    "wc -c",
    "head -c 3",
    "exec 1>&-; echo late >&2; exit 4",
    "exec 2>&-; seq 1 3",
    "seq 1 100000; seq 1 100000 >&2",
    "head -c 3000000 /dev/zero | tr '\\0' '\\377'",
    "yes | head -n 2000",
    "printf '\\000\\001\\033[31m\\377\\r\\n'",
    "echo \"$0 $# * \\\\ 'x'\" | tail -c 100",
    "(sleep 0.2; echo last) & echo first",
    "ulimit -c; umask",
    "readlink /proc/self/fd/0 | cut -c1-4",
]

INPUT = bytes(range(256)) * 4000


@pytest.fixture(scope="module")
def ssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The beginning of a command that has sshd run what follows."""
    sshd, client, keygen = map(require_peer, ("sshd", "ssh", "ssh-keygen"))
    folder = tmp_path_factory.mktemp("ssh")
    for name in ("host", "user"):
        command = [keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(command, check=True, timeout=LONG)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    (folder / "config").write_text(CONFIG.format(port=port, folder=folder))
    (folder / "client").write_text(CLIENT.format(folder=folder))
    command = [sshd, "-D", "-e", "-f", str(folder / "config")]
    if os.getuid() == 0 and not os.path.isdir("/run/sshd"):
        own = [shutil.which("unshare") or "unshare", "--mount", "sh", "-c", IN_ITS_OWN_RUN]
        command = [*own, "sh", *command]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log)
    try:
        until(lambda: process.poll() is not None or b"listening" in said(folder))
        if process.poll() is not None:
            pytest.skip(f"sshd does not start here: {said(folder).decode()}")
        options = [
            "UserKnownHostsFile=/dev/null",
            "StrictHostKeyChecking=no",
            "LogLevel=ERROR",
        ]
        flags = [word for option in options for word in ("-o", option)]
        yield [
            client,
            "-F",
            "none",
            *flags,
            "-i",
            str(folder / "user"),
            f"-p{port}",
            "127.0.0.1",
        ]
    finally:
        process.terminate()
        process.wait(LONG)


def said(folder: Path) -> bytes:
    return (folder / "log").read_bytes()


def by_ssh(ssh: list[str], line: str, data: bytes) -> tuple[int, bytes, bytes]:
    quoted = line.replace("'", "'\\''")
    done = subprocess.run(
        [*ssh, f"exec /bin/sh -c '{quoted}'"], input=data, capture_output=True, timeout=LONG
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.case("I08")
@pytest.mark.parametrize("line", COMMANDS)
def test_command_ends_as_it_does_by_ssh(ssh: list[str], served: Served, line: str) -> None:
    status, out, err = by_ssh(ssh, line, INPUT)
    ours = served.run("--", "/bin/sh", "-c", line, stdin=INPUT)
    if line.startswith("kill"):  # ssh has 255 for a signal, as for what is wrong with itself
        assert (status, ours[0]) == (255, 128 + (15 if "TERM" in line else 9))
        status = ours[0]
    assert (ours[0], ours[1]) == (status, out)
    assert ours[2].encode() == err
