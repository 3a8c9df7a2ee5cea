"""Requests to the address for health checks: one answer each, and nothing of theirs in it."""

from __future__ import annotations

from http import HTTPStatus

from fuzz.source import Source
from pysock.health import _END_OF_REQUEST, _REQUEST_BYTES, _Request

WORDS = (b"GET /stats HTTP/1.1\r\n", b"HEAD / HTTP/1.0\r\n\r\n", b"Expect: 100-continue\r\n")
BODIES = {
    b"",
    b"ok\n",
    b'{"messages_in": 1}\n',
    *(f"{status.phrase}\n".encode() for status in HTTPStatus if status >= 400),
}
HEADERS = {b"Server", b"Date", b"Content-Type", b"Content-Length", b"Connection", b"Allow"}


def target(data: bytes) -> None:
    request = Source(data).bytes(_REQUEST_BYTES)
    whole = _END_OF_REQUEST.search(request) is not None
    answer = _Request(request, lambda: {"messages_in": 1}).answer(whole)
    if answer in BODIES:  # as to HTTP/0.9
        return
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *headers = head.split(b"\r\n")
    version, number, phrase = status.split(b" ", 2)
    assert version == b"HTTP/1.0" and phrase.decode() == HTTPStatus(int(number)).phrase
    assert {header.partition(b":")[0] for header in headers} <= HEADERS
    assert body in BODIES and len(answer) < 1000
