# shellcheck shell=bash
# What the scripts here share; each of them sources it.
#
# What is downloaded and built is kept outside the tree, in PYSOCK_CACHE, and used again.
set -euo pipefail
shopt -s nullglob inherit_errexit

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"
mkdir -p "${PYSOCK_CACHE:=${XDG_CACHE_HOME:-$HOME/.cache}/pysock-ci}"
CACHE=$(cd "$PYSOCK_CACHE" && pwd)
CANNOT=77 # the status of a script that could not run; 1: it ran, and found a fault

say() { printf '== %s\n' "$*"; }

cannot() {
    printf >&2 '== cannot run: %s\n' "$*"
    exit "$CANNOT"
}

is_root() { [[ $(id -u) == 0 ]]; }

# need 'PACKAGE...:COMMAND'...: have Debian's PACKAGE installed where COMMAND is missing.
need() {
    local PATH="$PATH:/usr/sbin" pair missing=()
    for pair; do
        command -v "${pair#*:}" >/dev/null || read -ra missing <<<"${missing[*]} ${pair%:*}"
    done
    ((${#missing[@]})) || return 0
    if ! is_root || ! command -v apt-get >/dev/null; then
        cannot "these Debian packages are missing: ${missing[*]}"
    fi
    say "installs ${missing[*]}"
    apt-get update -qq
    RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
        apt-get -o DPkg::Lock::Timeout=600 install -qq -y --no-install-recommends \
        "${missing[@]}" >/dev/null
}

# Where this machine gets Debian from, which has the other suites too.
mirror() {
    local found="${PYSOCK_MIRROR:-}"
    [[ -n $found ]] || found=$(apt-get indextargets --format "\$(REPO_URI)" |
        grep -v -e security -e updates | head -n 1) || true
    [[ -n $found ]] || cannot "no Debian mirror in apt's sources: set PYSOCK_MIRROR"
    printf '%s\n' "$found"
}

# A virtual environment in which things are made, with Cython for every target.
tools() {
    local venv=$CACHE/tools
    if [[ ! -e $venv/.made ]]; then
        "${PYTHON:-python3}" -m venv --clear "$venv"
        "$venv/bin/python" -m pip install -q 'pip>=25.1' 'cython>=3.2' 'setuptools>=80'
        touch "$venv/.made"
    fi
    TOOLS=$venv/bin
    [[ $("$TOOLS/python" -c 'import sys; print(sys.version_info >= (3, 11))') == True ]] ||
        cannot "python3 is older than 3.11: set PYTHON"
}

# What the tests import.  is_made FILE: whether it was made for just that, by made FILE.
needs() {
    "$TOOLS/python" -c 'import tomllib
print(tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["test"])'
}
is_made() { [[ -e $1 && $(<"$1") == "$(needs)" ]]; }
made() { needs >"$1"; }

# translate FILE: the module as C, which is the same for all targets.
translate() {
    "$TOOLS/cython" -3 -o "$1" src/framing.pyx
}
