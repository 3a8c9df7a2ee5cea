"""paramiko, as its guide has it, with OpenSSH's server."""

import sys
from typing import Any

import paramiko
import protocol
import remote_ends
import ssh_ends


class Far:
    def __init__(self, options: protocol.Options) -> None:
        self._place = place = ssh_ends.Place(options)
        self._client = paramiko.SSHClient()
        self._client.load_host_keys(place.known)
        self._client.connect(
            place.host, place.port, place.user, key_filename=place.key, allow_agent=False
        )
        self._files: Any = None

    def output(self, megabytes: int) -> int:
        got = 0
        _, stdout, _ = self._client.exec_command(" ".join(remote_ends.writer(megabytes)))
        while data := stdout.channel.recv(remote_ends.READ):
            got += len(data)
        stdout.channel.close()
        return got

    def true(self) -> int:
        _, stdout, _ = self._client.exec_command("true")
        stdout.read()
        return int(stdout.channel.recv_exit_status())

    def put(self) -> None:
        self._sftp().put(self._place.files.source, self._place.target)

    def get(self) -> str:
        self._sftp().get(self._place.source, self._place.files.target)
        return self._place.files.target

    def _sftp(self) -> Any:
        self._files = self._files or self._client.open_sftp()
        return self._files

    def close(self) -> None:
        self._client.close()
        self._place.files.close()


def nobody(*_: Any) -> Any:
    sys.exit("the server is remote_sshd.py")


if __name__ == "__main__":
    protocol.main(f"paramiko {paramiko.__version__}", nobody, Far)
