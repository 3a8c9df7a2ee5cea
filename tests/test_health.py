"""The health address: what it answers, and that no client is in the way of another."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import socket
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import TIME_FACTOR, linux, unix
from peers import LONG, Task, until
from pysock import health
from pysock.address import connect, parse
from pysock.health import HealthServer


@pytest.fixture
def checked():
    """A health server whose counters the test may change."""
    stats = {"accepted": 3}
    with HealthServer("127.0.0.1:0", lambda: stats) as server:
        server.counters = stats
        yield server


def ask(server, method="GET", path="/", **options):
    with contextlib.closing(
        http.client.HTTPConnection(server.address.host, server.address.port, LONG)
    ) as client:
        client.request(method, path, **options)
        response = client.getresponse()
        return response, response.read()


def say(server, data, finish=False):
    """Send bytes; return all that comes until the server closes."""
    with connect(server.address, LONG) as client:
        client.settimeout(LONG)
        client.sendall(data)
        if finish:
            client.shutdown(socket.SHUT_WR)
        answer = b""
        while part := client.recv(65536):
            answer += part
        return answer


@pytest.mark.parametrize("path", ["/", "/health", "/healthz?verbose=1", "/../x"])
def test_any_path_is_well(checked, path):
    response, body = ask(checked, path=path)
    assert response.status == 200
    assert body == b"ok\n"
    assert response.getheader("Content-Type") == "text/plain"
    assert response.getheader("Server") == "pysock"


@pytest.mark.parametrize("path", ["/", "/stats"])
def test_head_has_no_body(checked, path):
    response, body = ask(checked, "HEAD", path)
    assert response.status == 200
    assert int(response.getheader("Content-Length")) > 0
    assert body == b""


@pytest.mark.parametrize("path", ["/stats", "/stats?pretty"])
def test_stats_are_the_counters_of_that_moment(checked, path):
    response, body = ask(checked, path=path)
    assert response.getheader("Content-Type") == "application/json"
    assert json.loads(body) == {"accepted": 3}
    checked.counters.update(accepted=4, since=1.5, address=checked.address)
    expected = {"accepted": 4, "since": 1.5, "address": str(checked.address)}
    assert json.loads(ask(checked, path=path)[1]) == expected


def test_counters_that_fail_are_an_error_of_the_server(checked, caplog):
    checked.counters[0.5] = object()
    checked.counters[(1,)] = "no key of JSON's"
    response, body = ask(checked, path="/stats")
    assert (response.status, body) == (500, b"Internal Server Error\n")
    assert "the counters for a health check cannot be had" in caplog.text
    assert ask(checked)[0].status == 200


@pytest.mark.parametrize("method", ["OPTIONS", "POST", "PUT", "DELETE", "BREW"])
def test_other_methods_are_not_allowed(checked, method):
    response, body = ask(checked, method, body=b"x" * 3000)
    assert response.status == 405
    assert response.getheader("Allow") == "GET, HEAD"
    assert body == b"Method Not Allowed\n"


def test_nothing_is_logged_for_a_check(checked, caplog, capfd):
    with caplog.at_level(logging.DEBUG):
        ask(checked)
        ask(checked, "POST")
        say(checked, b"garbage\r\n\r\n")
    assert caplog.text == ""
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "request_line",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.0\n\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_one_request_is_answered_and_the_connection_closed(checked, request_line):
    answer = say(checked, request_line)
    assert answer.startswith(b"HTTP/1.0 200 OK\r\n")
    assert answer.endswith(b"\r\nConnection: close\r\n\r\nok\n")
    assert answer.count(b"HTTP/1.0") == 1


def test_request_in_pieces_is_answered(checked):
    with connect(checked.address, LONG) as client:
        client.settimeout(LONG)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"GET / HTTP/1.0\r\n\r\n":
            client.sendall(bytes([byte]))
        assert client.recv(100).startswith(b"HTTP/1.0 200 OK\r\n")


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"garbage\r\n\r\n", b"HTTP/1.0 400 Bad Request\r\n"),
        (b"GET / HTTP/2.0\r\n\r\n", b"HTTP/1.0 505 HTTP Version Not Supported\r\n"),
        (b"GET / HTTP/1.x\r\n\r\n", b"HTTP/1.0 400 Bad Request\r\n"),
        (b"x" * 8192, b"HTTP/1.0 431 Request Header Fields Too Large\r\n"),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.0\r\n\r\n", b"HTTP/1.0 431 "),
        (b"GET / HTTP/1.0\r\n" + b"a: b\r\n" * 101 + b"\r\n", b"HTTP/1.0 431 "),
        (b"\r\n\r\n", b""),
        (b"GET /\r\n\r\n", b"ok\n"),
    ],
)
def test_what_is_no_request_is_refused_without_an_echo(checked, data, answer):
    found = say(checked, data)
    assert found.startswith(answer)
    assert b"garbage" not in found and b"xxx" not in found
    assert ask(checked)[0].status == 200


@pytest.mark.parametrize("data", [b"", b"GET / HT"])
def test_client_that_ends_early_gets_no_answer(checked, data):
    assert say(checked, data, finish=True) == b""
    assert ask(checked)[0].status == 200


@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.binary(max_size=200) | st.text("GETHAD /:.%01\r\n\0\xff", max_size=80).map(str.encode)
)
def test_garbage_does_not_hurt_the_next_check(checked, data):
    with connect(checked.address, LONG) as client:
        client.sendall(data)
    assert ask(checked)[0].status == 200


def test_silent_clients_make_room_for_others(checked):
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(connect(checked.address, LONG)) for _ in range(20)]
        assert ask(checked)[0].status == 200
        silent[0].settimeout(LONG)
        with contextlib.suppress(ConnectionResetError):
            assert silent[0].recv(1) == b""


def test_silent_client_is_closed_in_the_end(monkeypatch):
    monkeypatch.setattr(health, "_PATIENCE", 0.05 * TIME_FACTOR)
    with HealthServer("127.0.0.1:0", dict) as server:
        began = time.monotonic()
        assert say(server, b"") == b""
        assert time.monotonic() - began >= 0.05 * TIME_FACTOR


def test_client_that_sends_on_and_on_is_closed_in_the_end(monkeypatch):
    """A deadline for the visit, not for each receive."""
    monkeypatch.setattr(health, "_PATIENCE", 0.1 * TIME_FACTOR)
    with HealthServer("127.0.0.1:0", dict) as server, connect(server.address) as client:
        client.settimeout(LONG)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            until(lambda: client.sendall(b"x"))


def test_client_that_does_not_read_holds_up_nobody(checked, monkeypatch):
    checked.counters["much"] = "x" * 10_000_000
    with connect(checked.address, LONG) as client:
        client.settimeout(LONG)
        client.sendall(b"GET /stats HTTP/1.0\r\n\r\n")
        client.recv(1)
        assert ask(checked)[0].status == 200
        size = 1
        while part := client.recv(1 << 20):
            size += len(part)
    assert size > 10_000_000


def test_reset_connection_is_forgotten(checked):
    with connect(checked.address, LONG) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.sendall(b"GET / HTTP/1.0\r\n")
    assert ask(checked)[0].status == 200


def test_failing_accept_does_not_end_the_checks(checked, monkeypatch, caplog):
    monkeypatch.setattr(health, "_ACCEPT_PAUSE", 0.01)
    plain, failures = socket.socket.accept, [OSError(24, "Too many open files")]

    def accept(self):
        if failures:
            raise failures.pop()
        return plain(self)

    monkeypatch.setattr(socket.socket, "accept", accept)
    assert ask(checked)[0].status == 200
    assert "cannot accept a health check for now: [Errno 24] Too many" in caplog.text


def test_failing_answer_does_not_end_the_checks(checked, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        patch.setattr(health._Request, "answer", lambda self: 1 / 0)
        assert say(checked, b"GET / HTTP/1.0\r\n\r\n", finish=True) == b""
    assert "a health check failed" in caplog.text
    assert ask(checked)[0].status == 200


# ------------------------------------------------------------ where it listens, its end


def test_closed_server_refuses():
    server = HealthServer("127.0.0.1:0", dict).start()
    assert ask(server)[0].status == 200
    server.close()
    server.close()
    with pytest.raises(ConnectionRefusedError):
        connect(server.address, LONG)
    with pytest.raises(RuntimeError, match="was started before, or is closed"):
        server.start()


def test_server_closes_at_once_with_clients_connected(checked):
    with connect(checked.address, LONG) as client:
        client.sendall(b"GET / HT")
        began = time.monotonic()
        checked.close()
        assert time.monotonic() - began < 2 * TIME_FACTOR


def test_client_that_is_asking_at_the_end_is_answered(checked):
    """As of a worker that is replaced: another process shares the listener."""

    def accepts():
        waits_for = checked._selector.get_map()
        return bool(waits_for) and checked._listener in waits_for

    with connect(checked.address, LONG) as client:
        client.settimeout(LONG)
        client.sendall(b"GET / HT")
        until(lambda: checked._visits)
        closing = Task(checked.close)
        until(lambda: not accepts())
        client.sendall(b"TP/1.0\r\n\r\n")
        with client.makefile("rb") as file:
            assert b" 200 " in file.readline()
    closing.finish()


def test_server_that_was_never_started_can_be_closed():
    server = HealthServer("127.0.0.1:0", dict)
    server.close()
    with pytest.raises(ConnectionRefusedError):
        connect(server.address, LONG)


def test_server_starts_once(checked):
    with pytest.raises(RuntimeError, match="was started before"):
        checked.start()


def test_server_says_where_it_is(checked):
    assert repr(checked) == f"<HealthServer tcp://127.0.0.1:{checked.address.port}>"


def test_server_takes_a_listening_socket():
    with HealthServer(socket.create_server(("127.0.0.1", 0)), dict) as server:
        assert ask(server)[0].status == 200


@unix
@pytest.mark.leaves_path
def test_unix_path_is_removed_by_who_made_it(tmp_path):
    path = tmp_path / "health"
    with HealthServer(path, dict) as server:
        assert server.address == parse(path)
        assert say(server, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200 OK\r\n")
    assert not path.exists()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with HealthServer(listener, dict) as server:
            assert server.address == parse(path)
    assert path.exists()


@unix
def test_unix_path_goes_after_a_change_of_the_folder(tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    with HealthServer("unix:health", dict):
        monkeypatch.chdir("other")
    assert not (tmp_path / "health").exists()


@linux
def test_abstract_address(tmp_path):
    name = f"unix:@pysock-{tmp_path}"
    with HealthServer(name, dict) as server:
        assert str(server.address) == name
        assert say(server, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200 OK\r\n")


@unix
def test_inherited_socket():
    passed = socket.create_server(("127.0.0.1", 0))
    port = passed.getsockname()[1]
    with HealthServer(f"fd://{passed.detach()}", dict) as server:
        assert server.address == parse(("127.0.0.1", port))
        assert ask(server)[0].status == 200


@pytest.mark.parametrize("address", ["tls://127.0.0.1:0", "udp://127.0.0.1:0"])
def test_address_must_be_for_http(address):
    with pytest.raises(ValueError, match="address '"):
        HealthServer(address, dict)


@unix
def test_two_servers_share_a_listener():
    """As the workers of one master do."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        first, second = (HealthServer(listener.dup(), dict).start() for _ in range(2))
        for _ in range(8):
            assert ask(first)[0].status == 200
        first.close()
        for _ in range(8):
            assert ask(second)[0].status == 200
        second.close()


def test_thread_that_cannot_start_leaves_nothing(monkeypatch):
    def fail(self):
        raise RuntimeError("can't start new thread")

    server = HealthServer("127.0.0.1:0", dict)
    with monkeypatch.context() as patch:
        patch.setattr(health.threading.Thread, "start", fail)
        with pytest.raises(RuntimeError, match="can't start"):
            server.start()
    assert server._listener.fileno() != -1
    server.close()
