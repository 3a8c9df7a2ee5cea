"""OpenSSH's server for this user alone, on loopback, with keys made for this run.

    remote_sshd.py server WORK unix:///path COUNT SIZE SPIN

It says ssh://USER@127.0.0.1:PORT/FOLDER; what a client needs is in that folder.
"""

import getpass
import os
import shutil
import subprocess
import sys

import protocol
import remote_ends
import serving

# Debian keeps daemons where the path of a plain user does not look.
PROGRAM = shutil.which("sshd", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
CONFIG = """
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
MaxSessions 100
LogLevel ERROR
Subsystem sftp internal-sftp
SetEnv HOME={folder}
"""  # HOME: bash reads .bashrc for each command of sshd, and it may hold anything


def main() -> None:
    if PROGRAM is None:
        sys.exit("Unavailable: no sshd; on Debian: apt install openssh-server")
    work, address, count, size, spin = sys.argv[2:]
    options = protocol.Options(work, address, int(count), int(size), float(spin))
    folder = remote_ends.serve_folder(options)
    for name in ("host", "user"):
        make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{folder}/{name}"]
        subprocess.run(make, check=True)
    with open(f"{folder}/config", "w") as file:
        file.write(CONFIG.format(folder=folder))
    if os.geteuid() == 0:
        os.makedirs("/run/sshd", exist_ok=True)  # it does nothing for root without
    port = serving.with_free_port("tcp://127.0.0.1:0").rpartition(":")[2]
    with open(f"{folder}/known", "w") as file, open(f"{folder}/host.pub") as key:
        file.write(f"[127.0.0.1]:{port} {key.read()}")
    protocol.end_with_the_runner()
    user = getpass.getuser()
    print(f"ssh://{user}@127.0.0.1:{port}{folder}", flush=True)  # clients wait for it
    os.dup2(2, 1)
    os.execv(PROGRAM, [PROGRAM, "-D", "-e", "-p", port, "-f", f"{folder}/config"])


if __name__ == "__main__":
    main()
