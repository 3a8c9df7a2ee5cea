"""DatagramServer: strangers, machines with many addresses, groups, several servers."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import Any

import pytest

import datagrams
import pysock
from conftest import ipv6, linux
from datagram_servers import Asker, lines, serving
from gate import Gate, echo
from peers import LONG, PROMPT, until

isolated = datagrams.isolated
Isolated = Callable[..., None]

NETWORK = [
    "link add here type veth peer name there",
    "addr add 10.9.0.1/24 broadcast 10.9.0.255 dev here",
    "addr add 10.9.0.2/24 broadcast 10.9.0.255 dev here",
    "addr add fd09::1/64 dev here nodad",
    "addr add fd09::2/64 dev here nodad",
    "addr add fe80::9/64 dev here nodad",
    "link set here up",
    "link set there up",
]
STRANGER, LOCAL = ("10.9.0.2", 0), ("127.0.0.1", 0)
EVERYWHERE = "udp://0.0.0.0:0"


def stranger(server: pysock.DatagramServer, name: Any = STRANGER) -> Asker:
    """Somebody whose address could be forged."""
    asker = Asker(server, name)
    asker.to = (name[0], server.server_address[1])
    return asker


def counts(message: bytes) -> Any:
    """Return replies of the lengths that the message tells."""
    lengths = [int(number) for number in message.split()]
    return [bytes(each) for each in lengths] if len(lengths) > 1 else bytes(lengths[0])


# ------------------------------------------------------------ amplification

REPLIES = [
    # what is asked, the ratio, the lengths of what comes
    (b"1000", 1.0, []),
    (b"   4", 1.0, [4]),
    (b"5", 1.0, []),
    (b"1 1 1", 1.0, [1, 1, 1]),
    (b"2 2 2", 1.0, [2, 2]),
    (b"100", 100 / 3, [100]),
    (b"101", 100 / 3, []),
    (b"1", 0, []),
    (b"60000", None, [60000]),
]


@linux
@pytest.mark.parametrize(("asked", "ratio", "lengths"), REPLIES)
@pytest.mark.parametrize("way", ["returned", "with sender", "sent"])
def test_stranger_gets_no_more_than_it_sent(
    asked: bytes,
    ratio: float | None,
    lengths: list[int],
    way: str,
    isolated: Isolated,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """All replies to one datagram count; who proves itself local gets everything."""
    refused = []
    expected = [int(number) for number in asked.split()]
    asked = asked.ljust(5) if len(expected) > 1 else asked

    def send(message: bytes, sender: Any) -> None:
        replies = counts(message)
        for reply in [replies] if isinstance(replies, bytes) else replies:
            try:
                sender.send(reply)
            except PermissionError as exc:
                refused.append(exc)

    def with_sender(message: bytes, sender: Any) -> Any:
        return counts(message)

    handlers: dict[str, Callable[..., Any]] = {
        "returned": counts,
        "with sender": with_sender,
        "sent": send,
    }

    def check() -> None:
        with (
            serving(handlers[way], EVERYWHERE, max_amplification=ratio) as server,
            stranger(server) as asker,
            Asker(server, LOCAL) as local,
        ):
            asker.send(asked)
            local.send(asked)
            assert [len(local.recv()) for _ in expected] == expected
            local.send(b"0")
            assert local.recv() == b""  # with which what went to the stranger is sent too
            asker.sock.setblocking(False)
            assert [len(asker.recv()) for _ in lengths] == lengths
            with pytest.raises(BlockingIOError):
                asker.recv()
            missing = len(expected) - len(lengths)
            assert len(refused) == (missing if way == "sent" else 0)
            lost = 0 if way == "sent" else missing
            until(lambda: server.stats["replies_lost"] == lost)
            assert len(lines(caplog)) == (0 if way == "sent" else missing)
            told = [str(each) for each in refused] + lines(caplog)
            assert all(f"to 10.9.0.2:{asker.name[1]} is refused" in each for each in told)

    isolated(check, *NETWORK)


@linux
def test_shorter_reply_is_taken_where_a_long_one_is_refused(isolated: Isolated) -> None:
    def handler(message: bytes, sender: Any) -> bytes:
        with pytest.raises(PermissionError):
            sender.send(bytes(1000))
        return b"short"

    def check() -> None:
        with serving(handler, EVERYWHERE) as server, stranger(server) as asker:
            asker.sock.settimeout(PROMPT)
            assert asker.ask(b"a question") == b"short"

    isolated(check, *NETWORK)


@linux
def test_trusted_networks_get_everything(isolated: Isolated) -> None:
    def check() -> None:
        with (
            serving(counts, "udp://:0", trusted=["10.9.0.2", "fd09::2/128"]) as server,
            Asker(server, ("::ffff:10.9.0.2", 0)) as trusted,
            Asker(server, ("::ffff:10.9.0.1", 0)) as other,
        ):
            for asker in (trusted, other):
                asker.to = ("::ffff:10.9.0.1", server.server_address[1])
            other.send(b"1000", b"1000")
            assert len(trusted.ask(b"1000")) == 1000
            until(lambda: server.stats["replies_lost"] == 2)
            with (
                stranger(server, ("fd09::2", 0)) as six,
                stranger(server, ("fd09::1", 0)) as no,
            ):
                no.send(b"1000")
                assert len(six.ask(b"1000")) == 1000
                until(lambda: server.stats["replies_lost"] == 3)

    isolated(check, *NETWORK)


@linux
@pytest.mark.parametrize("verdict", [True, False, None])
def test_trusted_may_be_a_function(
    verdict: bool | None, isolated: Isolated, caplog: pytest.LogCaptureFixture
) -> None:
    """It is asked where there is too much to send, and may raise."""
    asked = []

    def trusted(address: Any) -> bool:
        asked.append(address)
        if verdict is None:
            raise ValueError("as told")
        return verdict

    def check() -> None:
        with (
            serving(counts, EVERYWHERE, trusted=trusted) as server,
            stranger(server) as asker,
        ):
            assert len(asker.ask(b"1")) == 1
            assert asked == []
            asker.send(b"1000")
            if verdict:
                assert len(asker.recv()) == 1000
            assert len(asker.ask(b"1")) == 1
            assert asked == [asker.name]
            until(lambda: server.stats["replies_lost"] == (0 if verdict else 1))

    isolated(check, *NETWORK)
    assert ("trusted() failed" in lines(caplog)) is (verdict is None)


@linux
def test_trusted_that_blocks_holds_up_nobody(isolated: Isolated) -> None:
    gate = Gate()

    def trusted(address: Any) -> bool:
        gate.wait()
        return True

    def check() -> None:
        with (
            serving(counts, EVERYWHERE, trusted=trusted) as server,
            stranger(server) as asker,
            Asker(server, LOCAL) as local,
        ):
            local.sock.settimeout(PROMPT)
            asker.send(b"1000")
            gate.holds(1)
            try:
                assert len(local.ask(b"1")) == 1
            finally:
                gate.let()

    isolated(check, *NETWORK)


@ipv6
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_loopback_is_no_stranger(host: str) -> None:
    where = "udp://127.0.0.1:0" if host == "127.0.0.1" else "udp://:0"
    with (
        serving(counts, where, max_amplification=0) as server,
        Asker(server, (host, 0)) as asker,
    ):
        asker.to = (host, server.server_address[1])
        assert len(asker.ask(b"60000")) == 60000


# ------------------------------------------------------------ many addresses

ASKED = ["127.0.0.1", "127.0.0.2", "10.9.0.1", "10.9.0.2", "::1", "fd09::1", "fd09::2"]


@pytest.mark.case("G17")
@linux
@pytest.mark.parametrize("where", ["udp://:0", EVERYWHERE, "udp://[::]:0"])
@pytest.mark.parametrize("held_up", [False, True], ids=["leading", "held up"])
def test_server_on_every_address_answers_from_the_one_it_was_asked_at_g17(
    where: str, held_up: bool, isolated: Isolated
) -> None:
    gate = Gate()
    dual = where != EVERYWHERE
    asked = ASKED if where == "udp://:0" else [h for h in ASKED if (":" in h) is dual]

    def check() -> None:
        with serving(gate, where) as server:
            for host in asked:
                family = socket.AF_INET6 if ":" in host else socket.AF_INET
                with socket.socket(family, socket.SOCK_DGRAM) as sock:
                    # Connected: what comes from elsewhere is not heard.
                    sock.settimeout(LONG)
                    sock.connect((host, server.server_address[1]))
                    sock.send(b"block" if held_up else b"x")
                    if held_up:
                        gate.holds(1)
                        gate.let()
                    assert sock.recv(99) == (b"block" if held_up else b"x")

    isolated(check, *NETWORK)


@pytest.mark.case("G17")
@linux
def test_address_with_a_scope_is_answered_g17(isolated: Isolated) -> None:
    def check() -> None:
        for where in ("udp://:0", "udp://[fe80::9%here]:0"):
            seen: list[Any] = []

            def handler(message: bytes, sender: Any) -> bytes:
                seen.append(sender.address)  # noqa: B023
                return message

            with serving(handler, where) as server:
                name = ("fe80::9", server.server_address[1], 0, socket.if_nametoindex("here"))
                with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
                    sock.settimeout(LONG)
                    sock.connect(name)
                    sock.send(b"x")
                    assert sock.recv(9) == b"x"
                    assert seen == [sock.getsockname()]
                    assert seen[0][3] == name[3]

    isolated(check, *NETWORK)


# ------------------------------------------------------------ groups, broadcast


@linux
@pytest.mark.parametrize("named", [False, True], ids=["groups", "address"])
@pytest.mark.parametrize("group", ["239.9.9.9", "ff15::99"])
def test_group_is_heard_and_answered(named: bool, group: str, isolated: Isolated) -> None:
    six = ":" in group

    def check() -> None:
        anywhere = "udp://[::]:0" if six else EVERYWHERE
        where = (f"udp://[{group}]:0" if six else f"udp://{group}:0") if named else anywhere
        groups = [] if named else [group]
        with (
            serving(echo, where, groups=groups, interface="here") as server,
            pysock.DatagramClient(bind=anywhere, interface="here", timeout=LONG) as client,
        ):
            port = server.server_address[1]
            client.sendto(b"x", (group, port))
            message, address = client.recvfrom()
            assert message == b"x"
            assert address[0] != group  # nobody answers as a group

    isolated(check, *NETWORK)


@linux
def test_no_other_group_is_heard(isolated: Isolated) -> None:
    """Another socket of the machine has joined it."""

    def check() -> None:
        seen: list[bytes] = []
        with (
            serving(seen.append, EVERYWHERE, groups=["239.9.9.9"], interface="here") as server,
            serving(echo, EVERYWHERE, groups=["239.9.9.8"], interface="here"),
            pysock.DatagramClient(bind=EVERYWHERE, interface="here") as client,
        ):
            port = server.server_address[1]
            for last in (8, 9):
                client.sendto(b"to %d" % last, (f"239.9.9.{last}", port))
            until(lambda: seen)
            assert seen == [b"to 9"]

    isolated(check, *NETWORK)


@linux
@pytest.mark.parametrize("broadcast", [False, True])
def test_broadcast_is_heard_and_answered(
    broadcast: bool, isolated: Isolated, caplog: pytest.LogCaptureFixture
) -> None:
    """To a client; to everybody only where the server may."""

    def check() -> None:
        with (
            serving(echo, EVERYWHERE, broadcast=broadcast, max_amplification=None) as server,
            stranger(server) as asker,
        ):
            asker.sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            asker.to = ("10.9.0.255", server.server_address[1])
            asker.send(b"x")
            message, address = asker.sock.recvfrom(9)
            assert (message, address) == (b"x", ("10.9.0.1", server.server_address[1]))
            assert (
                server.socket.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST) == broadcast
            )

    isolated(check, *NETWORK)


# ------------------------------------------------------------ several servers


@pytest.mark.case("G16")
@linux
def test_servers_that_share_a_port_g16() -> None:
    """One of them ends: its senders go to the other, and no reply to somebody else."""
    with contextlib.ExitStack() as stack:
        first = serving(lambda m: b"first " + m, reuse_port=True)
        stack.callback(first.server_close)
        stack.callback(first.stop)
        where = ("127.0.0.1", first.server_address[1])
        second = stack.enter_context(serving(lambda m: b"second " + m, where, reuse_port=True))
        askers = [stack.enter_context(Asker(second)) for _ in range(40)]
        for count, asker in enumerate(askers):
            assert asker.ask(b"%d" % count).endswith(b" %d" % count)
        assert first.stats["messages_in"] + second.stats["messages_in"] == 40
        assert first.stats["messages_in"] and second.stats["messages_in"]
        first.stop()
        first.server_close()
        for count, asker in enumerate(askers):
            assert asker.ask(b"%d" % count) == b"second %d" % count


@linux
def test_port_is_shared_only_by_who_says_so() -> None:
    for willing in (False, True):
        with (
            serving(echo, reuse_port=willing) as server,
            pytest.raises(OSError, match="cannot receive at"),
        ):
            pysock.DatagramServer(server.server_address, echo, reuse_port=not willing)
