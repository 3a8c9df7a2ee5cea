"""What an Erlang port runs: echoes its packets until Erlang closes the port."""

import contextlib
import signal
import sys

from pysock import Connection, formats

with contextlib.suppress(AttributeError):  # no such thing on Windows
    signal.alarm(30)  # Erlang's child, not the test's: it must end by itself

with Connection.from_fds(0, 1, formats.ERLANG4) as connection:
    for message in connection:
        connection.send(message)
print("ended between packets", file=sys.stderr)
