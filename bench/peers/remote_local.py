"""No server at all: the command is run here, its pipe read. What there is to be had."""

import os
import platform
import subprocess
import sys
from typing import Any

import protocol
import remote_ends


class Near:
    def __init__(self, options: protocol.Options) -> None:
        self._server = int(options.address.removeprefix("pid://"))

    def output(self, megabytes: int) -> int:
        got, command = 0, remote_ends.writer(megabytes)
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, bufsize=0, pipesize=remote_ends.READ
        ) as process:
            if sys.platform == "linux":  # where the others' commands run as well
                os.sched_setaffinity(process.pid, os.sched_getaffinity(self._server))
            assert process.stdout is not None
            descriptor = process.stdout.fileno()
            while data := os.read(descriptor, remote_ends.READ):
                got += len(data)
        return got

    def true(self) -> int:
        return subprocess.run(remote_ends.TRUE, capture_output=True).returncode

    def close(self) -> None:
        """Nothing is kept."""


class Nobody:
    """Stands where the others have their server."""

    def serve_forever(self) -> None:
        while os.read(0, 1):
            pass

    def close(self) -> None:
        """Nothing is kept."""


def serve(options: protocol.Options, announce: protocol.Announce) -> Any:
    print(f"pid://{os.getpid()}", flush=True)
    return Nobody()


if __name__ == "__main__":
    protocol.main(f"CPython {platform.python_version()}", serve, Near)
