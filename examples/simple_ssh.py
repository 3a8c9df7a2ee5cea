"""A simple ssh: commands go to the other side, all of their output comes back.

    python simple_ssh.py server          runs commands until Ctrl-C, for the same user only
    python simple_ssh.py client          asks for commands; "exit" or Ctrl-D leaves

Socket tutorials build this from a length that is announced and a loop that receives so many
bytes.  It hangs when a command prints nothing, waits for its input or has no end, and serves
whoever connects.  Here `yes` may run as long as it likes, Ctrl-C ends it, and the address is
a Unix socket in the current folder, which nobody else may connect to.

Each line has a shell of its own: `cd` is over with its line.  `pysock shell-server` and
`pysock shell` are the complete pair, docs/remote.md has TLS and keys for other machines.
"""

import argparse
import subprocess
import sys

import pysock
from pysock.remote import RemoteClient, RemoteServer

ADDRESS = "unix:simple_ssh.sock"


def serve(address: str, allow_root: bool) -> None:
    with RemoteServer(address, allow_root=allow_root) as server:
        print(f"serving {server.address}, Ctrl-C ends it", flush=True)
        server.serve_forever()


def ask(address: str) -> None:
    with RemoteClient(address) as remote:
        while True:
            try:
                line = input(">>: ").strip()
            except EOFError:
                return
            if line == "exit":
                return
            try:
                if line:
                    execute(remote, line)
            except KeyboardInterrupt:
                print("\nended")
            except (pysock.Error, OSError) as exc:
                print(exc)


def execute(remote: RemoteClient, line: str) -> None:
    files = {"stdout": sys.stdout.buffer, "stderr": sys.stderr.buffer}
    with remote.start(line, shell=True, stdin=subprocess.DEVNULL) as process:
        for channel, data in process:
            files[channel].write(data)
            files[channel].flush()
    if process.returncode:
        print(f"[{process.returncode}]", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Run commands on the other side.")
    parser.add_argument("mode", choices=["server", "client"])
    parser.add_argument("address", nargs="?", default=ADDRESS, help="default: %(default)s")
    parser.add_argument("--allow-root", action="store_true", help="serve as root, too")
    options = parser.parse_args()
    try:
        if options.mode == "server":
            serve(options.address, options.allow_root)
        else:
            ask(options.address)
    except KeyboardInterrupt:
        print("stopped")
    except (pysock.Error, OSError) as exc:
        sys.exit(f"simple_ssh.py: {exc}")
