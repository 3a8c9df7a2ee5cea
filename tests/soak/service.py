"""The servers of the soak, a program for each: `python service.py plain|tls|remote`.

Where it is, its seed and its folder come from the environment, which workers inherit.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pysock
from content import Content, Request, Wrong

FOLDER = Path(os.environ["SOAK_FOLDER"])
CONTENT = Content(int(os.environ["SOAK_SEED"]))
WORKERS = 2  # processes


def answer(message: bytes, connection: pysock.Connection) -> Any:
    """Check the request, and do what its letter says."""
    if not message:
        return b""
    try:
        request = CONTENT.read(message)
        return DEEDS[request.deed](request, connection)
    except Wrong as exc:
        tell_wrong(exc)
        raise


def tell_wrong(exc: Wrong) -> None:
    """Leave word for the conductor: the client may be gone before it hears of it."""
    with (FOLDER / "wrong").open("a") as file:
        file.write(f"server {os.getpid()}: {exc}\n")


def _echo(request: Request, _: Any) -> bytes:
    return CONTENT.reply(request)


def _sleep(request: Request, _: Any) -> bytes:
    time.sleep(request.number % 16 / 2000)
    return CONTENT.reply(request)


def _several(request: Request, _: Any) -> Iterator[bytes]:
    for index in range(request.count):
        yield CONTENT.reply(request, index)


def _directly(request: Request, connection: pysock.Connection) -> list[bytes]:
    """Some replies past the server, the first of them as a file; the others by it."""
    connection.sendfile(io.BytesIO(CONTENT.reply(request)))
    middle = 1 + request.count // 2
    connection.send_many(CONTENT.reply(request, index) for index in range(1, middle))
    return [CONTENT.reply(request, index) for index in range(middle, request.count)]


def _upload(request: Request, connection: pysock.Connection) -> bytes:
    """Receive as many messages as announced, in every way there is."""
    buffer = bytearray(request.size)
    for index in range(request.count):
        number = request.number + index
        if index % 3 == 0:
            CONTENT.check(connection.recv(), number, request.size)
        elif index % 3 == 1:
            with connection.recv_view() as view:
                CONTENT.check(view, number, request.size)
        else:
            size = connection.recv_into(buffer)
            CONTENT.check(memoryview(buffer)[:size], number, request.size)
    return b"%d" % request.count


def _close(_: Request, connection: pysock.Connection) -> None:
    connection.close()


def _who(_: Request, __: Any) -> bytes:
    return b"%d" % os.getpid()


DEEDS = {
    b"e": _echo,
    b"s": _sleep,
    b"m": _several,
    b"d": _directly,
    b"u": _upload,
    b"c": _close,
    b"w": _who,
}


def _ready(name: str, addresses: Any) -> None:
    """Write where the server is; whoever finds the file finds all of it."""
    part = FOLDER / f"{name}.part"
    part.write_text("\n".join(map(str, addresses)))
    part.rename(FOLDER / f"{name}.address")


def _serve(name: str, addresses: list[str], **options: Any) -> int:
    return pysock.serve(
        addresses,
        "service:answer",
        processes=WORKERS,
        app_dir=Path(__file__).parent,
        drain=20.0,
        ready=lambda server: _ready(name, server.addresses),
        **options,
    )


def _serve_commands() -> int:
    with pysock.remote.RemoteServer(
        f"unix://{FOLDER}/remote", allow_root=True, max_running=32, files_root=FOLDER / "files"
    ) as server:
        over = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: over.set())
        server.start()
        _ready("remote", [server.address])
        over.wait()
        server.stop(5.0)
    return 0


def main() -> int:
    name = sys.argv[1]
    if name == "remote":
        return _serve_commands()
    if name == "plain":
        return _serve(name, ["tcp://127.0.0.1:0", f"unix://{FOLDER}/plain"])
    context = pysock.tls.server_context(FOLDER / "server.pem", FOLDER / "server-key.pem")
    return _serve(
        name, ["tls://127.0.0.1:0"], tls=context, authkey=bytes.fromhex(os.environ["SOAK_KEY"])
    )


if __name__ == "__main__":
    sys.exit(main())
