"""Programs as a classic socket tutorial teaches them: plain sockets, and its faults.

    python tutorial_programs.py NAME [PORT]

A server serves until it is killed, and prints the port that the system has chosen; a client
reads from standard input.  They are what `examples/legacy_protocol.py` must get on with.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys


def listening() -> socket.socket:
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("127.0.0.1", 0))
    server.listen(5)
    print(f"waiting at {server.getsockname()[1]}", flush=True)
    return server


def connected() -> socket.socket:
    client = socket.socket()
    client.connect(("127.0.0.1", int(sys.argv[2])))
    return client


def lines() -> list[str]:
    commands = []
    while True:
        try:
            command = input(">>:").strip()
        except EOFError:
            break
        if len(command) == 0:
            continue
        if command == "exit":
            break
        commands.append(command)
    return commands


# ------------------------------------------------------------ size, acknowledgement, body


def ack_server() -> None:
    server = listening()
    while True:
        conn, _ = server.accept()
        while True:
            command = conn.recv(2048)
            if not command:
                break
            result = os.popen(command.decode()).read()
            if len(result) == 0:
                result = "the command has no output"
            body = result.encode("utf-8")
            conn.send(str(len(body)).encode("utf-8"))
            conn.recv(1024)  # hello,world
            conn.send(body)
        conn.close()


def ack_client() -> None:
    client = connected()
    for command in lines():
        client.send(command.encode("utf-8"))
        size = int(client.recv(1024).decode())
        client.send(b"hello,world")
        received = b""
        while len(received) < size:
            received += client.recv(1024)
        print(received.decode("utf-8"))
    client.close()


# ------------------------------------------------------------ size and body, which stick


def length_server() -> None:
    server = listening()
    while True:
        conn, _ = server.accept()
        while True:
            command = conn.recv(1024)
            if not command:
                break
            done = subprocess.run(
                command.decode(),
                shell=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            body = done.stdout or b"the command has no output"
            conn.send(str(len(body)).encode())
            conn.send(body)
        conn.close()


# ------------------------------------------------------------ body alone


def bare_server() -> None:
    server = listening()
    while True:
        conn, _ = server.accept()
        while True:
            command = conn.recv(1024)
            if not command:
                break
            result = os.popen(command.decode()).read()
            if not result:
                result = "the command has no output"
            conn.send(result.encode())
        conn.close()


def bare_client() -> None:
    client = connected()
    for command in lines():
        client.send(command.encode())
        print(client.recv(1024).decode())
    client.close()


# ------------------------------------------------------------ one message, upper-cased


def upper_server() -> None:
    server = listening()
    while True:
        conn, _ = server.accept()
        conn.send(conn.recv(1024).upper())
        conn.close()


def upper_client() -> None:
    client = connected()
    client.send(input().encode())
    print(client.recv(1024).decode())
    client.close()


if __name__ == "__main__":
    globals()[sys.argv[1]]()
