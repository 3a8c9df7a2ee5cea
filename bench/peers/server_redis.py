"""redis-server: its ECHO, nothing kept on disk."""

import os
import shutil
import subprocess
import sys

import protocol
import serving

PROGRAM = shutil.which("redis-server", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
OPTIONS = [
    "--daemonize",
    "no",
    "--appendonly",
    "no",
    "--protected-mode",
    "no",
    "--maxclients",
    "15000",
]


def main() -> None:
    if PROGRAM is None:
        sys.exit("Unavailable: no redis-server")
    if sys.argv[-1] == "version":
        said = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True)
        print("redis-server", said.stdout.split("v=")[1].split()[0])
        return
    address = serving.with_free_port(sys.argv[-1])
    protocol.end_with_the_runner()
    serving.raise_limit()
    print(address, flush=True)  # whoever connects waits for it to be there
    os.dup2(2, 1)  # its log
    at = protocol.target(address)
    if isinstance(at, str):
        where = ["--port", "0", "--unixsocket", at]
    else:
        where = ["--bind", at[0], "--port", str(at[1])]
    os.execv(PROGRAM, [PROGRAM, *where, *OPTIONS, "--save", ""])


if __name__ == "__main__":
    main()
