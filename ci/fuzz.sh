#!/usr/bin/env bash
# Fuzz what reads bytes that come from outside, the compiled module under AddressSanitizer.
#
#     ci/fuzz.sh [-t SECONDS] [TARGET...]   so long each, or so that all take two minutes
#     ci/fuzz.sh -s ...                     from one seed, so that the same code gets the same
#     ci/fuzz.sh -r TARGET FILE...          give a target these files once more
#     ci/fuzz.sh -m [TARGET...]             shrink the corpus to what reaches something new
#
# What is found stays in PYSOCK_CACHE for the next time, but with -s, which begins with the
# repository's corpus alone.  tests/fuzz/README.md tells the rest.
# shellcheck source=ci/common.sh
. "$(dirname "$0")/common.sh"

CLANG=${CLANG:-clang-19}
home=$CACHE/fuzz
grown=$home/corpus found=$home/found
ALL=120                # seconds for all targets, where nobody says otherwise
MEMORY=256             # MB for a process, of which Python and the sanitizer take 100
ALLOCATION=128         # MB at once
FLAGS=(-shared -fPIC -O1 -gline-tables-only -fno-omit-frame-pointer -Isrc
    -fsanitize=fuzzer-no-link -fsanitize=address -fsanitize=undefined
    -fno-sanitize-recover=undefined
    # Cython calls what is overridden by the type of its base, and adds 0 to NULL.
    -fno-sanitize=function -fno-sanitize=pointer-overflow)

seconds="" mode=fuzz seed=()
while getopts t:srm option; do
    case $option in
        t) seconds=$OPTARG ;;
        s) seed=(-seed=1) ;;
        r) mode=repeat ;;
        m) mode=merge ;;
        *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))

environment() {
    local python=${PYTHON:-python3} minor
    minor=$("$python" -c 'import sys; print(*sys.version_info[:2])')
    venv=$home/venv-${minor/ /.}
    if [[ ! -e $venv/.made ]]; then
        "$python" -m venv --clear "$venv"
        "$venv/bin/python" -m pip install -q --only-binary :all: atheris ||
            cannot "atheris has no wheel for Python ${minor/ /.}: set PYTHON"
        touch "$venv/.made"
    fi
}

# The module with what a fuzzer and ASan want in it, and the rest of the package beside it.
build() {
    local include suffix key
    key=$({ cat src/*.pyx src/*.pxi src/*.h && "$CLANG" --version && echo "${FLAGS[@]}"; } |
        sha256sum)
    site=$venv/site
    mkdir -p "$site"
    include=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    suffix=$("$venv/bin/python" -c 'import sysconfig
print(sysconfig.get_config_var("EXT_SUFFIX"))')
    [[ -e $include/Python.h ]] || cannot "Python's headers are missing ($include)"
    if [[ ! -e $site/key || $(<"$site/key") != "$key" ]]; then
        say "compiles the module with $CLANG"
        rm -rf "$site" && mkdir -p "$site/pysock"
        translate "$home/framing.c"
        "$CLANG" "${FLAGS[@]}" -I"$include" "$home/framing.c" -o "$site/framing$suffix"
        printf '%s\n' "$key" >"$site/key"
    fi
    rm -rf "$site/pysock"
    cp -r pysock "$site/"
    cp "$site/framing$suffix" "$site/pysock/"
}

# sanitized COMMAND...: with atheris' libFuzzer and ASan in one, before all others.
sanitized() {
    local options=detect_leaks=0:quarantine_size_mb=16:max_allocation_size_mb=$ALLOCATION
    LD_PRELOAD=$asan PYTHONMALLOC=malloc PYTHONPATH=$site PYTHONDONTWRITEBYTECODE=1 \
        PYTHONHASHSEED=0 ASAN_OPTIONS=$options UBSAN_OPTIONS=print_stacktrace=1 "$@"
}

target() { sanitized "$venv/bin/python" -P tests/fuzz/run.py "$@"; }

# A line about one target's run; its log has the rest.
report() {
    local name=$1 log=$2 last
    last=$(grep -a -E '^#[0-9]+.* cov: ' "$log" | tail -n 1)
    printf '%-22s %9s runs %6s a second  cov %5s  corpus %s  %s MB\n' "$name" \
        "$(stat_of number_of_executed_units "$log")" \
        "$(stat_of average_exec_per_sec "$log")" \
        "$(sed -n 's/.* cov: \([0-9]*\).*/\1/p' <<<"$last")" \
        "$(sed -n 's/.* corp: \([^ ]*\).*/\1/p' <<<"$last")" \
        "$(stat_of peak_rss_mb "$log")"
}

# What was wrong: the exception of a target, or what a sanitizer or libFuzzer found.
why() {
    if grep -a -q 'Uncaught Python exception' "$1"; then
        sed -n '/Uncaught Python exception/,/^$/p' "$1" | tail -n 40
    else
        grep -a -A 15 -E 'runtime error:|ERROR: |^[A-Za-z]*Error: ' "$1" | head -n 40
    fi
}

stat_of() { sed -n "s/^stat::$1: *//p" "$2" | tail -n 1; }

command -v "$CLANG" >/dev/null || need "clang-19 libclang-rt-19-dev:$CLANG"
tools
environment
asan=$("$venv/bin/python" -c 'import atheris, pathlib
print(pathlib.Path(atheris.__file__).parent.parent / "asan_with_fuzzer.so")')
[[ -e $asan ]] || cannot "atheris has come without asan_with_fuzzer.so"
build

if [[ $mode == repeat ]]; then
    target "$@"
    exit
fi

names=("$@")
((${#names[@]})) || mapfile -t names < <(target --list)
seconds=${seconds:-$((ALL / ${#names[@]}))}
mkdir -p "$found" "$grown"
failed=0
for name in "${names[@]}"; do
    own=$grown/$name log=$home/$name.log
    if ((${#seed[@]})); then
        own=$home/seeded/$name
        rm -rf "$own"
    fi
    mkdir -p "$own" "tests/fuzz/corpus/$name"
    target --words "$name" >"$home/$name.dict"
    if [[ $mode == merge ]]; then
        rm -rf "$own.small" && mkdir "$own.small"
        target --fuzz "$name" -merge=1 "$own.small" "tests/fuzz/corpus/$name" "$own" \
            >"$log" 2>&1 || { failed=1 && tail -n 20 "$log"; continue; }
        cp "tests/fuzz/corpus/$name"/crash-* "$own.small/" 2>/dev/null || true
        rm -rf "tests/fuzz/corpus/$name" && mv "$own.small" "tests/fuzz/corpus/$name"
        du -sb "tests/fuzz/corpus/$name"
        continue
    fi
    if target --fuzz "$name" "${seed[@]}" -max_total_time="$seconds" -timeout=10 \
        -rss_limit_mb="$MEMORY" -print_final_stats=1 -dict="$home/$name.dict" \
        -artifact_prefix="$found/$name-" \
        "$own" "tests/fuzz/corpus/$name" >"$log" 2>&1; then
        report "$name" "$log"
        continue
    fi
    failed=1
    why "$log"
    kept=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
    say "$name has failed; to repeat it: ci/fuzz.sh -r $name $kept"
done
((failed)) || say "nothing was found"
exit "$failed"
