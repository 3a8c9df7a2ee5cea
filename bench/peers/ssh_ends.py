"""What the clients of `remote_sshd.py` share: where it is, and that it is there."""

import os
import socket
import time
from urllib.parse import urlsplit

import protocol
import remote_ends

PATIENCE = 10.0  # seconds for sshd to come up


class Place:
    """Where a server is, and what it left for its clients."""

    def __init__(self, options: protocol.Options) -> None:
        url = urlsplit(options.address)
        self.host, self.port = str(url.hostname), int(url.port or 22)
        self.user = str(url.username)
        self.folder = url.path
        self.key = os.path.join(url.path, "user")
        self.known = os.path.join(url.path, "known")
        self.source = os.path.join(url.path, "source")
        self.target = os.path.join(url.path, "target")
        self.files = remote_ends.Files(options)
        self._wait()

    def _wait(self) -> None:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection((self.host, self.port)).close()
            except ConnectionRefusedError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)
            else:
                return
