"""A signal's handler that raises anywhere in a call of TLS: no byte is lost or made up.

Python runs handlers when a function begins, too, before OpenSSL has done anything.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from typing import Any

import pytest

from peers import LONG, Task, linked, pattern
from pysock import IncompleteFrame

MESSAGES = [pattern(size) for size in (1, 2, 100, 16380, 16381, 50_000, 200_000, 0, 7)]


class Interrupt(TimeoutError):
    """What the handler raises; one of SIGALRM often raises such."""


@pytest.fixture(params=["tls", "sslsocket"])
def ends(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[tuple[Any, Any]]:
    with linked(request.param, tmp_path) as both:
        yield both


def interrupt(
    monkeypatch: pytest.MonkeyPatch, tls: Any, name: str, count: int, behind: bool
) -> None:
    """Have the *count*-th call of a method of *tls* raise, at its beginning or behind it."""
    method = getattr(type(tls), name)
    left = count

    def call(self: Any, *args: Any) -> Any:
        nonlocal left
        left -= self is tls
        due = left == 0 and self is tls
        if due and not behind:
            raise Interrupt
        result = method(self, *args)
        if due:
            raise Interrupt
        return result

    monkeypatch.setattr(type(tls), name, call)


@pytest.mark.case("P12")
@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("name", ["read", "pending"])
@pytest.mark.parametrize("count", [*range(1, 24), 40])
def test_receive_goes_on_or_says_that_it_cannot(ends, name, count, behind, monkeypatch):
    conn, other = ends[0].connection(timeout=LONG), ends[1].connection(timeout=LONG)
    sending = Task(other.send_many, MESSAGES)
    interrupt(monkeypatch, conn.tls, name, count, behind)
    messages: list[bytes] = []
    failure = None
    interrupted = 0
    while len(messages) < len(MESSAGES) and failure is None:
        try:
            messages.append(conn.recv())
        except Interrupt:
            interrupted += 1
        except OSError as exc:
            failure = exc
    assert messages == MESSAGES[: len(messages)]
    assert interrupted <= 1
    if failure is None:
        sending.finish()
        return
    # Where a record of one byte may have been read, or not, it is the only other outcome.
    assert "a signal's handler has broken a read of TLS" in str(failure)
    assert name == "read" and behind or isinstance(conn.tls, ssl.SSLSocket)
    with pytest.raises(OSError, match="a signal's handler"):
        conn.recv()
    assert conn.closed is False
    conn.close()
    with contextlib.suppress(OSError):
        sending.finish()


@pytest.mark.case("P12")
@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("count", [*range(1, 24), 40])
def test_send_goes_on_or_says_that_it_cannot(ends, count, behind, monkeypatch):
    conn, other = ends[0].connection(timeout=LONG), ends[1].connection(timeout=LONG)
    receiving = Task(list, other)
    interrupt(monkeypatch, conn.tls, "write", count, behind)
    failure = None
    for message in MESSAGES:
        try:
            conn.send(message)
        except Interrupt:
            continue  # it has been accepted
        except OSError as exc:
            failure = exc
            break
    if failure is None:
        conn.close()
        assert receiving.finish() == MESSAGES
        return
    assert isinstance(conn.tls, ssl.SSLSocket)
    assert "a signal's handler has broken a write of TLS" in str(failure)
    conn.close()
    with pytest.raises(IncompleteFrame):
        receiving.finish()
