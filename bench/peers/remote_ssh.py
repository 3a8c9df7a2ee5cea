"""OpenSSH's `ssh` and `scp`, which share one connection (ControlMaster).

With "gcm" the cipher is AES-GCM, which is the faster one where processors have AES.
"""

import os
import shutil
import subprocess
import sys
from typing import Any

import protocol
import remote_ends
import ssh_ends

FAST = ["-o", "Ciphers=aes128-gcm@openssh.com"] if "gcm" in sys.argv[1:2] else []
if FAST:
    del sys.argv[1]


class Far:
    def __init__(self, options: protocol.Options) -> None:
        self._place = place = ssh_ends.Place(options)
        self._options = [*FAST, "-F", "none", "-i", place.key]
        for option in (
            f"UserKnownHostsFile={place.known}",
            f"ControlPath={place.folder}/control",
            f"User={place.user}",
            f"Port={place.port}",
            "BatchMode=yes",
            "LogLevel=ERROR",
        ):
            self._options += ["-o", option]
        self._ssh = ["ssh", *self._options, place.host]
        # -f: it goes into the background when it is connected.
        subprocess.run(
            ["ssh", "-M", "-N", "-f", *self._options, place.host],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

    def output(self, megabytes: int) -> int:
        got, command = 0, [*self._ssh, *remote_ends.writer(megabytes)]
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0
        ) as process:
            assert process.stdout is not None
            while data := os.read(process.stdout.fileno(), remote_ends.READ):
                got += len(data)
        return got

    def true(self) -> int:
        command = [*self._ssh, *remote_ends.TRUE]
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True
        ).returncode

    def put(self) -> None:
        self._copy(self._place.files.source, f"{self._place.host}:{self._place.target}")

    def get(self) -> str:
        self._copy(f"{self._place.host}:{self._place.source}", self._place.files.target)
        return self._place.files.target

    def _copy(self, source: str, target: str) -> None:
        subprocess.run(["scp", "-q", *self._options, source, target], check=True)

    def close(self) -> None:
        subprocess.run([*self._ssh, "-O", "exit"], capture_output=True)
        self._place.files.close()


def nobody(*_: Any) -> Any:
    sys.exit("the server is remote_sshd.py")


if __name__ == "__main__":
    if shutil.which("ssh") is None:
        sys.exit("Unavailable: no ssh; on Debian: apt install openssh-client")
    said = subprocess.run(["ssh", "-V"], capture_output=True, text=True).stderr
    protocol.main(said.split(",")[0].strip(), nobody, Far)
