"""Plain sockets: one call for each datagram, with nothing around it."""

import platform
import socket

import dgram_protocol
from dgram_protocol import AHEAD, Options
from protocol import check

ROOM = 2048  # more than any datagram here; memory for 64 KiB each time is not for free


def connect(options: Options) -> socket.socket:
    to = dgram_protocol.target(options.address)
    if isinstance(to, str):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.bind("")  # a name of the system's choice, so that it can be answered
    else:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(to)
    return sock


def batched(sock: socket.socket, options: Options, message: bytes) -> None:
    send, recv = sock.send, sock.recv
    window = range(options.window)
    for _ in range(options.count // options.window):
        for _ in window:
            send(message)
        for _ in window:
            reply = recv(ROOM)
    check(reply, options)


def stream(sock: socket.socket, options: Options, message: bytes) -> None:
    send, recv = sock.send, sock.recv
    window = range(options.window)
    ahead = 0
    for _ in range(options.count // options.window):
        for _ in window:
            send(message)
        ahead += 1
        if ahead == AHEAD:
            recv(ROOM)
            ahead -= 1
    for _ in range(ahead):
        recv(ROOM)


def request(sock: socket.socket, options: Options, message: bytes) -> None:
    send, recv = sock.send, sock.recv
    for _ in range(options.count):
        send(message)
        reply = recv(ROOM)
    check(reply, options)


def receiver(options: Options) -> socket.socket:
    at = dgram_protocol.target(options.address)
    family = socket.AF_UNIX if isinstance(at, str) else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.bind(at)
    dgram_protocol.announce(sock.getsockname())
    return sock


def echo_server(options: Options) -> None:
    sock = receiver(options)
    recvfrom, sendto = sock.recvfrom, sock.sendto
    while True:
        sendto(*recvfrom(ROOM))


def stream_server(options: Options) -> None:
    sock = receiver(options)
    recvfrom = sock.recvfrom
    window = range(options.window)
    while True:
        for _ in window:
            _message, address = recvfrom(ROOM)
        sock.sendto(b"ok", address)


if __name__ == "__main__":
    dgram_protocol.main(
        f"CPython {platform.python_version()}",
        connect,
        {"batched": batched, "stream": stream, "request": request},
        {"batched": echo_server, "stream": stream_server, "request": echo_server},
    )
