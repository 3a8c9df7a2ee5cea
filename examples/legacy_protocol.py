"""The wire of a classic socket tutorial, in both roles: what its programs speak, unchanged.

    python legacy_protocol.py command-server     a shell for one client at a time, port 5210
    python legacy_protocol.py command-client     commands from standard input, one a line
    python legacy_protocol.py upper-server       bytes in, upper-cased bytes out, port 1234
    python legacy_protocol.py upper-client       lines from standard input

A command is bare bytes, at most 2,048: one send, one receive.  The answer, by `--wire`:

    ack      its size in digits, any bytes from the client to acknowledge it, its bytes
    length   its size, and at once its bytes: they stick together (粘包)
    bare     its bytes, and nothing that tells where they end

A command that the network cuts is run in pieces, and two that stick together are run as one:
one side alone cannot cure that.  What it can:

- Digits and body may come in one piece, and a body may begin with a digit: is "123 files" of
  12 bytes, or of 1?  The client takes the only size that adds up.  Where more bytes could
  make up another, it waits `--quiet` seconds for them.
- The server of `length` pauses between size and body: a client that waits in its receive has
  mostly got the one when the other comes.  A busy one finds them stuck all the same.
- With `bare` the client prints what comes until it is quiet, and the rest at the end.

Never serve commands to a network: nobody is asked for a key, so whoever reaches the port owns
your account.  On 127.0.0.1 that is every user of this machine already, and every page in its
browsers, so what looks like HTTP is refused.  The command server is for Linux and macOS.
"""

import argparse
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator
from subprocess import DEVNULL, PIPE, STDOUT, Popen, TimeoutExpired

import pysock

PORTS = {"command": 5210, "upper": 1234}
LONGEST = 2048  # bytes of a command
LARGEST = 256 << 20  # bytes of output
PAUSE = 0.1  # seconds between a size and its body
HTTP = re.compile(rb"[A-Z]+ \S+ HTTP/1")


class Upper(pysock.Session):
    """One exchange; the connection is closed when `handle` returns."""

    def handle(self) -> None:
        self.connection.send(self.connection.recv().upper())


class Bare(pysock.Session):
    """Answers commands until the client closes the connection."""

    def handle(self) -> None:
        for command in self.connection:
            if HTTP.match(command):
                break
            self.answer(self.run(command))
            if len(command) > LONGEST:
                break  # what follows may be its rest, and is not to be run

    def answer(self, output: bytes) -> None:
        self.connection.send(output)

    def is_gone(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self.connection.stopping

    def run(self, command: bytes) -> bytes:
        """Return what a shell prints for *command*, never nothing."""
        if b"\0" in command or len(command) > LONGEST:
            return b"a command has at most %d bytes, and no NUL\n" % LONGEST
        end, output, reason = time.monotonic() + self.server.time_limit, b"", b""
        # In a session of its own it can be killed with all that it has started.
        with Popen(
            command,
            shell=True,
            start_new_session=True,
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
        ) as process:
            while not reason:
                try:
                    output, _ = process.communicate(timeout=0.1)
                    break
                except TimeoutExpired as exc:
                    output = exc.output or b""  # so far
                if self.is_gone():
                    reason = b"nobody waits for it"
                elif len(output) > LARGEST:
                    reason = b"more than %d bytes" % LARGEST
                elif time.monotonic() > end:
                    reason = b"more than %g seconds" % self.server.time_limit
            if reason:
                os.killpg(process.pid, signal.SIGKILL)
                output += b"\n[the command was ended: %s]\n" % reason
        return output or b"no output, exit status %d\n" % process.returncode


class Length(Bare):
    def answer(self, output: bytes) -> None:
        self.connection.send(b"%d" % len(output))
        time.sleep(PAUSE)
        self.connection.send(output)


class Ack(Bare):
    def answer(self, output: bytes) -> None:
        self.connection.send(b"%d" % len(output))
        if not pysock.wait([self.connection], self.server.time_limit):
            raise pysock.ConnectionClosed("no acknowledgement came in time")
        self.connection.recv()
        self.connection.send(output)

    def is_gone(self) -> bool:
        # Who has closed cannot acknowledge; on the other wires he may still be reading.
        try:
            return super().is_gone() or not self.connection.socket.recv(1, socket.MSG_PEEK)
        except OSError as exc:
            return not isinstance(exc, BlockingIOError)


WIRES = {"ack": Ack, "length": Length, "bare": Bare}


class TimedServer(pysock.Server):
    """Knows how many seconds a command may take."""

    time_limit = 60.0


def serve(options: argparse.Namespace) -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    with TimedServer(
        (options.host, options.port),
        Upper if options.what == "upper" else WIRES[options.wire],
        framing=pysock.Raw(max_frame=None),  # a message is what one receive returned
        max_connections=1,  # the next client waits in the backlog
    ) as server:
        server.time_limit = options.timeout
        print(f"serving {server.address}, Ctrl-C ends it", flush=True)
        server.serve_forever()


def typed() -> Iterator[bytes]:
    """Yield the lines of standard input that are not empty, up to its end or "exit"."""
    while True:
        if sys.stdin.isatty():
            print(">>: ", end="", flush=True)
        line = sys.stdin.buffer.readline()
        command = line.strip()
        if not line or command == b"exit":
            return
        if len(command) > LONGEST:
            raise ValueError(f"a line of {len(command)} bytes, {LONGEST} at most")
        if command:
            yield command


def show(data: bytes | bytearray) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def connect(options: argparse.Namespace) -> pysock.Client:
    return pysock.Client((options.host, options.port), pysock.Raw(), timeout=options.timeout)


def totals(received: bytearray, least: int) -> list[tuple[int, int]]:
    """Return [(count of digits, bytes in all)] for every size that fits what has come.

    The totals rise, so at most one of them is the number of bytes that have come.
    """
    digits = next(re.finditer(rb"0|[1-9][0-9]{0,8}|", received))[0]
    pairs = [(n, n + int(digits[:n])) for n in range(least, len(digits) + 1)]
    return [(count, total) for count, total in pairs if total >= len(received)]


def receive_sized(connection: pysock.Client, options: argparse.Namespace) -> bytearray:
    """Return the answer whose size comes in front of it."""
    received, least = bytearray(connection.recv()), 1
    if options.wire == "ack":
        least = len(received)  # only digits; if they were cut, there are more to come
        connection.send(b"ok,ready")
        if received == b"0":
            time.sleep(options.quiet)  # no body keeps the next command from sticking to this
    while possible := totals(received, least):
        count, total = possible[0]
        unsure = len(possible) > 1
        if len(received) < total or (unsure and pysock.wait([connection], options.quiet)):
            received += connection.recv()
        else:
            return received[count:]
    raise ValueError(f"no size fits {len(received)} bytes: {bytes(received[:20])!r}")


def command_client(options: argparse.Namespace) -> None:
    with connect(options) as connection:
        for command in typed():
            connection.send(command)
            if options.wire != "bare":
                show(receive_sized(connection, options))
                continue
            show(connection.recv())
            while pysock.wait([connection], options.quiet):
                show(connection.recv())
        if options.wire == "bare":
            connection.shutdown(socket.SHUT_WR)
            for piece in connection:  # what came late
                show(piece)


def upper_client(options: argparse.Namespace) -> None:
    for line in typed():
        with connect(options) as connection:
            connection.send(line)
            connection.framing = pysock.Fixed(len(line))  # from now on: as many as were sent
            show(connection.recv() + b"\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    roles = [f"{what}-{side}" for what in PORTS for side in ("server", "client")]
    parser.add_argument("role", choices=roles)
    parser.add_argument("--wire", choices=WIRES, default="ack", help="how answers come")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, help="5210 for commands, 1234 for upper")
    parser.add_argument("--timeout", type=float, default=60, help="seconds for each step: 60")
    parser.add_argument("--quiet", type=float, default=0.3, help="seconds; see above: 0.3")
    parser.add_argument("--everybody-may-run-commands", action="store_true")
    options = parser.parse_args()
    options.what, side = options.role.split("-")
    options.port = PORTS[options.what] if options.port is None else options.port
    here = options.host in ("127.0.0.1", "::1", "localhost")
    if options.role == "command-server" and not (here or options.everybody_may_run_commands):
        parser.error(
            f"whoever reaches {options.host} would run commands as you, without a key; "
            "if that is meant: --everybody-may-run-commands"
        )
    try:
        if side == "server":
            serve(options)
        else:
            if hasattr(signal, "SIGPIPE"):
                signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it quietly
            upper_client(options) if options.what == "upper" else command_client(options)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    except (OSError, ValueError, pysock.Error) as exc:
        sys.exit(f"{parser.prog}: {exc}")


if __name__ == "__main__":
    main()
