"""pysock: `DatagramClient` and `DatagramServer` as they come."""

import sys

import dgram_protocol
from dgram_protocol import AHEAD, Options
from protocol import check
from serving import echo

import pysock

if not hasattr(pysock, "DatagramServer"):
    sys.exit("Unavailable: this pysock has no datagrams")


def connect(options: Options) -> pysock.DatagramClient:
    return pysock.DatagramClient(options.address)


def batched(client: pysock.DatagramClient, options: Options, message: bytes) -> None:
    window = [message] * options.window
    for _ in range(options.count // options.window):
        client.send_many(window)
        left = options.window
        while left:
            replies = client.recv_many(left)
            left -= len(replies)
    check(replies[-1], options)


def stream(client: pysock.DatagramClient, options: Options, message: bytes) -> None:
    window = [message] * options.window
    ahead = 0
    for _ in range(options.count // options.window):
        client.send_many(window)
        ahead += 1
        if ahead == AHEAD:
            client.recv()
            ahead -= 1
    for _ in range(ahead):
        client.recv()


def request(client: pysock.DatagramClient, options: Options, message: bytes) -> None:
    ask = client.request
    for _ in range(options.count):
        reply = ask(message)
    check(reply, options)


def echo_server(options: Options) -> None:
    with pysock.DatagramServer(options.address, echo) as server:
        dgram_protocol.announce(server.server_address)
        server.serve_forever()


def stream_server(options: Options) -> None:
    with pysock.DatagramClient(bind=options.address) as receiver:
        dgram_protocol.announce(receiver.getsockname())
        _message, address = receiver.recvfrom()
        got = 1
        while True:
            got += len(receiver.recv_many())
            while got >= options.window:
                receiver.sendto(b"ok", address)
                got -= options.window


if __name__ == "__main__":
    dgram_protocol.main(
        f"pysock {pysock.__version__}",
        connect,
        {"batched": batched, "stream": stream, "request": request},
        {"batched": echo_server, "stream": stream_server, "request": echo_server},
    )
