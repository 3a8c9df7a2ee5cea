"""What the tables show: whom in which column, which works in which row, and the goals.

Rows without a goal are there to be fair: the same work with a rival's known handicap taken
away, or C doing all that a Python caller gets.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """One line: ratios with their goals, by column.

    *instead* names the rivals that stand in for a column's usual one; a column
    that is None is left empty.  *subject* stands in for pysock.  *figure* says pysock's
    own seconds for a message in words, where these are what one wants to know.
    """

    title: str
    work: str
    goals: Mapping[str, float] = field(default_factory=dict)
    instead: Mapping[str, str | None] = field(default_factory=dict)
    subject: str = "pysock"
    figure: Callable[[float], str] | None = None


@dataclass(frozen=True)
class Table:
    """Rows that have their columns in common; a column's usual rival may be nobody.

    *by* says for a column what of a `Round` is compared if it is not the time.
    """

    columns: Mapping[str, str | None]
    rows: tuple[Row, ...]
    by: Mapping[str, str] = field(default_factory=dict)

    def rival(self, row: Row, column: str) -> str | None:
        """Return who is in *column* in *row*."""
        return row.instead.get(column, self.columns[column])


ONE_CONNECTION_COLUMNS: dict[str, str | None] = {
    "C": "c",
    "multiprocessing": "multiprocessing",
    "pyzmq": "pyzmq",
    "pure Python": "python",
    "before": "before",
}
ONLY_C = {"multiprocessing": None, "pyzmq": None, "pure Python": None, "before": None}
ONE_CONNECTION = Table(
    ONE_CONNECTION_COLUMNS,
    (
        Row(
            "64 B ping-pong, TCP", "pingpong", {"C": 0.95, "multiprocessing": 1.3, "pyzmq": 2}
        ),
        Row("64 B ping-pong, Unix socket", "pingpong_unix"),
        Row("64 B ping-pong, spin 50 us; C sleeps", "pingpong_spin", {"C": 3}),
        Row("- C spins too", "pingpong_spin", {"C": 0.8}, {**ONLY_C, "C": "c_spin"}),
        Row(
            "64 B pipelined 16 deep",
            "pipelined",
            {"C": 0.85, "multiprocessing": 10, "pyzmq": 5},
        ),
        Row(
            "- multiprocessing without Nagle",
            "pipelined",
            instead={**ONLY_C, "C": None, "multiprocessing": "multiprocessing_nodelay"},
        ),
        Row(
            "64 B stream, send_many to recv_many",
            "stream_many",
            {"C": 0.7, "multiprocessing": 60, "pyzmq": 20},
        ),
        Row(
            "- C gives each message its own memory",
            "stream_many",
            {},
            {**ONLY_C, "C": "c_own"},
        ),
        Row(
            "64 B stream, one by one with `for`",
            "stream_each",
            {"C": 0.4, "pure Python": 25},
            {"pure Python": "python_plain"},
        ),
        Row(
            "- C own memory; Python sends joined",
            "stream_each",
            instead={**ONLY_C, "C": "c_own", "pure Python": "python"},
        ),
        Row("16 KiB stream", "stream_16k", {"C": 0.95, "multiprocessing": 1.2}),
        Row("1 MiB stream", "stream_1m", {"C": 0.95, "multiprocessing": 1.2}),
        Row("- `recv_into`, one buffer", "stream_1m_into", {"C": 0.95}),
        Row("- `recv_view`, C has one buffer", "stream_1m_view", {"C": 0.95}),
        Row("64 MiB stream, `recv_into`, one buffer", "stream_64m_into", {"C": 0.95}),
        Row("- `recv_view`, C has one buffer", "stream_64m_view", {"C": 0.95}),
        Row("64 MiB echo", "echo_64m", {"C": 0.9, "multiprocessing": 1.5}),
        Row("64 MiB echo, one buffer at each end", "echo_64m_into"),
    ),
)

# "C by CPU" compares what the servers used of a processor: it stays the same on a busy
# machine.  "without" is pysock again, without what the row is about.
SERVER_COLUMNS: dict[str, str | None] = {
    "C": "c",
    "C by CPU": "c",
    "without": None,
    "redis": "redis",
    "uvloop": "uvloop",
    "asyncio": "asyncio",
    "streams": "streams",
    "Twisted": "twisted",
    "socketserver": "threads",
    "before": "before",
}
NOBODY: dict[str, str | None] = dict.fromkeys(SERVER_COLUMNS)
INLINE = {**NOBODY, "without": "pysock_inline"}


def _milliseconds_of_8(seconds: float) -> str:
    return f"{seconds * 8 * 1e3:.0f} ms"


def _per_second(seconds: float) -> str:
    return f"{1 / seconds:,.0f}/s"


SERVER = Table(
    SERVER_COLUMNS,
    (
        Row(
            "50 connections x 16 deep",
            "server_50x16",
            {"C": 0.85, "redis": 1.2, "uvloop": 2, "socketserver": 8},
            figure=_per_second,
        ),
        Row("- default workers against `workers=0`", "server_50x16", {"without": 0.9}, INLINE),
        Row(
            "- uvloop writes each reply by itself",
            "server_50x16",
            instead={**NOBODY, "uvloop": "uvloop_plain"},
        ),
        Row(
            "500 connections x 1 deep",
            "server_500x1",
            {"C": 0.85, "redis": 1.0, "uvloop": 1.3},
            figure=_per_second,
        ),
        Row("- default workers against `workers=0`", "server_500x1", {"without": 0.9}, INLINE),
        Row(
            "50 x 16 deep, 10,000 idle besides",
            "server_idle",
            {"without": 0.8},
            {"without": "pysock_alone"},
            figure=_per_second,
        ),
        Row(
            "- C, and C without them",
            "server_idle",
            instead={**NOBODY, "without": "c_alone"},
            subject="c",
        ),
        Row("connect, one request, close", "server_connects", figure=_per_second),
        Row("- default workers against `workers=0`", "server_connects", instead=INLINE),
        Row(
            "8 clients, the handler sleeps 100 ms",
            "server_sleep",
            figure=_milliseconds_of_8,
        ),
        Row(
            "2 processes against 1, the handler computes",
            "server_processes",
            instead={**NOBODY, "without": "pysock"},
            subject="pysock_two",
            figure=_per_second,
        ),
    ),
    by={"C by CPU": "server"},
)

TLS = Table(
    {"SSLSocket": "ssl", "without TLS": "pysock"},
    (
        Row("64 B ping-pong", "tls_pingpong", subject="pysock_tls"),
        Row("64 B pipelined 16 deep", "tls_pipelined", subject="pysock_tls"),
        Row("64 B stream, send_many to recv_many", "tls_stream_many", subject="pysock_tls"),
        Row("16 KiB stream", "tls_stream_16k", subject="pysock_tls"),
        Row("1 MiB stream", "tls_stream_1m", {"SSLSocket": 0.9}, subject="pysock_tls"),
        Row("64 MiB echo, one buffer at each end", "tls_echo_64m", subject="pysock_tls"),
        Row(
            "handshake, one request, close",
            "tls_handshakes",
            {"SSLSocket": 0.9},
            subject="pysock_tls",
            figure=_per_second,
        ),
    ),
)

CLIENT_ALONE: dict[str, str | None] = {"plain sockets": "python_client", "before": None}
DATAGRAMS = Table(
    {"C": "c", "plain sockets": "python", "before": "before"},
    (
        Row("64 B, 64 there and back, UDP", "udp_batched", {"C": 0.8, "plain sockets": 3}),
        Row("64 B, 8 there and back, Unix", "unixgram_batched"),
        Row(
            "64 B stream, send_many to recv_many, UDP",
            "udp_stream",
            {"C": 0.8, "plain sockets": 3},
        ),
        Row("64 B request, UDP", "udp_request", {"C": 0.9, "plain sockets": 1.0}),
        Row(
            "- client alone: C serves all",
            "udp_request",
            instead=CLIENT_ALONE,
            subject="pysock_client",
        ),
        Row("64 B request, Unix", "unixgram_request", {"C": 0.9, "plain sockets": 1.0}),
        Row(
            "- client alone: C serves all",
            "unixgram_request",
            instead=CLIENT_ALONE,
            subject="pysock_client",
        ),
    ),
)

REMOTE_COLUMNS: dict[str, str | None] = {
    "local": "local",
    "OpenSSH": "ssh",
    "paramiko": "paramiko",
    "asyncssh": "asyncssh",
    "before": "before",
}
ONLY_GCM = {**dict.fromkeys(REMOTE_COLUMNS), "OpenSSH": "ssh_gcm"}


def _mebibytes_per_second(seconds: float) -> str:
    return f"{1 / seconds:,.0f} MiB/s"


REMOTE = Table(
    REMOTE_COLUMNS,
    (
        Row(
            "output of a command, Unix socket",
            "remote_output",
            {"local": 0.6, "OpenSSH": 5, "paramiko": 20},
            figure=_mebibytes_per_second,
        ),
        Row("- OpenSSH with AES-GCM", "remote_output", instead=ONLY_GCM),
        Row(
            "output of a command, TLS",
            "remote_output_tls",
            {"OpenSSH": 2},
            figure=_mebibytes_per_second,
        ),
        Row("- OpenSSH with AES-GCM", "remote_output_tls", instead=ONLY_GCM),
        Row("`true`, connection open, Unix socket", "remote_true"),
        Row("put a file, Unix socket", "remote_put", figure=_mebibytes_per_second),
        Row("get a file, Unix socket", "remote_get", figure=_mebibytes_per_second),
    ),
)

REMOTE_GOAL = 0.001  # seconds that a remote `true` may take longer than a local one
IMPORT_GOAL = 0.015  # seconds that `import pysock` may take longer than what it needs
MEMORY_GOAL = 4096  # bytes of user memory for an idle connection

LIBRARIES = Table(
    {
        "C": "c",
        "uvloop": "uvloop",
        "asyncio": "asyncio",
        "streams": "streams",
        "Twisted": "twisted",
        "pynng": "pynng",
        "pyzmq": "pyzmq",
        "thriftpy2": "thriftpy2",
        "multiprocessing": "multiprocessing",
        "pure Python": "python",
        "before": "before",
    },
    (
        Row("64 B ping-pong", "libraries_pingpong", figure=_per_second),
        Row("64 B pipelined 16 deep", "libraries_pipelined", figure=_per_second),
        Row("64 B stream, in batches", "libraries_64", figure=_per_second),
        Row("1 KiB stream, in batches", "libraries_1k", figure=_per_second),
        Row("16 KiB stream", "libraries_16k", figure=_per_second),
        Row("256 KiB stream", "libraries_256k", figure=_per_second),
        Row("4 MiB stream", "libraries_4m", figure=_per_second),
        Row("16 MiB echo", "libraries_echo_16m"),
    ),
)

CONNECTIONS = Table(
    {name: who for name, who in SERVER_COLUMNS.items() if name not in ("C by CPU", "without")},
    tuple(
        Row(
            f"{count:,} connection{'s' if count > 1 else ''} x 1 deep",
            f"connections_{count}",
            figure=_per_second,
        )
        for count in (1, 10, 50, 500, 2000)
    ),
)
IDLE = {count: f"idle_{count}" for count in (100, 1000, 10_000)}
