"""What may come when: every kind in every state, and what breaks a rule."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conversations import (
    ANNOUNCED,
    CLIENT,
    DATA,
    DONE,
    ENDED,
    ERR,
    FETCHING,
    FOLDER,
    GET_FILE,
    GET_FROM,
    GETTING,
    LISTED,
    LISTING,
    MET,
    OUT,
    PUT_FILE,
    PUT_FOLDER,
    PUT_FROM,
    PUTTING,
    REFUSED,
    SENDING,
    SERVER,
    TYPE,
    Step,
    allow,
    both,
    refuse,
    running,
    say,
)
from pysock import FramingError
from pysock.remote.conversation import State
from pysock.remote.protocol import (
    SIGNALS,
    VERSION,
    WINDOW,
    Exec,
    Exit,
    Kind,
    credit,
    eof,
    resize,
    version,
)

properties = settings(deadline=None)

# ---------------------------------------------------------------- the table

CLIENT_MAY = {
    State.NEW: "VERSION",
    State.READY: "EXEC PUT GET PING ERROR STDIN EOF RESIZE SIGNAL DATA DONE",
    State.RUNNING: "STDIN EOF RESIZE SIGNAL PING",
    State.PUTTING: "DATA DONE ERROR PING",
    State.GETTING: "GET ERROR PING",
    State.OVER: "",
}
SERVER_MAY = {
    State.NEW: "VERSION ERROR",
    State.READY: "PONG ERROR",
    State.RUNNING: "STDIN STDOUT STDERR EOF EXIT ERROR PONG",
    State.PUTTING: "PUT DONE ERROR PONG",
    State.GETTING: "GET DATA DONE ERROR PONG",
    State.OVER: "",
}

# Several ways into a state, so that every kind that may come can come in one of them.
PLACES: list[tuple[State, list[Step]]] = [
    (State.NEW, []),
    (State.READY, MET),
    (State.READY, ENDED),
    (State.RUNNING, running(pty=(24, 80))),
    (State.RUNNING, running()),
    (State.RUNNING, [*running(), (SERVER, eof(1)), (SERVER, eof(2))]),
    (State.PUTTING, PUTTING),
    (State.PUTTING, SENDING),
    (State.PUTTING, [*SENDING, (CLIENT, DONE)]),
    (State.GETTING, GETTING),
    (State.GETTING, [*GETTING, (SERVER, ANNOUNCED)]),
    (State.GETTING, FETCHING),
    (State.OVER, [(SERVER, REFUSED)]),
]

# A body of each kind that would be right if the kind were.
GOOD: dict[tuple[str, Kind], list[bytes]] = {
    **{(who, kind): [kind(b"x")] for who in (CLIENT, SERVER) for kind in Kind},
    **{(who, Kind.VERSION): [version()] for who in (CLIENT, SERVER)},
    **{(who, Kind.ERROR): [REFUSED] for who in (CLIENT, SERVER)},
    (CLIENT, Kind.EXEC): [Exec(shell=b"ls").encode()],
    (CLIENT, Kind.PUT): [PUT_FILE, PUT_FOLDER],
    (CLIENT, Kind.GET): [GET_FILE, LISTING, GET_FROM],
    (CLIENT, Kind.EOF): [eof(0)],
    (CLIENT, Kind.RESIZE): [resize(24, 80)],
    (CLIENT, Kind.SIGNAL): [Kind.SIGNAL(b"TERM")],
    (SERVER, Kind.STDIN): [credit(1)],
    (SERVER, Kind.EOF): [eof(0), eof(1), eof(2)],
    (SERVER, Kind.EXIT): [Exit(0).encode()],
    (SERVER, Kind.PUT): [PUT_FROM],
    (SERVER, Kind.GET): [ANNOUNCED],
}


def taken(steps: list[Step], who: str, message: bytes) -> bool:
    """Whether *message* is taken after *steps*; both sides must be of one mind."""
    client, server = both(*steps)
    sender, receiver = (client, server) if who == CLIENT else (server, client)
    answers = []
    for take in (sender.sent, receiver.received):
        try:
            take(message)
        except FramingError:
            answers.append(False)
        else:
            answers.append(True)
    assert answers[0] is answers[1]
    return answers[0]


@pytest.mark.case("H13", "T21")
@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("who", [CLIENT, SERVER])
@pytest.mark.parametrize("state", State)
def test_only_what_a_state_lists_is_taken(state, who, kind):
    """Servers have done what came before its time: CVE-2018-10933, CVE-2025-32433."""
    may = (CLIENT_MAY if who == CLIENT else SERVER_MAY)[state].split()
    places = [steps for place, steps in PLACES if place is state]
    assert all(both(*steps)[0].state is state for steps in places)
    answers = [taken(steps, who, message) for steps in places for message in GOOD[who, kind]]
    assert any(answers) is (kind.name in may)


@pytest.mark.case("H13")
@pytest.mark.parametrize("number", [0, 17, 128, 255])
@pytest.mark.parametrize("place", range(len(PLACES)))
def test_unknown_kind_is_refused(place, number):
    for side in both(*PLACES[place][1]):
        with pytest.raises(FramingError, match="nobody knows"):
            side.received(bytes([number]) + b"x")


@pytest.mark.case("H13")
@pytest.mark.parametrize("place", range(len(PLACES)))
def test_message_without_a_kind_is_refused(place):
    for side in both(*PLACES[place][1]):
        with pytest.raises(FramingError, match="without a kind"):
            side.received(b"")


messages = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(sorted({one for some in GOOD.values() for one in some})),
    st.builds(lambda kind, body: kind(body), st.sampled_from(Kind), st.binary(max_size=16)),
)


@pytest.mark.parametrize("place", range(len(PLACES)))
@properties
@given(st.lists(messages, max_size=8))
def test_any_messages_are_taken_or_refused(place, said):
    for side in both(*PLACES[place][1]):
        for message in said:
            try:
                kind, body = side.received(message)
            except FramingError:
                continue
            assert kind(body) == message
            assert side.state in State and 0 <= side.window <= WINDOW


# ---------------------------------------------------------------- versions


def test_sides_meet_in_either_order():
    assert both(*MET)[0].state is State.READY
    assert both(*reversed(MET))[1].state is State.READY


@pytest.mark.case("H13")
@pytest.mark.parametrize(
    "body",
    [b"", b"pysock remote", b"pysock remote\x01x", b"SSH-2.0-x\r\n", b"Pysock remote\x01"],
)
def test_peer_that_speaks_something_else_is_refused(body):
    for side in both():
        with pytest.raises(FramingError, match="no version"):
            side.received(Kind.VERSION(body))


@pytest.mark.case("H13", "I09")
@pytest.mark.parametrize("number", [0, VERSION + 1, 255])
def test_peer_of_another_version_is_told_apart(number):
    for side in both():
        with pytest.raises(FramingError, match=f"version {number}, this side {VERSION}"):
            side.received(version(number))
        assert side.state is State.NEW
    server = both()[1]
    server.sent(REFUSED)  # it may say so
    assert server.state is State.OVER


def test_one_side_telling_its_version_twice_does_not_stand_for_both():
    for side in both():
        side.received(version())
        with pytest.raises(FramingError, match="twice"):
            side.received(version())
        assert side.state is State.NEW


@pytest.mark.case("T22")
def test_command_before_the_answer_to_the_version_is_refused():
    _, server = both((CLIENT, version()))
    with pytest.raises(FramingError, match="before the versions"):
        server.received(Exec(shell=b"id").encode())


# ---------------------------------------------------------------- commands


def test_command_with_input_goes_from_start_to_exit():
    client, server = both(
        *running(),
        (CLIENT, TYPE),
        (SERVER, OUT),
        (SERVER, credit(5)),
        (SERVER, ERR),
        (CLIENT, Kind.SIGNAL(b"INT")),
        (CLIENT, eof(0)),
        (SERVER, credit(1)),  # it was on its way
        (SERVER, eof(2)),
        (SERVER, OUT),
        (SERVER, eof(1)),
        (SERVER, Exit(2, "INT").encode()),
    )
    assert client.state is server.state is State.READY


@pytest.mark.case("R14")
def test_command_without_input_has_it_ended_from_the_start_r14():
    steps = running(stdin=False)
    client = allow(steps, SERVER, OUT)
    assert client.started and not client.wants_input
    refuse(steps, CLIENT, TYPE, "after its end")
    refuse(steps, CLIENT, Kind.STDIN(), "after its end")
    refuse(steps, CLIENT, eof(0), "twice")


def test_connection_runs_one_command_after_another():
    steps = [*ENDED, *running(stdin=False)[2:], (SERVER, eof(2)), (SERVER, eof(1))]
    client = allow([*steps, (SERVER, Exit(1).encode())], CLIENT, PUT_FILE)
    assert client.state is State.PUTTING
    refuse(running(), CLIENT, Exec(shell=b"ls").encode(), "while a command runs")


@pytest.mark.parametrize("who", [CLIENT, SERVER])
def test_nothing_of_one_command_is_left_in_the_next(who):
    for end in (*ENDED[-1:], (SERVER, REFUSED)):
        first = [*running(pty=(24, 80)), (CLIENT, eof(0)), (SERVER, eof(0))]
        first += [(SERVER, eof(1)), (SERVER, eof(2)), end]
        again = running(started=False)[2:]
        refuse([*first, *again], SERVER, OUT, "before the command has started")
        refuse([*first, *again], CLIENT, TYPE, "0 are allowed")
        refuse([*first, *again], CLIENT, resize(1, 1), "without a terminal")
        ready = [*first, *again, (SERVER, credit(WINDOW))]
        for message in (OUT, ERR, eof(0), eof(1), eof(2)):
            allow(ready, SERVER, message)
        allow(ready, CLIENT, eof(0))


@pytest.mark.parametrize("message", [OUT, ERR, eof(0), eof(1), eof(2), Exit(0).encode()])
def test_word_of_a_command_that_has_not_started_is_refused(message):
    refuse(running(started=False), SERVER, message, "before the command has started")


@pytest.mark.parametrize("message", [Kind.SIGNAL(b"KILL"), eof(0), Kind.PING(b"1")])
def test_client_may_speak_before_the_command_has_started(message):
    allow(running(started=False), CLIENT, message)


@pytest.mark.parametrize("options", [{"merge": True}, {"pty": (24, 80)}])
def test_command_with_one_stream_has_no_error_output(options):
    refuse(running(**options), SERVER, ERR, "one stream")
    allow(running(**options), SERVER, OUT)
    steps = [*running(**options), (SERVER, eof(1))]
    refuse(steps, SERVER, Exit(0).encode(), "before the end")
    allow([*steps, (SERVER, eof(2))], SERVER, Exit(0).encode())


@pytest.mark.case("R22")
def test_only_a_terminal_has_a_size_r22():
    allow(running(pty=(24, 80)), CLIENT, resize(0, 0xFFFF))
    refuse(running(), CLIENT, resize(24, 80), "without a terminal")
    refuse(running(pty=(24, 80)), CLIENT, Kind.RESIZE(b"\0\1"))


@pytest.mark.case("R26")
@pytest.mark.parametrize("name", sorted(SIGNALS))
def test_signal_that_is_known_may_be_sent_r26(name):
    allow(running(), CLIENT, Kind.SIGNAL(name))


@pytest.mark.case("R26")
@pytest.mark.parametrize("name", [b"", b"SIGTERM", b"term", b"15", b"RTMIN", b"TERM\0"])
def test_signal_that_nobody_knows_is_refused_r26(name):
    refuse(running(), CLIENT, Kind.SIGNAL(name), "nobody knows")


# R16: what breaks the rules of a command's streams.
BROKEN: dict[str, tuple[list[Step], str, bytes, str]] = {
    "exit twice": (ENDED, SERVER, Exit(0).encode(), "between two commands"),
    "output after exit": (ENDED, SERVER, OUT, "between two commands"),
    "error output after exit": (ENDED, SERVER, ERR, "between two commands"),
    "end after exit": (ENDED, SERVER, eof(1), "between two commands"),
    "window after exit": (ENDED, SERVER, credit(1), "between two commands"),
    "exit before the ends": (running(), SERVER, Exit(0).encode(), "before the end"),
    "exit before one end": (
        [*running(), (SERVER, eof(1))],
        SERVER,
        Exit(0).encode(),
        "before the end",
    ),
    "exit before the other end": (
        [*running(), (SERVER, eof(2)), (SERVER, eof(0))],
        SERVER,
        Exit(0).encode(),
        "before the end",
    ),
    "output after its end": ([*running(), (SERVER, eof(1))], SERVER, OUT, "after its end"),
    "errors after their end": ([*running(), (SERVER, eof(2))], SERVER, ERR, "after its end"),
    "input after its end": ([*running(), (CLIENT, eof(0))], CLIENT, TYPE, "after its end"),
    "client's end twice": ([*running(), (CLIENT, eof(0))], CLIENT, eof(0), "twice"),
    **{
        f"server's end of {stream} twice": (
            [*running(), (SERVER, eof(stream))],
            SERVER,
            eof(stream),
            "twice",
        )
        for stream in (0, 1, 2)
    },
    "unknown stream": (running(), SERVER, eof(3), "not known"),
    "unknown stream of the client": (running(), CLIENT, eof(1), "not the client's"),
    "end of no stream": (running(), SERVER, Kind.EOF(), "not known"),
    "end of two streams": (running(), SERVER, Kind.EOF(b"\1\2"), "not known"),
    "client's end of nothing": (running(), CLIENT, Kind.EOF(), "not the client's"),
    "output of nothing": (running(), SERVER, Kind.STDOUT(), "without a byte"),
    "error output of nothing": (running(), SERVER, Kind.STDERR(), "without a byte"),
    "window exceeded": (running(), CLIENT, Kind.STDIN(bytes(101)), "100 are allowed"),
    "window used up": (
        [*running(), (CLIENT, Kind.STDIN(bytes(100)))],
        CLIENT,
        Kind.STDIN(b"x"),
        "0 are allowed",
    ),
    "window before the start": (running(started=False), CLIENT, TYPE, "0 are allowed"),
    "window overflow": (running(), SERVER, credit(WINDOW - 99), "expected 262144"),
    "window over 2**31": (running(), SERVER, credit(0xFFFF_FFFF), "expected 262144"),
    "window of zero": (running(), SERVER, credit(0), "no byte more"),
    "half a window": (running(), SERVER, Kind.STDIN(b"\0\1"), "2 bytes"),
    "exit that is none": (
        [*running(), (SERVER, eof(1)), (SERVER, eof(2))],
        SERVER,
        Kind.EXIT(b"0"),
        "EXIT",
    ),
    "client gives up a command": (running(), CLIENT, REFUSED, "ERROR while"),
}


@pytest.mark.case("R16")
@pytest.mark.parametrize("what", BROKEN)
def test_broken_rule_is_noticed_by_either_side_r16(what):
    steps, who, message, match = BROKEN[what]
    refuse(steps, who, message, match)


def test_window_is_what_was_allowed_less_what_was_sent():
    client = allow([*running(), (CLIENT, Kind.STDIN(bytes(60)))], SERVER, credit(WINDOW - 40))
    assert client.window == WINDOW
    client = allow([*running(), (CLIENT, Kind.STDIN(bytes(100)))], SERVER, credit(1))
    assert client.window == 1


STALE = [
    TYPE,
    eof(0),
    resize(24, 80),
    Kind.SIGNAL(b"TERM"),
    DATA,
    DONE,
    REFUSED,
    GET_FROM,
    Kind.SIGNAL(b"whatever"),
]


@pytest.mark.case("R26")
@pytest.mark.parametrize("message", STALE)
@pytest.mark.parametrize("way", [ENDED, [*SENDING, (SERVER, REFUSED)]])
def test_word_that_was_on_its_way_at_the_end_counts_for_nothing_r26(way, message):
    client, server = both(*way)
    server.received(message)
    assert server.state is State.READY
    say(client, server, CLIENT, Exec(shell=b"ls").encode())
    say(client, server, SERVER, credit(0))


@pytest.mark.parametrize("steps", [MET, running(), PUTTING, FETCHING])
def test_ping_and_pong_change_nothing_and_are_small(steps):
    state = both(*steps)[0].state
    for body in (b"", b"12345678"):
        assert allow(steps, CLIENT, Kind.PING(body)).state is state
        assert allow(steps, SERVER, Kind.PONG(body)).state is state
    refuse(steps, CLIENT, Kind.PING(bytes(9)), "9 bytes")
    refuse(steps, SERVER, Kind.PONG(bytes(9)), "9 bytes")


@pytest.mark.parametrize(
    ("steps", "after"),
    [
        ([], State.OVER),
        (MET, State.READY),
        (running(started=False), State.READY),
        (running(), State.READY),
        (PUTTING, State.READY),
        (SENDING, State.READY),
        (GETTING, State.READY),
        (FETCHING, State.READY),
        (LISTED, State.READY),
    ],
)
def test_error_of_the_server_ends_what_was_asked_for(steps, after):
    assert allow(steps, SERVER, REFUSED).state is after


# ---------------------------------------------------------------- files

TRANSFERS: dict[str, list[Step]] = {
    "a file is stored": [
        *SENDING,
        (CLIENT, DATA),
        (CLIENT, DATA),
        (CLIENT, DONE),
        (SERVER, DONE),
    ],
    "an empty file is stored": [*SENDING, (CLIENT, DONE), (SERVER, DONE)],
    "a folder is made": [*FOLDER, (SERVER, Kind.DONE())],
    "a file is fetched": [*FETCHING, (SERVER, DATA), (SERVER, DATA), (SERVER, DONE)],
    "an empty file is fetched": [*FETCHING, (SERVER, DONE)],
    "a folder is listed": [*LISTED, (SERVER, DATA), (SERVER, DATA), (SERVER, Kind.DONE())],
    "an empty folder is listed": [*LISTED, (SERVER, Kind.DONE())],
    "the client gives up storing": [*SENDING, (CLIENT, REFUSED), (SERVER, REFUSED)],
    "the client gives up fetching": [
        *FETCHING,
        (CLIENT, REFUSED),
        (SERVER, DATA),
        (SERVER, DONE),
    ],
    "the client gives up before it begins": [
        *GETTING,
        (SERVER, ANNOUNCED),
        (CLIENT, REFUSED),
        (SERVER, REFUSED),
    ],
}


@pytest.mark.parametrize("what", TRANSFERS)
def test_transfer_goes_from_start_to_end(what):
    assert both(*TRANSFERS[what])[0].state is State.READY


OUT_OF_TURN: list[tuple[list[Step], str, bytes]] = [
    # storing: data before the offset, the server's turn, and after the end
    (PUTTING, CLIENT, DATA),
    (PUTTING, CLIENT, DONE),
    (PUTTING, SERVER, DONE),
    (PUTTING, SERVER, Kind.DONE()),
    (SENDING, SERVER, DONE),
    (SENDING, SERVER, PUT_FROM),
    (SENDING, SERVER, DATA),
    ([*SENDING, (CLIENT, DATA)], SERVER, PUT_FROM),
    ([*SENDING, (CLIENT, DONE)], CLIENT, DATA),
    ([*SENDING, (CLIENT, DONE)], CLIENT, DONE),
    ([*SENDING, (CLIENT, DONE)], SERVER, PUT_FROM),
    (SENDING, CLIENT, PUT_FILE),
    # a folder has no bytes
    (FOLDER, SERVER, PUT_FROM),
    (FOLDER, CLIENT, DATA),
    (FOLDER, CLIENT, DONE),
    # fetching
    (GETTING, CLIENT, GET_FROM),
    (GETTING, SERVER, DATA),
    (GETTING, SERVER, DONE),
    (GETTING, SERVER, Kind.DONE()),
    ([*GETTING, (SERVER, ANNOUNCED)], SERVER, ANNOUNCED),
    ([*GETTING, (SERVER, ANNOUNCED)], SERVER, DATA),
    ([*GETTING, (SERVER, ANNOUNCED)], SERVER, DONE),
    (FETCHING, CLIENT, GET_FROM),
    (FETCHING, CLIENT, GET_FILE),
    (FETCHING, SERVER, ANNOUNCED),
    (FETCHING, CLIENT, DATA),
    # a listing has no entry ahead of it
    (LISTED, SERVER, ANNOUNCED),
    (LISTED, CLIENT, GET_FROM),
    ([*LISTED, (SERVER, DATA)], SERVER, ANNOUNCED),
    # after the end
    ([*SENDING, (CLIENT, DONE), (SERVER, DONE)], SERVER, DONE),
    ([*FETCHING, (SERVER, DONE)], SERVER, DATA),
]


@pytest.mark.parametrize("case", range(len(OUT_OF_TURN)))
def test_message_of_a_transfer_out_of_turn_is_refused(case):
    refuse(*OUT_OF_TURN[case])


@pytest.mark.parametrize(
    "message",
    [
        Kind.EXEC(),
        Kind.EXEC(b"ls"),
        Kind.PUT(),
        Kind.PUT(bytes(8)),
        Kind.GET(),
        Kind.GET(b"x"),
    ],
)
def test_malformed_request_begins_nothing(message):
    _, server = both(*MET)
    with pytest.raises(FramingError):
        server.received(message)
    assert server.state is State.READY
