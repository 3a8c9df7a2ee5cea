"""pysock: a `Server` as it comes ("inline": without workers), or two processes of it."""

import inspect
import sys
from typing import Any

import protocol
import serving

import pysock

OPTION = sys.argv[1]
serve_processes: Any = getattr(pysock, "serve", None)  # a pysock of before may lack it


def serve(handler: serving.Handler, address: str) -> None:
    options: dict[str, Any] = {"max_connections": None, "backlog": serving.BACKLOG}
    if OPTION == "inline" and "workers" in inspect.signature(pysock.Server).parameters:
        options["workers"] = 0
    with pysock.Server(address, handler, **options) as server:
        protocol.announce(server.server_address)
        server.serve_forever()


def serve_two(handler: serving.Handler, address: str) -> None:
    address = serving.with_free_port(address)
    print(address, flush=True)
    options: dict[str, Any] = {"max_connections": None, "backlog": serving.BACKLOG}
    sys.exit(serve_processes(address, handler, processes=2, **options))


if __name__ == "__main__":
    if OPTION == "two" and serve_processes is None:
        sys.exit("Unavailable: this pysock has no serve()")
    serving.main(f"pysock {pysock.__version__}", serve_two if OPTION == "two" else serve)
