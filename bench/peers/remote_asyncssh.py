"""asyncssh, as its guide has it, with OpenSSH's server."""

import asyncio
import sys
from typing import Any

import asyncssh
import protocol
import remote_ends
import ssh_ends


class Far:
    def __init__(self, options: protocol.Options) -> None:
        self._place = ssh_ends.Place(options)
        self._loop = asyncio.new_event_loop()
        self._wait = self._loop.run_until_complete
        self._conn = self._wait(self._connect())
        self._files: Any = None

    async def _connect(self) -> Any:
        place = self._place
        return await asyncssh.connect(
            place.host,
            place.port,
            username=place.user,
            client_keys=[place.key],
            known_hosts=place.known,
            agent_path=None,
            config=None,
        )

    def output(self, megabytes: int) -> int:
        return self._wait(self._output(" ".join(remote_ends.writer(megabytes))))

    async def _output(self, command: str) -> int:
        got = 0
        async with self._conn.create_process(command, encoding=None) as process:
            while data := await process.stdout.read(remote_ends.READ):
                got += len(data)
        return got

    def true(self) -> int:
        return int(self._wait(self._conn.run("true")).returncode)

    def put(self) -> None:
        self._wait(self._sftp().put(self._place.files.source, self._place.target))

    def get(self) -> str:
        self._wait(self._sftp().get(self._place.source, self._place.files.target))
        return self._place.files.target

    def _sftp(self) -> Any:
        self._files = self._files or self._wait(self._conn.start_sftp_client())
        return self._files

    def close(self) -> None:
        self._conn.close()
        self._wait(self._conn.wait_closed())
        self._loop.close()
        self._place.files.close()


def nobody(*_: Any) -> Any:
    sys.exit("the server is remote_sshd.py")


if __name__ == "__main__":
    protocol.main(f"asyncssh {asyncssh.__version__}", nobody, Far)
