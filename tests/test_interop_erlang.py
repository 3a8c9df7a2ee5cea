"""Erlang's {packet, N}: over TCP in both roles, and over the pipes of an Erlang port."""

from __future__ import annotations

import io

import pytest

from conftest import require_peer
from interop.messages import MIB, Echo, messages
from interop.program import LIMIT, first_line, running, script
from pysock import Client, Server, formats
from pysock.framing import Format

SIZES = {1: (0, 1, 255), 2: (0, 1, 65535), 4: (0, 1, 65535, MIB)}

widths = pytest.mark.parametrize(
    ("width", "framing"), [(1, formats.ERLANG1), (2, formats.ERLANG2), (4, formats.ERLANG4)]
)

# Prints its port, echoes on one connection.
SERVER = """
[Packet] = init:get_plain_arguments(),
{ok, Listener} = gen_tcp:listen(0,
    [binary, {packet, list_to_integer(Packet)}, {active, false}, {ip, {127, 0, 0, 1}}]),
{ok, Port} = inet:port(Listener),
io:format("~b~n", [Port]),
{ok, Socket} = gen_tcp:accept(Listener),
Echo = fun Again() ->
    case gen_tcp:recv(Socket, 0) of
        {ok, Message} -> ok = gen_tcp:send(Socket, Message), Again();
        {error, closed} -> halt()
    end
end,
Echo().
"""

# The messages that messages() makes.
MESSAGES = """
Block = list_to_binary(lists:seq(0, 255)),
Messages = [binary:part(binary:copy(Block, Size div 256 + 1), 0, Size)
    || Size <- [list_to_integer(Argument) || Argument <- Sizes]],
"""

# Sends every message and wants it back; then all of them at once.
CLIENT = f"""
[Port, Packet | Sizes] = init:get_plain_arguments(),
{MESSAGES}
{{ok, Socket}} = gen_tcp:connect({{127, 0, 0, 1}}, list_to_integer(Port),
    [binary, {{packet, list_to_integer(Packet)}}, {{active, false}}]),
Send = fun(Message) -> ok = gen_tcp:send(Socket, Message) end,
Receive = fun(Message) -> {{ok, Message}} = gen_tcp:recv(Socket, 0) end,
[begin Send(Message), Receive(Message) end || Message <- Messages],
[Send(Message) || Message <- Messages],
[Receive(Message) || Message <- Messages],
gen_tcp:close(Socket),
halt().
"""

# Runs a program as a port, sends it every message and wants it back; then all at once.
PORT = f"""
[Python, Script | Sizes] = init:get_plain_arguments(),
{MESSAGES}
Port = open_port({{spawn_executable, Python}}, [{{args, [Script]}}, {{packet, 4}}, binary]),
Send = fun(Message) -> Port ! {{self(), {{command, Message}}}} end,
Receive = fun(Message) -> receive {{Port, Reply}} -> {{data, Message}} = Reply end end,
[begin Send(Message), Receive(Message) end || Message <- Messages],
[Send(Message) || Message <- Messages],
[Receive(Message) || Message <- Messages],
port_close(Port),
halt().
"""


def erlang(code: str, *args: object) -> list[str]:
    """Return the command that runs *code*; its crash leaves no file behind."""
    no_dump = ["-env", "ERL_CRASH_DUMP_SECONDS", "0"]
    erl = [require_peer("erl"), "-noshell", "-noinput", *no_dump]
    return [*erl, "-eval", code, "-extra", *map(str, args)]


def echoing(width: int):
    return running(*erlang(SERVER, width))


def calling(port: str, framing: Format) -> Client:
    return Client(("127.0.0.1", int(port)), framing, timeout=LIMIT)


@widths
def test_messages_come_back_from_an_erlang_server(width, framing):
    wanted = messages(SIZES[width])
    with echoing(width) as peer, calling(first_line(peer), framing) as client:
        assert [client.request(message) for message in wanted] == wanted
        client.send_many(wanted)
        assert [client.recv() for _ in wanted] == wanted


@widths
def test_messages_come_back_to_an_erlang_client(width, framing):
    wanted = messages(SIZES[width])
    handler = Echo()
    with Server("tcp://127.0.0.1:0", handler, framing=framing) as server:
        server.start()
        port = server.server_address[1]
        with running(*erlang(CLIENT, port, width, *SIZES[width])):
            pass
    assert handler.seen == wanted * 2


def test_requests_are_pipelined_to_an_erlang_server_that_waits_for_its_reader():
    wanted = messages([MIB] * 16)
    with echoing(4) as peer, calling(first_line(peer), formats.ERLANG4) as client:
        assert client.request_many(wanted) == wanted


def test_file_goes_to_erlang_and_comes_back(tmp_path):
    content = messages([MIB])[0]
    path = tmp_path / "file"
    path.write_bytes(content)
    copy = io.BytesIO()
    with echoing(4) as peer, calling(first_line(peer), formats.ERLANG4) as client:
        with path.open("rb") as file:
            client.sendfile(file)
        client.recvfile(copy)
    assert copy.getvalue() == content


def test_erlang_port_runs_a_connection_over_stdio():
    with running(*erlang(PORT, *script("port_worker.py"), *SIZES[4])) as peer:
        # The pipe's other end is in both programs: it ends when both have ended.
        assert peer.stdout.read() == "ended between packets\n"
