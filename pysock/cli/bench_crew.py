"""The load processes of `pysock bench`, and their end of the pipe.

`pysock bench` starts this module as a program, several times.  Each process gets its
orders on standard input and answers on standard output, a line of JSON each; when its
input ends, so does it.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Self

from ..formats import named
from . import FAILED, MISUSED, Failure
from .bench_load import Load
from .options import in_options

__all__ = ["Crew", "ctrl_c"]

PATIENCE = 2.0  # seconds that the processes have to end
PARTING = 1.0  # seconds after the end of its input when a process ends by force


@contextlib.contextmanager
def ctrl_c() -> Iterator[list[int]]:
    """Let the first Ctrl-C only fill the list that this yields; a second one raises."""
    pressed: list[int] = []

    def press(number: int, frame: FrameType | None) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)

    handler = signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()
    if not main or handler is not signal.default_int_handler:
        yield pressed  # it is not ours to handle, or is to be ignored
        return
    signal.signal(signal.SIGINT, press)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, handler)


class Crew:
    """The load processes.

    Args:
        plans: what each is to be told first.
        message: what each is to send.
    """

    def __init__(self, plans: list[dict[str, Any]], message: bytes) -> None:
        self._plans = plans
        self._message = message
        self._processes: list[subprocess.Popen[bytes]] = []
        self._threads: list[threading.Thread] = []
        self._stopped = False
        self._said: queue.SimpleQueue[tuple[int, dict[str, Any] | None]] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        try:
            for plan in self._plans:
                self._start(json.dumps(plan).encode() + b"\n")
        except BaseException:
            self._end(0.0)
            raise
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._end(PATIENCE if kind is None else 0.0)

    def _start(self, plan: bytes) -> None:
        # It finds the package where this process did, and not in the current folder.
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            # Ctrl-C is for this process.
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        self._processes.append(process)
        index = len(self._threads)
        thread = threading.Thread(target=self._read, args=(index, process), daemon=True)
        self._threads.append(thread)
        thread.start()
        self._write(process, plan)
        self._write(process, self._message)

    def _read(self, index: int, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with contextlib.suppress(ValueError):  # it was killed in the middle of a line
            for line in process.stdout:
                self._said.put((index, json.loads(line)))
        self._said.put((index, None))

    def _write(self, process: subprocess.Popen[bytes], data: bytes) -> None:
        assert process.stdin is not None
        with contextlib.suppress(OSError):  # it has ended, which `answers` will notice
            process.stdin.write(data)
            process.stdin.flush()

    def order(self, orders: list[dict[str, Any]]) -> None:
        """Tell each what to do."""
        lines = [json.dumps(order).encode() + b"\n" for order in orders]
        for process, line in zip(self._processes, lines, strict=True):
            self._write(process, line)

    def stop(self) -> None:
        """Tell all, once, to end what they do and to answer."""
        if not self._stopped:
            self._stopped = True
            for process in self._processes:
                self._write(process, b'"stop"\n')

    def answers(self, watch: Callable[[int], None] | None = None) -> list[dict[str, Any]]:
        """Return what each has to say to the last order.

        Args:
            watch: called now and then with the number of replies so far.

        Raises:
            Failure: one of them could not do what it was told.
        """
        answers: dict[int, dict[str, Any]] = {}
        answered: dict[int, int] = {}
        while len(answers) < len(self._processes):
            if watch is not None:
                watch(sum(answered.values()))
            try:
                # Not for ever: on Windows Ctrl-C does not end a wait.
                index, said = self._said.get(timeout=0.1)
            except queue.Empty:
                continue
            if said is None:
                raise Failure("a load process has ended unexpectedly", FAILED)
            if "failed" in said:
                text = in_options(said["failed"])
                raise Failure(text, MISUSED if said["misused"] else FAILED)
            if "progress" in said:
                answered[index] = said["progress"]
            else:
                answers[index] = said
        return [answers[index] for index in range(len(self._processes))]

    def _end(self, patience: float) -> None:
        """End all processes, those by force that need longer than *patience* seconds."""
        for process in self._processes:
            assert process.stdin is not None
            with contextlib.suppress(OSError):
                process.stdin.close()
        until = time.monotonic() + patience
        for process, thread in zip(self._processes, self._threads, strict=True):
            assert process.stdout is not None
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            thread.join()
            process.stdout.close()


# ---------------------------------------------------------------- the process


def say(something: dict[str, Any]) -> None:
    """Tell `pysock bench` something."""
    line = memoryview(json.dumps(something).encode() + b"\n")
    with contextlib.suppress(OSError):  # it is gone, and so will this process be
        while line:
            line = line[os.write(1, line) :]


def _listen(load: Load, orders: queue.SimpleQueue[dict[str, Any] | None]) -> None:
    """Pass on the orders that come; see to it that the process ends when they do."""
    for line in sys.stdin.buffer:
        order = json.loads(line)
        if order == "stop":
            load.stop()
        else:
            orders.put(order)
    load.stop()
    orders.put(None)
    time.sleep(PARTING)
    os._exit(0)


def _allow_descriptors(count: int) -> None:
    """Raise the limit of open descriptors, where there is one and it can be raised."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY and soft < count:
            most = count if hard == resource.RLIM_INFINITY else min(count, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _security(portable: dict[str, Any]) -> dict[str, Any]:
    """Return what a Client takes for TLS and keys."""
    security = dict(portable)
    if portable["tls"] is not None:
        from ..tls import client_context

        security["tls"] = client_context(**portable["tls"])
    if portable["authkey"] is not None:
        security["authkey"] = bytes.fromhex(portable["authkey"])
    return security


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for `pysock bench`
    first = sys.stdin.buffer.readline()
    if not first:
        return
    plan = json.loads(first)
    message = sys.stdin.buffer.read(plan.pop("size"))
    framing = named(plan.pop("framing"))
    max_frame = plan.pop("max_frame")
    if max_frame is not None:
        framing = framing.replace(max_frame=max_frame)
    _allow_descriptors(plan["connections"] + 64)
    try:
        security = _security(plan.pop("security"))
    except (OSError, ValueError) as exc:  # a file has changed since it was looked at
        say({"failed": str(exc), "misused": True})
        return
    load = Load(
        framing=framing,
        message=message,
        progress=lambda answered: say({"progress": answered}),
        security=security,
        **plan,
    )
    orders: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(load, orders), daemon=True).start()
    try:
        say(load.open())
        gc.freeze()  # what is here stays: looking through it would delay replies
        while (order := orders.get()) is not None:
            say(load.run(**order))
    except Exception as exc:
        text = "not enough memory" if isinstance(exc, MemoryError) else str(exc)
        say({"failed": text or repr(exc), "misused": isinstance(exc, ValueError)})
        while orders.get() is not None:
            pass
    load.close()
    os._exit(0)  # connecting threads may still wait


if __name__ == "__main__":
    _main()
