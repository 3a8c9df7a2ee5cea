"""pysock: `RemoteServer` and `RemoteClient` as they come, at a Unix socket or with TLS."""

import sys
from typing import Any

import protocol
import remote_ends

import pysock

try:
    from pysock.remote import RemoteClient, RemoteServer
except ImportError:  # a pysock of before may lack it
    sys.exit("Unavailable: this pysock has no remote commands")

KEY = bytes(range(32))


def secrets(options: protocol.Options, client: bool) -> dict[str, Any]:
    """Return what a side needs besides where it is not at a Unix socket."""
    if options.address.startswith("unix:"):
        return {}
    import ssl_peer

    context = ssl_peer.client_context() if client else ssl_peer.server_context()
    return {"authkey": KEY, "tls": context}


class Far:
    def __init__(self, options: protocol.Options) -> None:
        self._files = remote_ends.Files(options)
        self._client = RemoteClient(options.address, **secrets(options, client=True))

    def output(self, megabytes: int) -> int:
        got = 0
        with self._client.start(remote_ends.writer(megabytes), stdin=False) as process:
            for _, data in process:
                got += len(data)
        return got

    def true(self) -> int:
        return int(self._client.run(remote_ends.TRUE).returncode)

    def put(self) -> None:
        self._client.put(self._files.source, "target")

    def get(self) -> str:
        self._client.get("source", self._files.target)
        return self._files.target

    def close(self) -> None:
        self._client.close()
        self._files.close()


def serve(options: protocol.Options, announce: protocol.Announce) -> Any:
    at = options.address if options.address.startswith("unix:") else "tls://127.0.0.1:0"
    folder = remote_ends.serve_folder(options)
    wanted = secrets(options, client=False)
    server = RemoteServer(at, allow_root=True, files_root=folder, **wanted)
    if at == options.address:
        announce(server.server_address)
    else:
        host, port = server.server_address
        print(f"tls://{host}:{port}", flush=True)
    return server


if __name__ == "__main__":
    protocol.main(f"pysock {pysock.__version__}", serve, Far)
