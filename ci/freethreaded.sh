# A CPython without the GIL, from Debian's source package; sourced by nogil.sh and tsan.sh.
# shellcheck shell=bash source=ci/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

VERSION=3.13 # the newest whose sources Debian keeps; it has an ABI of its own, 3.13t
SUITE=${PYSOCK_SUITE:-trixie}

need gcc:gcc make:make xz-utils:xz pkg-config:pkg-config
home=$CACHE/nogil
mkdir -p "$home"

# Debian's headers of what the standard library is built with; without them modules lack.
libraries() {
    local ffi=(/usr/include/ffi.h* /usr/include/*/ffi.h)
    [[ ${#ffi[@]} -gt 0 && -e /usr/include/openssl/ssl.h && -e /usr/include/zlib.h ]] && return
    is_root || cannot "these Debian packages are missing: libssl-dev zlib1g-dev libffi-dev"
    apt-get -o DPkg::Lock::Timeout=600 install -qq -y --no-install-recommends \
        libssl-dev zlib1g-dev libffi-dev >/dev/null
}

sources() { # sources: CPython's, in $home/Python-3.*
    local apt=$home/apt options
    local found=("$home"/Python-"$VERSION".*)
    ((${#found[@]})) && return
    rm -rf "$apt"
    mkdir -p "$apt"/{src.d,lists/partial,cache/archives/partial}
    printf 'Types: deb-src\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: %s\n' \
        "$(mirror)" "$SUITE" /usr/share/keyrings/debian-archive-keyring.gpg \
        >"$apt/src.d/one.sources"
    options=(-o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$apt/src.d"
        -o Dir::State::lists="$apt/lists" -o Dir::Cache="$apt/cache" -qq)
    (cd "$apt" && apt-get "${options[@]}" update &&
        apt-get "${options[@]}" source --download-only "python$VERSION/$SUITE") ||
        cannot "Debian $SUITE has no source of python$VERSION"
    tar -xJf "$apt"/python*.orig.tar.xz -C "$home"
}

build() { # build NAME OPTION...: a CPython in $home/NAME
    local name=$1 began=$SECONDS
    shift
    [[ -e $home/$name/.made ]] && return
    sources
    libraries
    say "builds CPython: $name"
    rm -rf "$home/build" "${home:?}/$name"
    cp -r "$home"/Python-"$VERSION".* "$home/build"
    (cd "$home/build" &&
        ./configure -q --disable-gil --prefix="$home/$name" --without-static-libpython \
            --disable-test-modules "$@" >configure.log 2>&1 &&
        TSAN_OPTIONS=report_bugs=0 make -s -j"${JOBS:-1}" >make.log 2>&1 &&
        TSAN_OPTIONS=report_bugs=0 make -s install >install.log 2>&1) ||
        { tail -n 20 "$home"/build/*.log; exit 1; }
    rm -rf "$home/build"
    touch "$home/$name/.made"
    say "built in $((SECONDS - began)) s"
}

look() { # look PYTHON: what it is, and that the module leaves the GIL off
    "$1" -P -W error - <<'END'
import sys, sysconfig
import pysock
assert sysconfig.get_config_var("Py_GIL_DISABLED") == 1, "this Python has a GIL"
assert not sys._is_gil_enabled(), "pysock has had the GIL switched on"
print("==", sys.version, "GIL off, pysock", pysock.__version__)
END
}
