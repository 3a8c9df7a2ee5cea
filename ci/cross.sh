#!/usr/bin/env bash
# The module compiled and linked for every platform that wheels are made for, by zig.
#
#     ci/cross.sh [TARGET...]
#
# Nothing is run here: see windows.sh and aarch64.sh.
# shellcheck source=ci/common.sh
. "$(dirname "$0")/common.sh"

need file:file binutils:nm
tools
home=$CACHE/cross
mkdir -p "$home"
export ZIG_GLOBAL_CACHE_DIR=$home/zig-global ZIG_LOCAL_CACHE_DIR=$home/zig-local
if [[ ! -e $home/venv/.made ]]; then
    "$TOOLS/python" -m venv --clear "$home/venv"
    "$home/venv/bin/python" -m pip install -q ziglang
    touch "$home/venv/.made"
fi
zig() { "$home/venv/bin/python" -m ziglang "$@"; }

# This machine's headers do for all systems but Windows: the types are as wide there.
headers=$("$TOOLS/python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
[[ -e $headers/Python.h ]] || cannot "Python's headers are missing: python3-dev"

# For arm64 a library of the same names as the one for x86_64, which is what there is.
import_library() { # import_library PYTHON
    {
        printf 'LIBRARY python313.dll\nEXPORTS\n'
        nm "$1/libs/python313.lib" 2>/dev/null | awk '
            $2 == "T" { code[$3] = 1 }
            $3 ~ /^__imp_/ { name[substr($3, 7)] = 1 }
            END { for (n in name) print n (n in code ? "" : " DATA") }'
    } >"$home/python313.def"
    zig dlltool -m arm64 -d "$home/python313.def" -l "$home/python313.lib"
}

compile() { # compile TARGET
    local target=$1 out=$home/$1.so flags=(-fPIC "-I$headers") found
    [[ $target != *-musl ]] || flags+=(-Wno-sign-compare) # its own CMSG_NXTHDR
    if [[ $target == *-macos ]]; then
        flags+=(-undefined dynamic_lookup)
    elif [[ $target == *-windows-* ]]; then
        found=("$CACHE"/windows/python3.13/*/include)
        ((${#found[@]})) || {
            say "cannot link $target: ci/windows.sh has not run, which fetches the headers"
            return "$CANNOT"
        }
        found=("${found[0]%/include}") out=$home/$target.pyd
        flags=("-I${found[0]}/include" -lws2_32 "${found[0]}/libs/python313.lib")
        [[ $target != aarch64-* ]] || {
            import_library "${found[0]}" || return 1
            flags[2]=$home/python313.lib
        }
    fi
    zig cc -target "$target" -shared -O2 -g0 -Wall -Wextra -Isrc "$home/framing.c" \
        "${flags[@]}" -o "$out" || return 1
    say "$target: $(file -b "$out" | cut -d, -f1-2), $(stat -c %s "$out") bytes"
}

targets=("$@")
((${#targets[@]})) || targets=(x86_64-linux-gnu.2.17 x86_64-linux-musl aarch64-linux-gnu.2.17
    aarch64-linux-musl x86_64-macos aarch64-macos x86_64-windows-gnu aarch64-windows-gnu)
say "zig $(zig version), headers of $("$TOOLS/python" -V)"
translate "$home/framing.c"
failed=0
for target in "${targets[@]}"; do
    compile "$target" || { say "$target: FAILED"; failed=1; }
done
exit "$failed"
