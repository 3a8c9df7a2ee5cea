#!/usr/bin/env bash
# The whole suite with every CPython that is here, and with newer ones of Debian's.
#
#     ci/pythons.sh [VERSION...]         default: 3.11 3.12 3.13 3.14 3.15
#
# A version is looked for in pyenv and on the path; what is not there is had from Debian
# sid, in a folder of its own, for which root is needed.
# shellcheck source=ci/common.sh
. "$(dirname "$0")/common.sh"

versions=("$@")
((${#versions[@]})) || versions=(3.11 3.12 3.13 3.14 3.15)
home=$CACHE/pythons
mkdir -p "$home"
root=$home/sid

installed() { # installed VERSION: its path, if it is on this machine, with headers
    local found
    for found in "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python \
        "$(command -v "python$1" || true)"; do
        [[ -x $found ]] && "$found" -c \
            'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' \
            2>/dev/null && printf '%s\n' "$found" && return
    done
    return 1
}

# In namespaces of its own: what is mounted is gone at the end, whatever the end is.
inside() { # inside COMMAND...
    # shellcheck disable=SC2016
    unshare --mount --pid --fork bash -c '
        root=$1
        shift
        mount -t proc proc "$root/proc"
        mount -t devpts -o ptmxmode=666 devpts "$root/dev/pts"
        mount -t tmpfs tmpfs "$root/dev/shm"
        exec chroot "$root" "$@"' inside "$root" "$@" </dev/null
}

make_sid() {
    local include=ca-certificates,gcc,libc6-dev,openssl,procps version
    [[ -e $root/.made ]] && return
    is_root || cannot "only root can make a Debian sid of its own"
    need debootstrap:debootstrap
    for version in 3.14 3.15; do include+=,python$version-venv,python$version-dev; done
    say "makes a Debian sid"
    rm -rf "$root"
    debootstrap --variant=minbase --include="$include" sid "$root" "$(mirror)" \
        >"$home/debootstrap.log" || { tail "$home/debootstrap.log"; exit 1; }
    mkdir -p "$root/dev/shm"
    touch "$root/.made"
}

in_sid() { # in_sid VERSION: run the suite there
    local version=$1 tree
    make_sid
    [[ -x $root/usr/bin/python$version ]] || {
        say "cannot run $version: Debian sid has none"
        return "$CANNOT"
    }
    cp /etc/resolv.conf "$root/etc/"
    cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
    [[ ! -e /etc/pip.conf ]] || cp /etc/pip.conf "$root/etc/"
    tree=$root/pysock
    rm -rf "$tree" && mkdir "$tree"
    git ls-files -z --cached --others --exclude-standard |
        tar --null -cf - --ignore-failed-read -T - | tar -xf - -C "$tree"
    # shellcheck disable=SC2016
    inside env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
        PIP_CERT=/etc/ssl/certs/ca-certificates.crt PIP_DISABLE_PIP_VERSION_CHECK=1 \
        JOBS="${JOBS:-2}" PYSOCK_TEST_TIME_FACTOR="${PYSOCK_TEST_TIME_FACTOR:-1}" bash -euc '
            version=$1 venv=/opt/v$1
            [ -e $venv/.made ] || {
                python$version -m venv --clear $venv
                $venv/bin/python -m pip install -q "pip>=25.1" setuptools cython
                touch $venv/.made
            }
            cd /pysock
            $venv/bin/python -m pip install -q --group test
            $venv/bin/python -m pip install -q --no-build-isolation --no-deps \
                --force-reinstall .
            rm -rf build
            $venv/bin/python -c "import sys; print(\"==\", sys.version)"
            $venv/bin/pytest -q --tb=short -p no:cacheprovider -n "$JOBS" --dist worksteal
        ' sid "$version"
}

here() { # here VERSION PYTHON
    local version=$1 python=$2 venv=$home/v$1
    "$python" -c 'import sys; print("==", sys.version)'
    # The Makefile's own way, in another place.
    make -s test PYTHON="$python" VENV="$venv" ARGS="-q --tb=short -p no:cacheprovider"
}

told=() failed=0
for version in "${versions[@]}"; do
    began=$SECONDS status=0
    if python=$(installed "$version"); then
        (here "$version" "$python") || status=$?
    else
        (in_sid "$version") || status=$?
    fi
    case $status in
        0) how=passed ;;
        "$CANNOT") how="could not run" ;;
        *) how=FAILED failed=1 ;;
    esac
    told+=("$version $how ($((SECONDS - began)) s)")
done
printf '== %s\n' "${told[@]}"
exit "$failed"
