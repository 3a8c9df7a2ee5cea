"""Remote commands: pysock beside the command run here, and beside SSH.

The servers of all SSH clients are the same: OpenSSH's.
"""

from collections.abc import Callable

from interleave import RemoteWork, Work

SSH = ("ssh", "ssh_gcm", "paramiko", "asyncssh")
RUN = ("local", "pysock", *SSH, "local_again")
COPY = ("pysock", "ssh", "paramiko", "asyncssh", "ssh_again")

# MiB, or commands.  A start of `ssh` or `scp` has to be little beside what it does.
FEWER = {"paramiko": 16, "asyncssh": 32}
FEWER_OUTPUT = {**FEWER, "ssh": 128, "ssh_gcm": 128}
FEWER_TIMES = {"ssh": 20, "paramiko": 20, "asyncssh": 20}
WORKS = [
    RemoteWork("remote_output", "output", RUN, 256, fewer=FEWER_OUTPUT),
    RemoteWork("remote_output_tls", "output", RUN, 256, fewer=FEWER_OUTPUT, tls=True),
    RemoteWork(
        "remote_true",
        "true",
        tuple(name for name in RUN if name != "ssh_gcm"),
        100,
        fewer=FEWER_TIMES,
    ),
    RemoteWork("remote_put", "put", COPY, 128, fewer=FEWER, rounds=7),
    RemoteWork("remote_get", "get", COPY, 128, fewer=FEWER, rounds=7),
]


def test_remote(work: Work, rival: str, measure: Callable[[Work, str], None]) -> None:
    measure(work, rival)
