"""A program of its own: starts commands for a server and ends them, with all they started.

The server passes it three descriptors and a control socket for each command.  It has one
thread, so that a child may be prepared in Python; it is the parent of every command and of
whoever loses its own parent; and it outlives a server that is killed, whose commands it then
ends.  A command's control socket is its lifeline: when that closes, its processes get HUP,
TERM after 1 s and KILL after 5 s.

    server:   u32 length and the `Order` (marshal); S u8 signal; E end it, as above; K kill it
              now; R release it: it has ended, what it left running in the background may stay
    spawner:  P pid; F errno, path: it could not be started; W status, u8 how: it has ended

The leader of a command's processes stays a zombie until the end, so that its number cannot
become another's while it may still be sent signals.  Nothing here is imported from pysock:
it is run by its path, isolated, and takes little memory.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import marshal
import os
import resource
import selectors
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

ORDER = struct.Struct(">I")
REPLY = struct.Struct(">ciH")

LADDER = ((0.0, signal.SIGHUP), (1.0, signal.SIGTERM), (5.0, signal.SIGKILL))
AGAIN = 0.1  # how soon after a KILL to look for whoever was just being born
TRIES = 20
IN_VAIN = 3  # KILLs, before those who multiply are stopped first
SOFT_FILES = 1024  # what programs expect; the server has more
LONGEST_PATH = 4096  # of what is told
RARELY = 0.05  # seconds between two looks at all processes, at least
SHARE = 10  # of which a look may take one part
PATIENCE = 10.0  # for the order that follows the descriptors
SET_CHILD_SUBREAPER = 36


class Order(NamedTuple):
    """What to start; `limits` are pairs of a resource and a number."""

    argv: list[bytes]
    cwd: bytes
    env: dict[bytes, bytes]
    limits: list[tuple[int, int]]
    terminal: bool
    token: bytes  # NAME=value, in the environment of all that it starts


class Command:
    """A command from its start until the server has let go of it, and all of it is gone."""

    def __init__(self, order: Order, process: subprocess.Popen[bytes], control: socket.socket):
        self.process = process
        self.pid = process.pid
        self.token = order.token
        self.control: socket.socket | None = control
        self.heard = b""  # half a word
        self.exited = False
        self.began: float | None = None  # ending it
        self.step = 0
        self.tries = TRIES
        self.known: dict[int, int] = {}  # strays seen, and when they started
        self.grows = False  # there was somebody new at the last look

    def due(self) -> float | None:
        """Return when the next step of its end is due."""
        if self.began is None:
            return None
        if self.step < len(LADDER):
            return self.began + LADDER[self.step][0]
        return self.began

    def end(self, now: float) -> None:
        if self.began is None:
            self.began = now

    def kill(self, now: float) -> None:
        if self.began is None or self.step < len(LADDER):
            self.began = now - LADDER[-1][0]
            self.step = len(LADDER) - 1


# ---------------------------------------------------------------- processes


class Seen(NamedTuple):
    """A process as /proc shows it."""

    parent: int
    group: int
    session: int
    started: int
    alive: bool


def processes() -> dict[int, Seen]:
    """Return all processes; none where there is no /proc."""
    found = {}
    with contextlib.suppress(OSError), os.scandir("/proc") as folder:
        for entry in folder:
            if entry.name.isdigit() and (seen := look_at(int(entry.name))) is not None:
                found[int(entry.name)] = seen
    return found


def look_at(pid: int) -> Seen | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            words = file.read().rpartition(b")")[2].split()
        return Seen(
            int(words[1]), int(words[2]), int(words[3]), int(words[19]), words[0] not in b"ZX"
        )
    except (OSError, IndexError, ValueError):
        return None


def descendants(table: dict[int, Seen], root: int) -> set[int]:
    children: dict[int, list[int]] = {}
    for pid, seen in table.items():
        children.setdefault(seen.parent, []).append(pid)
    found: set[int] = set()
    waiting = [root]
    while waiting:
        for child in children.get(waiting.pop(), ()):
            if child not in found:
                found.add(child)
                waiting.append(child)
    return found


def variables(pid: int) -> frozenset[bytes]:
    """Return the marks of commands in a process's environment, as NAME=value."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            found = file.read().split(b"\0")
    except OSError:
        return frozenset()
    return frozenset(word for word in found if word.startswith(b"PYSOCK_COMMAND="))


def survivors(
    command: Command, table: dict[int, Seen], tokens: dict[int, frozenset[bytes]]
) -> set[int]:
    """Return who lives of a command: its group and session, its children, its token's bearers.

    Args:
        command: whose processes.
        table: all there are.
        tokens: of those below this process, which adopts who loses its parent.
    """
    own = {
        pid
        for pid, seen in table.items()
        if command.pid in (seen.group, seen.session)
        or command.known.get(pid) == seen.started
        or command.token in tokens.get(pid, ())
    }
    for pid in [command.pid, *own]:
        own |= descendants(table, pid)
    before, command.known = command.known, {pid: table[pid].started for pid in own}
    command.grows = any(before.get(pid) != started for pid, started in command.known.items())
    return {pid for pid in own if table[pid].alive}


def send_to(pid: int, started: int, number: int) -> None:
    """Send a signal to the process that had *pid* when it was looked at, and to no other."""
    with contextlib.suppress(OSError):
        if not hasattr(os, "pidfd_open"):
            os.kill(pid, number)
            return
        descriptor = os.pidfd_open(pid)
        try:
            seen = look_at(pid)
            if seen is not None and seen.started == started:
                signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)


# ---------------------------------------------------------------- starting


def start(order: Order, stdio: list[int]) -> subprocess.Popen[bytes]:
    """Start what an order says.

    Raises:
        OSError: why it cannot be.
    """
    prepare = preparation(order)
    try:
        return subprocess.Popen(
            order.argv,
            stdin=stdio[0],
            stdout=stdio[1],
            stderr=stdio[2],
            cwd=order.cwd,
            env=order.env,
            start_new_session=True,
            preexec_fn=prepare,
        )
    except subprocess.SubprocessError as exc:
        raise OSError(errno.EINVAL, f"a limit cannot be set: {exc}") from None


def preparation(order: Order) -> Callable[[], None] | None:
    """Return what the child has to do before it becomes the command; mostly nothing."""
    if not order.limits and not order.terminal:
        return None

    def prepare() -> None:
        if order.terminal:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        for what, number in order.limits:
            # XCPU comes first, so that it can be told why; KILL a second later.
            most = number + 1 if what == resource.RLIMIT_CPU else number
            hard = resource.getrlimit(what)[1]
            if hard != resource.RLIM_INFINITY:
                most = min(most, hard)  # above which nobody can go, nor needs to
            resource.setrlimit(what, (min(number, most), most))

    return prepare


# ---------------------------------------------------------------- the program


class Spawner:
    """The program: one thread that waits for orders, for the end of children, for clocks."""

    def __init__(self, requests: socket.socket) -> None:
        self.requests: socket.socket | None = requests
        self.commands: dict[int, Command] = {}
        self.bearers: dict[tuple[int, int], frozenset[bytes]] = {}  # pid and start: tokens
        self.look_at = 0.0  # when all processes may be looked at again
        self.changed = False  # since they were
        self.selector = selectors.DefaultSelector()
        self.selector.register(requests, selectors.EVENT_READ, self.take_request)
        self.woken, wake = socket.socketpair()
        self.woken.setblocking(False)
        wake.setblocking(False)
        self.wake = wake
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.selector.register(self.woken, selectors.EVENT_READ, self.children_changed)

    def run(self) -> None:
        while self.requests is not None or self.commands:
            due = [at for one in self.commands.values() if (at := one.due()) is not None]
            at = min(due, default=None)
            if at is not None:
                at = self.look_at if self.changed else max(at, self.look_at)
            timeout = None if at is None else max(0.0, at - time.monotonic())
            for key, _ in self.selector.select(timeout):
                key.data()
            if at is not None and time.monotonic() >= at:
                self.go_on()

    def take_request(self) -> None:
        """Take a command's descriptors, and its order from its control socket."""
        requests = self.requests
        assert requests is not None
        try:
            data, descriptors = receive_descriptors(requests)
        except OSError:
            data, descriptors = b"", []
        if not data:
            self.selector.unregister(requests)
            requests.close()
            self.requests = None
            return
        if len(descriptors) != 4:  # this process has too many, perhaps
            for descriptor in descriptors:
                os.close(descriptor)
            return
        control = socket.socket(fileno=descriptors[0])
        try:
            self.begin(control, descriptors[1:])
        except (OSError, ValueError) as exc:
            number = getattr(exc, "errno", None) or errno.EINVAL
            path = os.fsencode(getattr(exc, "filename", None) or b"")[:LONGEST_PATH]
            with contextlib.suppress(OSError):
                tell(control, b"F", number, path)
            control.close()
        finally:
            for descriptor in descriptors[1:]:
                os.close(descriptor)

    def begin(self, control: socket.socket, stdio: list[int]) -> None:
        control.settimeout(PATIENCE)
        (length,) = ORDER.unpack(receive(control, ORDER.size))
        order = Order(*marshal.loads(receive(control, length)))
        if not is_waited_for(control):
            raise ConnectionResetError(errno.ECONNRESET, "the server has given it up")
        process = start(order, stdio)
        control.settimeout(None)
        command = Command(order, process, control)
        self.commands[command.pid] = command
        self.selector.register(control, selectors.EVENT_READ, lambda: self.listen(command))
        try:
            tell(control, b"P", command.pid)
        except OSError:
            self.let_go(command, ending=True)

    def listen(self, command: Command) -> None:
        """Do what the server says to a command."""
        assert command.control is not None
        try:
            words = command.control.recv(64)
        except OSError:
            words = b""
        now = time.monotonic()
        if not words:
            self.let_go(command, ending=True)
        rest = iter(command.heard + words)
        command.heard = b""
        for word in rest:
            if word == ord("S"):
                if (number := next(rest, None)) is None:
                    command.heard = b"S"  # the number is still on its way
                else:
                    self.signal(command, number)
            elif word == ord("E"):
                command.end(now)
            elif word == ord("K"):
                command.kill(now)
            elif word == ord("R"):
                self.let_go(command, ending=not command.exited)
                return

    def signal(self, command: Command, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(command.pid, number)

    def let_go(self, command: Command, ending: bool) -> None:
        """Stop listening for a command; end it, or forget it."""
        if command.control is not None:
            self.selector.unregister(command.control)
            command.control.close()
            command.control = None
        if ending or command.began is not None:
            command.end(time.monotonic())
        else:
            self.forget(command)

    def forget(self, command: Command) -> None:
        command.process.wait()  # it is a zombie, whose number is free from now on
        del self.commands[command.pid]

    def children_changed(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self.woken.recv(4096):
                pass
        for command in self.commands.values():
            if not command.exited:
                self.look_for_end(command)
        for pid in adopted():
            if pid not in self.commands:
                with contextlib.suppress(OSError):
                    os.waitpid(pid, os.WNOHANG)
        self.changed = True

    def look_for_end(self, command: Command) -> None:
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        found = os.waitid(os.P_PID, command.pid, flags)
        if found is None:
            return
        command.exited = True
        how = [os.CLD_EXITED, os.CLD_KILLED, os.CLD_DUMPED].index(found.si_code)
        if command.control is not None:
            with contextlib.suppress(OSError):
                tell(command.control, b"W", found.si_status, bytes([how]))

    def go_on(self) -> None:
        """Take the steps that are due of all commands that are being ended."""
        now = time.monotonic()
        self.changed = False
        table = processes()
        tokens = self.tokens_of(table, descendants(table, os.getpid()))
        for command in list(self.commands.values()):
            if command.began is None:
                continue
            alive = survivors(command, table, tokens)
            if table and command.exited and not alive:
                self.gone(command)
                continue
            while (due := command.due()) is not None and due <= now:
                if not self.climb(command, alive, now):
                    break
        end = time.monotonic()
        self.look_at = end + max(RARELY, SHARE * (end - now))

    def tokens_of(self, table: dict[int, Seen], ours: set[int]) -> dict[int, frozenset[bytes]]:
        """Return the environments of those below this process, each read once in its life."""
        known = {}
        for pid in ours:
            key = pid, table[pid].started
            known[key] = self.bearers.get(key) or variables(pid)
        self.bearers = known
        return {pid: found for (pid, _), found in known.items()}

    def climb(self, command: Command, alive: set[int], now: float) -> bool:
        """Take one step; return whether another may follow at once."""
        last = command.step >= len(LADDER) - 1
        number = LADDER[-1][1] if last else LADDER[command.step][1]
        if last and command.grows and command.tries <= TRIES - IN_VAIN:
            # Who is stopped has no children, and keeps its place under the limit: soon there
            # is nobody new, and all die together.
            number = signal.SIGSTOP
        self.signal(command, number)
        for pid in alive:
            send_to(pid, command.known[pid], number)
        if not last:
            self.signal(command, signal.SIGCONT)
            command.step += 1
            return True
        command.step = len(LADDER)
        command.tries -= 1
        command.began = now + (AGAIN if command.tries > 0 else 1.0)
        if command.tries <= 0:
            self.gone(command)
        return False

    def gone(self, command: Command) -> None:
        """Let a command go of which nobody is left, or nobody who can be killed."""
        if not command.exited:
            return
        command.began = None
        if command.control is None:
            self.forget(command)


def adopted() -> Iterator[int]:
    """Yield this process's children; nothing where the system does not list them."""
    with contextlib.suppress(OSError, ValueError):
        pid = os.getpid()
        with open(f"/proc/self/task/{pid}/children", "rb") as file:
            yield from map(int, file.read().split())


def receive_descriptors(sock: socket.socket) -> tuple[bytes, list[int]]:
    size = array.array("i").itemsize
    data, ancillary, _, _ = sock.recvmsg(1, socket.CMSG_SPACE(4 * size))
    found = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(content[: len(content) // size * size])
    for descriptor in found:
        os.set_inheritable(descriptor, False)
    return data, list(found)


def receive(sock: socket.socket, count: int) -> bytes:
    parts = []
    while count:
        part = sock.recv(min(count, 1 << 20))
        if not part:
            raise ConnectionResetError(errno.ECONNRESET, "the server has gone")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def is_waited_for(control: socket.socket) -> bool:
    """Whether the server still waits for a command to start: it has nothing more to say."""
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        return not selector.select(0)


def tell(sock: socket.socket, word: bytes, number: int, data: bytes = b"") -> None:
    sock.sendall(REPLY.pack(word, number, len(data)) + data)


def settle() -> None:
    """Give this process, and so its children, what a fresh login would have."""
    ours = (signal.SIGPIPE, getattr(signal, "SIGXFSZ", None))  # Popen resets these itself
    for number in signal.valid_signals():
        if signal.getsignal(number) is signal.SIG_IGN and number not in ours:
            with contextlib.suppress(OSError, ValueError):
                signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's own would be no better
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = SOFT_FILES if hard == resource.RLIM_INFINITY else min(SOFT_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if sys.platform == "linux":
        with contextlib.suppress(ImportError, OSError, AttributeError):
            import ctypes

            ctypes.CDLL(None).prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def main() -> None:
    settle()
    Spawner(socket.socket(fileno=int(sys.argv[1]))).run()


if __name__ == "__main__":
    main()
