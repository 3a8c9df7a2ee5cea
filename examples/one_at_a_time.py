"""One client at a time, many exchanges each; the next client waits its turn.

    python one_at_a_time.py                                  shows it
    python one_at_a_time.py --serve tcp://127.0.0.1:8000     serves until Ctrl-C

With `max_connections=1` the server accepts nobody else until its client has gone.  The next
one is connected all the same: the system keeps it in the backlog, and what it sends too.
Try it with two terminals and `pysock send 127.0.0.1:8000` in each.
"""

import argparse

import pysock


def answer(message: bytes) -> bytes:
    return b"you said " + message


def serve(address: str) -> None:
    with pysock.Server(address, answer, max_connections=1) as server:
        print(f"serving {server.address}, Ctrl-C ends it", flush=True)
        server.serve_forever()


def demonstrate() -> None:
    with pysock.Server("tcp://127.0.0.1:0", answer, max_connections=1).start() as server:
        first = pysock.Client(server.address)
        print("first: ", first.request(b"hello"))

        second = pysock.Client(server.address, timeout=0.3)
        try:
            second.request(b"is it my turn?")
        except TimeoutError:
            print("second: no answer yet, the first is being served")

        print("first: ", first.request(b"goodbye"))
        first.close()

        # The request is still on its way: only the waiting was given up.
        second.timeout = 10
        print("second:", second.recv())
        second.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Serve one client at a time.")
    parser.add_argument("--serve", metavar="ADDRESS", help="serve there until Ctrl-C")
    options = parser.parse_args()
    try:
        serve(options.serve) if options.serve else demonstrate()
    except KeyboardInterrupt:
        print("stopped")
