#!/usr/bin/env bash
# The compiled module under what finds wrong accesses to memory, and memory that is lost.
#
#     ci/memory.sh [PART...] [-- ARGUMENT OF PYTEST...]
#
# The parts, all of them by default:
#     headers     src/*.h by gcc's analyser, and with warnings of every conversion
#     asan        the tests with AddressSanitizer and UndefinedBehaviorSanitizer
#     valgrind    some cases of the tests of formats, decoder and frames with memcheck
#     debug       the tests of connections with Python's own checks: -X dev
#
# All of them take eight minutes where two processors are idle.
#
# `asan` leaves files out whose tests run in other programs, or call no compiled code: of
# the command line, the documentation, packaging, remote commands, other libraries.  With
# arguments it runs what they say, as `ci/memory.sh asan -- tests`, which is all of them.
# In no case does it run those that count how much memory is taken: ASan takes more.
# shellcheck source=ci/common.sh
. "$(dirname "$0")/common.sh"

parts=() arguments=()
while (($#)) && [[ $1 != -- ]]; do parts+=("$1"); shift; done
(($#)) && shift && arguments=("$@")
((${#parts[@]})) || parts=(headers asan valgrind debug)

COUNTING=(flat_memory.py server_resident.py hostile_frames.py::test_memory_of
    memory.py::test_{many,header_that_is,idle,file,rest_of}
    server_tls_programs.py::test_{idle,memory})
# What asan leaves out unless it is asked for.
LEAVE=('cli' 'cli_*' 'docs*' 'readme*' 'packaging*' 'example*' 'man' 'deploy' 'systemd'
    'legacy*' 'remote*' 'interop*' 'layers' 'testing*' 'keyfile' 'hints' 'prefork*' 'proxy')
# Where bytes become messages, and messages bytes.
CODEC=(tests/test_{decoder,formats,named_formats,primitives,recv_view}.py)
CORE=(tests/test_{connection{,_ends,_options,_request},decoder,formats,primitives,recv_view}.py
    tests/test_{threads,thread_races,close,timeouts,files,fds,server,server_ends}.py
    tests/test_datagram_{client,server}.py)

OPTIONS=(-q -p no:cacheprovider --tb=short -o faulthandler_timeout=300)
BESIDE=(-n "${JOBS:-2}" --dist worksteal)

need gcc:gcc
[[ " ${parts[*]} " != *" valgrind "* ]] || need valgrind:valgrind
tools
home=$CACHE/memory venv=$CACHE/memory/venv built=()
mkdir -p "$home"
headers=$("$TOOLS/python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
[[ -e $headers/Python.h ]] || cannot "Python's headers are missing: python3-dev"
unset PYTHONPATH
export PYTHONDONTWRITEBYTECODE=1

# An environment with what the tests import.
environment() {
    if ! is_made "$venv/.made"; then
        "$TOOLS/python" -m venv --clear "$venv" &&
            "$venv/bin/python" -m pip install -q 'pip>=25.1' &&
            "$venv/bin/python" -m pip install -q --group test &&
            made "$venv/.made" || return 1
    fi
}

build() { # build NAME FLAG...: the package with these flags of the compiler, in $home/NAME
    local name=$1 began=$SECONDS into suffix
    shift
    [[ " ${built[*]} " != *" $name "* ]] || return 0
    built+=("$name")
    into=$home/$name/pysock
    suffix=$("$venv/bin/python" -c 'import sysconfig
print(sysconfig.get_config_var("EXT_SUFFIX"))')
    rm -rf "${home:?}/$name"
    mkdir "$home/$name"
    cp -r pysock "$into"
    rm -f "$into"/framing.*.so "$into/framing$suffix"
    # -O1 would take three times as long to compile as it saves.
    gcc -shared -fPIC -g -O0 -fno-omit-frame-pointer "$@" -Isrc -isystem "$headers" \
        "$home/framing.c" -o "$into/framing$suffix" || return 1
    say "built for $name in $((SECONDS - began)) s"
}

# Once for all: the C that the parts compile.
C_is_made() {
    [[ -z ${translated:-} ]] || return 0
    environment && translate "$home/framing.c" || return 1
    translated=yes
}

check_headers() {
    local header
    for header in src/*.h; do printf '#include "%s"\n' "${header#src/}"; done |
        gcc -x c - -c -o /dev/null -O2 -Isrc -isystem "$headers" -fkeep-inline-functions \
            -Werror -Wall -Wextra -Wshadow -Wconversion -Wsign-conversion -fanalyzer || return 1
    say "src/*.h: nothing to report"
}

# What a sanitizer says goes to files: tests of other processes would swallow it.  UBSan has
# its own only where it shares no function with ASan.  Of a SIGSEGV faulthandler tells, and
# shells that tests end by one, with ASan in them too, are to end by it.
check_asan() {
    local status=0 log=$home/asan-log files=("${arguments[@]}") reports name
    C_is_made && build asan -fsanitize=address,undefined -fno-sanitize-recover=all \
        -static-libubsan -Wl,--exclude-libs,ALL || return 1
    ((${#files[@]})) || for name in "${LEAVE[@]}"; do
        files+=("--ignore-glob=*/test_$name.py")
    done
    for name in "${COUNTING[@]}"; do files+=("--deselect=tests/test_$name"); done
    rm -f "$log"*
    env PYTHONPATH="$home/asan" LD_PRELOAD="$(gcc -print-file-name=libasan.so)" \
        PYTHONMALLOC=malloc \
        ASAN_OPTIONS="handle_segv=0 detect_leaks=0 allocator_may_return_null=1 log_path=$log" \
        UBSAN_OPTIONS="print_stacktrace=1 halt_on_error=1 log_path=$log-undefined" \
        PYSOCK_TEST_TIME_FACTOR="${PYSOCK_TEST_TIME_FACTOR:-4}" \
        PYSOCK_RACE_SECONDS="${PYSOCK_RACE_SECONDS:-4}" PATH="$venv/bin:$PATH" \
        pytest "${OPTIONS[@]}" "${BESIDE[@]}" --timeout=240 "${files[@]}" || status=1
    # Of memory that is not to be had it warns only, and some tests ask for it.
    mapfile -t reports < <(grep -lsv 'WARNING: AddressSanitizer failed to allocate' \
        "$log"* /dev/null)
    if ((${#reports[@]})); then
        cat "${reports[@]}"
        say "${#reports[@]} reports of sanitizers"
        return 1
    fi
    return "$status"
}

# Only what has one of our frames counts: CPython's own reports are another matter.
check_valgrind() {
    local files=("${arguments[@]}") status=0 cases=0
    C_is_made && build plain || return 1
    ((${#files[@]})) || { files=("${CODEC[@]}"); cases=4; }
    rm -rf "$home"/valgrind-* "$home/pycache"
    # --undef-value-errors: CPython's conversions of numbers would taint most that follows.
    local memcheck=(valgrind -q --leak-check=full --show-leak-kinds=definite --num-callers=40
        --undef-value-errors=no --child-silent-after-fork=yes
        --xml=yes "--xml-file=$home/valgrind-%p")
    local runs=("$venv/bin/python" -P -m pytest "${OPTIONS[@]}" --timeout=1200
        -o faulthandler_timeout=0 "${files[@]}")
    local with=(env -u PYTHONDONTWRITEBYTECODE PYTHONPYCACHEPREFIX="$home/pycache"
        PYTHONPATH="$home/plain" PYTHONMALLOC=malloc
        PYSOCK_TEST_TIME_FACTOR="${PYSOCK_TEST_TIME_FACTOR:-30}"
        PYSOCK_TEST_EXAMPLES="${PYSOCK_TEST_EXAMPLES:-5}"
        PYSOCK_TEST_CASES="${PYSOCK_TEST_CASES:-$cases}")
    # To compile the tests would take longer there than to run them.
    "${with[@]}" "${runs[@]}" --collect-only >/dev/null || status=1
    "${with[@]}" "${memcheck[@]}" "${runs[@]}" || status=1
    "$venv/bin/python" ci/memcheck.py "$home"/valgrind-* || status=1
    return "$status"
}

check_debug() {
    local files=("${arguments[@]}")
    C_is_made && build plain || return 1
    ((${#files[@]})) || files=("${CORE[@]}")
    env PYTHONPATH="$home/plain" PYTHONDEVMODE=1 PYTHONMALLOC=debug \
        PYSOCK_TEST_TIME_FACTOR="${PYSOCK_TEST_TIME_FACTOR:-2}" \
        "$venv/bin/pytest" "${OPTIONS[@]}" "${BESIDE[@]}" "${files[@]}"
}

told=() failed=0
for part in "${parts[@]}"; do
    began=$SECONDS
    how=passed
    case $part in
        headers) check_headers || how=FAILED ;;
        asan) check_asan || how=FAILED ;;
        valgrind) check_valgrind || how=FAILED ;;
        debug) check_debug || how=FAILED ;;
        *) cannot "there is no part $part, only headers, asan, valgrind and debug" ;;
    esac
    [[ $how == passed ]] || failed=1
    told+=("$part $how ($((SECONDS - began)) s)")
done
printf '== %s\n' "${told[@]}"
exit "$failed"
