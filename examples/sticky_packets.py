"""Messages that stick together or arrive in pieces, and the cure.

    python sticky_packets.py

A program that takes what one `recv` returns for one message works on its author's machine,
most of the time.  Here are the two ways in which it fails, with plain sockets, and then the
same traffic through pysock.
"""

import socket

import pysock

ORDERS = [b"pay 10 to Ann", b"pay 20 to Bob", b"pay 30 to Eve"]


def connected() -> tuple[socket.socket, socket.socket]:
    """Return two sockets connected over TCP."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        a = socket.create_connection(listener.getsockname())
        return a, listener.accept()[0]


def stuck() -> None:
    a, b = connected()
    with a, b:
        for order in ORDERS:
            a.sendall(order)
        # The receiver comes a little late, as busy programs do.
        b.settimeout(10)
        while len(b.recv(4096, socket.MSG_PEEK)) < sum(map(len, ORDERS)):
            pass
        print("3 sends, 1 recv: ", b.recv(4096))


def cut() -> None:
    a, b = connected()
    with a, b:
        a.sendall(b"pay 10")  # the network delivers the first half ...
        print("1 order, 2 recvs:", b.recv(4096), end=" ")
        a.sendall(b"000 to Ann")  # ... and now the second
        print(b.recv(4096))


def cured() -> None:
    a, b = connected()
    with pysock.Connection(a) as sender, pysock.Connection(b) as receiver:
        for order in ORDERS:
            sender.send(order)
        print("pysock, late:    ", [receiver.recv() for _ in ORDERS])

    a, b = connected()
    with a, pysock.Connection(b, timeout=0.1) as receiver:
        frame = pysock.LengthField().encode(b"pay 10000 to Ann")  # 4 bytes of length, payload
        a.sendall(frame[:10])
        try:
            receiver.recv()
        except TimeoutError:
            print("pysock, cut:      not whole yet, nothing is handed over;", end=" ")
        a.sendall(frame[10:])
        print(receiver.recv())


if __name__ == "__main__":
    stuck()
    cut()
    cured()
