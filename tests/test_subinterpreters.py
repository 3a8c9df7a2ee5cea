"""A second interpreter in the process: told that it cannot have the compiled module."""

from __future__ import annotations

import importlib.util

import pytest

from peers import run_python

NAME = next(
    (
        name
        for name in ("_interpreters", "_xxsubinterpreters")
        if importlib.util.find_spec(name)
    ),
    None,
)

PROGRAM = """
import importlib, socket, sys
import pysock
interpreters = importlib.import_module(sys.argv[1])
other = interpreters.create()
interpreters.run_string(other, '''
try:
    import pysock
except ImportError as exc:
    print("interpreter" in str(exc), flush=True)
''')
interpreters.destroy(other)
a, b = socket.socketpair()
with pysock.Connection(a) as conn, pysock.Connection(b) as other:
    conn.send(b"here")
    print(other.recv())
"""


@pytest.mark.case("X09")
@pytest.mark.skipif(NAME is None, reason="no other interpreters here")
def test_import_in_another_interpreter_is_refused_and_this_one_goes_on() -> None:
    assert run_python(PROGRAM, str(NAME)) == "True\nb'here'\n"
