"""The same tests over TCP and over TLS.

A test that uses the fixture `transport` runs twice.  The second time its servers and
clients speak TLS where it does not say otherwise, and the raw clients of gate.py do too.
A test module takes the fixture from here by assigning it.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from typing import Any

import pytest

import pysock
from tls_ends import contexts

NAME = "localhost"  # that the server's certificate has

over_both = pytest.mark.usefixtures("transport")
over_tls = [over_both, pytest.mark.parametrize("transport", ["tls"], indirect=True)]


@pytest.fixture(params=["tcp", "tls"])
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What messages go over."""
    if request.param == "tls":
        speak_tls(monkeypatch)
    return str(request.param)


def speak_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have servers and clients do TLS unless told otherwise."""
    client, server = contexts()
    defaults: Any = pysock.Server.__init__.__kwdefaults__
    monkeypatch.setitem(defaults, "tls", server)
    defaults = pysock.Client.__init__.__kwdefaults__
    monkeypatch.setitem(defaults, "tls", client)
    monkeypatch.setitem(defaults, "server_hostname", NAME)


def also_over_tls(names: str, values: Iterable[Any], some: Iterable[Any]) -> Any:
    """Parametrise *names*: with all *values* over TCP, with *some* over TLS too."""
    first = [*names.split(","), "transport"]
    cases = [
        (*(value if len(first) > 2 else [value]), way)
        for way, these in (("tcp", values), ("tls", some))
        for value in these
    ]
    each = pytest.mark.parametrize(first, cases, indirect=["transport"])
    return lambda test: over_both(each(test))


def wrapped(sock: Any) -> ssl.SSLSocket:
    """A client's socket, still to be connected, that will do its handshake then."""
    client, _ = contexts()
    return client.wrap_socket(sock, server_hostname=NAME, suppress_ragged_eofs=False)


def accepted(sock: Any) -> ssl.SSLSocket:
    """A server's socket, after the handshake with the client."""
    _, server = contexts()
    return server.wrap_socket(sock, server_side=True, suppress_ragged_eofs=False)
