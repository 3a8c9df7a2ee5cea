#!/usr/bin/env bash
# A wheel's worth of the module for aarch64, made by zig, tried under qemu.
#
#     ci/aarch64.sh [TEST FILE...]       default: some that are quick
#
# Everything takes ten times as long there: it is tried that it works, not how well.
# shellcheck source=ci/common.sh
. "$(dirname "$0")/common.sh"

VERSION=3.13
files=("$@")
((${#files[@]})) || files=(tests/test_formats.py tests/test_decoder.py tests/test_close.py
    tests/test_named_formats.py tests/test_datagram_client.py tests/test_server_life.py)

is_root || cannot "only root can make a Debian for aarch64"
need debootstrap:debootstrap qemu-user-static:qemu-aarch64-static binfmt-support:update-binfmts
tools
home=$CACHE/aarch64 root=$CACHE/aarch64/root
mkdir -p "$home"

if [[ $(uname -m) != aarch64 ]]; then
    [[ -e /proc/sys/fs/binfmt_misc/status ]] ||
        mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc ||
        cannot "this kernel starts no programs of others: binfmt_misc"
    update-binfmts --enable qemu-aarch64 || true
    [[ -e /proc/sys/fs/binfmt_misc/qemu-aarch64 ]] || cannot "qemu-aarch64 is not registered"
fi

if [[ ! -e $root/.made ]]; then
    say "makes a Debian for aarch64: some minutes"
    rm -rf "$root"
    debootstrap --arch=arm64 --variant=minbase \
        --include="ca-certificates,python$VERSION,libpython$VERSION-dev" sid "$root" \
        "$(mirror)" >"$home/debootstrap.log" || { tail "$home/debootstrap.log"; exit 1; }
    touch "$root/.made"
fi
if ! is_made "$home/needs/.made"; then
    rm -rf "$home/needs"
    "$TOOLS/python" -m pip install -q --target "$home/needs" --only-binary :all: \
        --platform manylinux_2_17_aarch64 --platform manylinux_2_28_aarch64 \
        --platform manylinux_2_34_aarch64 --python-version "$VERSION" --group test
    made "$home/needs/.made"
fi

translate "$home/framing.c"
ci/cross.sh x86_64-linux-musl >/dev/null # which fetches zig
export ZIG_GLOBAL_CACHE_DIR=$CACHE/cross/zig-global ZIG_LOCAL_CACHE_DIR=$CACHE/cross/zig-local
tree=$root/pysock
rm -rf "$tree" && mkdir "$tree"
cp -r tests pyproject.toml README.md docs examples "$tree/"
cp -r "$home/needs" "$tree/site"
cp -r pysock "$tree/site/"
"$CACHE/cross/venv/bin/python" -m ziglang cc -target aarch64-linux-gnu.2.17 -shared -O2 -g0 \
    -fPIC -Isrc "-I$root/usr/include/python$VERSION" "-I$root/usr/include" \
    "$home/framing.c" -o "$tree/site/pysock/framing.cpython-${VERSION/./}-aarch64-linux-gnu.so"

began=$SECONDS
# shellcheck disable=SC2016
unshare --mount --pid --fork bash -c '
    root=$1
    shift
    mount -t proc proc "$root/proc"
    mount -t devpts devpts "$root/dev/pts"
    exec chroot "$root" "$@"' inside "$root" \
    env -i PATH=/usr/bin:/bin LANG=C.UTF-8 PYTHONPATH=/pysock/site PYSOCK_TEST_TIME_FACTOR=10 \
    sh -euc '
        cd /pysock
        python=$1
        shift
        $python -c "import platform, sys; print(\"==\", platform.machine(), sys.version)"
        exec $python -P -m pytest -q --tb=short -p no:cacheprovider --timeout=600 "$@"
    ' pysock "python$VERSION" "${files[@]}" </dev/null
say "took $((SECONDS - began)) s"
