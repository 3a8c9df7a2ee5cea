"""A server in which one allocation finds no memory, as its clients tell it.

Run as a program: `python starving_server.py WORKERS`, or with "datagrams".
It prints its port, and serves until its input ends.
"""

from __future__ import annotations

import _testcapi
import logging
import os
import sys
import threading
from typing import Any

import pysock

LARGE = 300_000


def handler(message: bytes) -> Any:
    """Reply with the message; or with many, or with a large one."""
    verb, _, number = bytes(message[:20]).partition(b" ")
    if verb == b"starve":
        which = int(number)
        _testcapi.set_nomemory(which, which + 1)
    elif verb == b"sated":
        _testcapi.remove_mem_hooks()
    elif verb == b"many":
        return iter([b"a", b"b", bytes(5000)])
    elif verb == b"large":
        return bytes(LARGE)
    elif verb == b"open":
        return b"%d" % len(os.listdir("/proc/self/fd"))
    return message


def main() -> None:
    logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
    logging.raiseExceptions = False
    server: Any
    if sys.argv[1] == "datagrams":
        server = pysock.DatagramServer("udp://127.0.0.1:0", handler, workers=0)
    else:
        workers = int(sys.argv[1])
        server = pysock.Server("127.0.0.1:0", handler, workers=workers, linger=0.2)
    print(server.server_address[1], flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), server.stop(2)), daemon=True).start()
    server.serve_forever()
    server.server_close()
    print("stopped", flush=True)


if __name__ == "__main__":
    main()
