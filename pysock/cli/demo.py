"""`pysock demo`: what pysock is for, in a few seconds, over real sockets on this machine.

Everything printed is what happened in that run.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterable

from .. import Client, Connection, Error, LengthField, Server, __version__
from . import DISCONNECTED, FAILED, Failure, Parser, writing

DESCRIPTION = """\
Show in a few seconds, over real sockets on this machine, what pysock is for: messages
that plain sockets stick together or cut arrive whole, a server answers a client, a large
message goes there and back, a remote command sends a large output, and its speed is
compared with that of multiprocessing.connection."""

EPILOG = """\
examples:
  pysock demo
  pysock demo > demo.txt

Colours and bars are for terminals; NO_COLOR=1 turns the colours off.

exit status: 0; 1 this side failed; 255 a connection failed"""

MIB = 1024 * 1024
NAME_WIDTH = 14


def configure(parser: Parser) -> None:
    """The demonstration takes no arguments."""


def run(options: argparse.Namespace) -> int:
    """Run every part; return 0."""
    screen = Screen()
    try:
        screen.begin(f"pysock {__version__}: what follows happens now, on this machine.")
        _stuck(screen)
        _cut(screen)
        _server(screen)
        _large(screen)
        if sys.platform != "win32":
            _command(screen)
        _race(screen)
    except (Error, OSError) as exc:
        reason = (exc.strerror if isinstance(exc, OSError) else None) or exc
        raise Failure(f"the connection failed: {reason}", DISCONNECTED) from None
    return 0


# ---------------------------------------------------------------- the parts


def _stuck(screen: Screen) -> None:
    screen.title("1. Three messages, sent in one write")
    chinese = " (粘包)" if screen.can_show("粘包") else ""
    screen.say(
        f"TCP carries bytes, not messages: sent in a hurry, they stick together{chinese}."
    )
    messages = [b"hello", b"how are you?", b"bye"]
    screen.row("sent", _quoted(messages))

    a, b = _connected()
    with a, b:
        a.sendall(b"".join(messages))
        screen.row("plain socket", _received([b.recv(4096)]), bad=True)

    a, b = _connected()
    with Connection(a) as sender, Connection(b) as receiver:
        sender.send_many(messages)
        received = [receiver.recv() for _ in messages]
    _check(received, messages)
    screen.row("pysock", _received(received), good=True)


def _cut(screen: Screen) -> None:
    screen.title("2. One message, arriving in pieces")
    screen.say("And what is sent at once may arrive bit by bit.")
    message = b"what leaves whole arrives whole"
    screen.row("sent", _quoted([message]))

    a, b = _connected()
    received = []
    with a, b:
        for piece in _pieces(message):
            a.sendall(piece)
            received.append(b.recv(4096))
    screen.row("plain socket", _received(received), bad=True)

    a, b = _connected()
    with a, Connection(b) as receiver:
        a.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pieces = _pieces(LengthField().encode(message))
        dripping = threading.Thread(target=_drip, args=(a, pieces), daemon=True)
        dripping.start()
        received = [receiver.recv()]
        dripping.join()
    _check(received, [message])
    screen.row("pysock", _received(received), good=True)


def _server(screen: Screen) -> None:
    screen.title("3. A server and a client")
    screen.code('with pysock.Server("tcp://127.0.0.1:0", bytes.upper).start() as server:')
    screen.code("    with pysock.Client(server.address) as client:")
    screen.code('        print(client.request(b"hello, world"))')
    with (
        Server("tcp://127.0.0.1:0", bytes.upper).start() as server,
        Client(server.address) as client,
    ):
        reply = client.request(b"hello, world")
    _check([reply], [b"HELLO, WORLD"])
    screen.row("prints", repr(reply), good=True)


def _large(screen: Screen) -> None:
    size = 64 * MIB
    screen.title(f"4. One message of {size // MIB} MiB, there and back")
    message = os.urandom(size)
    with (
        Server("tcp://127.0.0.1:0", lambda message: message).start() as server,
        Client(server.address) as client,
    ):
        began = time.perf_counter()
        reply = client.request(message)
        seconds = time.perf_counter() - began
    _check([reply], [message])
    screen.row("sent", f"{len(message):,} random bytes")
    screen.row("received", f"{len(reply):,} bytes, the same", good=True)
    screen.row("took", f"{seconds:.2f} s, there and back")


def _command(screen: Screen) -> None:
    from ..remote import RemoteClient, RemoteServer

    size = 64 * MIB
    screen.title(f"5. A remote command, and its {size // MIB} MiB of output")
    screen.say("As subprocess.run, over a Unix socket or TLS; whole, however long.")
    screen.code('remote.run(["cat", "random"])')
    content = os.urandom(size)
    with tempfile.TemporaryDirectory(prefix="pysock-demo-") as folder:
        with open(os.path.join(folder, "random"), "xb") as file:
            file.write(content)
        with (
            RemoteServer(
                f"unix://{folder}/s", allow_root=os.geteuid() == 0, cwd=folder
            ).start() as server,
            RemoteClient(server.address) as remote,
        ):
            began = time.perf_counter()
            done = remote.run(["cat", "random"])
            seconds = time.perf_counter() - began
    sums = [hashlib.sha256(data).hexdigest() for data in (content, done.stdout)]
    if done.returncode or sums[0] != sums[1]:
        raise Failure("the output is not what it must be: please report this", FAILED)
    screen.row("exit status", str(done.returncode), good=True)
    screen.row("received", f"{len(done.stdout):,} bytes", good=True)
    screen.row("SHA-256", f"the same, {sums[1][:16]}...", good=True)
    screen.row("took", f"{seconds:.2f} s")


def _race(screen: Screen) -> None:
    from .demo_race import PYSOCK, RIVAL, ROUNDS, SIZE, race

    number = 5 if sys.platform == "win32" else 6
    screen.title(f"{number}. Messages of {SIZE} bytes per second")
    screen.passing("measuring, a few seconds ...")
    about = {
        "ask and answer": "One message there, one back, then the next:",
        "one way": "One way; pysock in batches, with send_many and recv_many:",
    }
    for work, rates in race().items():
        screen.say(about[work])
        screen.bars(rates, f"{_ratio(rates[PYSOCK] / rates[RIVAL])} times as many")
    screen.say(f"Medians of {ROUNDS} rounds, by turns. The other end is another process.")


# ---------------------------------------------------------------- sockets


def _connected() -> tuple[socket.socket, socket.socket]:
    """Return two plain sockets, connected over loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        a = socket.create_connection(listener.getsockname())
        return a, listener.accept()[0]


def _pieces(data: bytes, size: int = 7) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def _drip(sock: socket.socket, pieces: Iterable[bytes]) -> None:
    for piece in pieces:
        sock.sendall(piece)
        time.sleep(0.01)  # so that each travels alone


def _check(received: list[bytes], sent: list[bytes]) -> None:
    if received != sent:
        raise Failure("what arrived is not what was sent: please report this", FAILED)


# ---------------------------------------------------------------- the screen


class Screen:
    """Standard output: plain text, or colours and bars on a terminal."""

    def __init__(self) -> None:
        out = sys.stdout
        terminal = out is not None and out.isatty()
        plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        self._encoding = (out is not None and out.encoding) or "ascii"
        self._bars = terminal
        self._moves = terminal and os.environ.get("TERM") != "dumb"
        # The old console of Windows shows the codes themselves.
        modern = sys.platform != "win32" or "WT_SESSION" in os.environ
        self._colour = terminal and modern and not plain
        self._width = min(shutil.get_terminal_size().columns, 100)
        self._passing = 0

    def can_show(self, text: str) -> bool:
        """Whether the output's encoding has these characters."""
        try:
            text.encode(self._encoding)
        except (UnicodeError, LookupError):
            return False
        return True

    def begin(self, text: str) -> None:
        """Print the first line."""
        self._print(self._paint("1", text))

    def title(self, text: str) -> None:
        """Begin a part."""
        self._print(f"\n{self._paint('1', text)}\n")

    def say(self, text: str) -> None:
        """Print a sentence."""
        self._print(f"   {text}")

    def code(self, text: str) -> None:
        """Print a line of a program."""
        self._print(f"     {self._paint('36', text)}")

    def row(self, name: str, text: str, *, good: bool = False, bad: bool = False) -> None:
        """Print a fact under its name."""
        colour = "32" if good else "31" if bad else "0"
        self._print(f"     {name:<{NAME_WIDTH}}{self._paint(colour, text)}")

    def passing(self, text: str) -> None:
        """Show *text* until the next line is printed; only a terminal can forget it."""
        if self._moves:
            self._write(f"   {text}")
            self._passing = len(text) + 3

    def bars(self, rates: dict[str, float], remark: str) -> None:
        """Print a number for each name, the remark at the first, and bars on a terminal."""
        largest = max(rates.values())
        room = max(8, self._width - 66)
        for index, (name, rate) in enumerate(rates.items()):
            bar = f"{self._bar(rate / largest, room)} " if self._bars else ""
            colour = "33" if index else "32"
            note = "" if index else f"   {remark}"
            self._print(f"     {name:<28}{self._paint(colour, bar)}{_rounded(rate):>10}{note}")

    def _bar(self, share: float, room: int) -> str:
        eighths = max(1, round(share * room * 8))
        if not self.can_show("█▏"):
            return ("#" * max(1, eighths // 8)).ljust(room)
        return ("█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()).ljust(room)

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour and code != "0" else text

    def _print(self, text: str) -> None:
        if self._passing:
            self._write("\r" + " " * self._passing + "\r")
            self._passing = 0
        self._write(f"{text}\n")

    def _write(self, text: str) -> None:
        with writing() as out:
            out.write(text)
            out.flush()


def _quoted(messages: Iterable[bytes]) -> str:
    return "  ".join(repr(message.decode()) for message in messages)


def _received(messages: list[bytes]) -> str:
    return f"{len(messages)} recv:  {_quoted(messages)}"


def _rounded(number: float) -> str:
    """Three digits are as much as a measurement of this kind can say."""
    factor = 10 ** max(0, len(str(round(number))) - 3)
    return f"{round(number / factor) * factor:,}"


def _ratio(number: float) -> str:
    return f"{number:.1f}" if number < 10 else f"{number:.0f}"
