#!/usr/bin/env bash
# Threads: the tests that several threads can run at once, and the order of all locks.
#
#     ci/threads.sh [parallel|locks]
#
# The module is built so that it tells of each lock that it takes.  The first half runs each
# test in some threads at a time, with pytest-run-parallel, the second those of servers and
# clients; then two locks that were taken in different orders are looked for.
# shellcheck source=ci/common.sh
. "$(dirname "$0")/common.sh"

[[ $(uname) == Linux ]] || cannot "the watch on locks is preloaded, as Linux does it"
need gcc:gcc
home=$CACHE/threads
venv=$home/venv site=$home/site log=$home/locks.log
mkdir -p "$home"

# Left out are files whose tests start programs or servers by the dozen, or look at what all
# of the process holds: its memory, descriptors, signals, hooks, warnings.
PARALLEL=(formats named_formats decoder errors hints primitives connection connection_ends
    connection_request connection_options timeouts files recv_view wait threads close
    seqpacket challenge auth_states auth limits proxy address remote_protocol
    remote_conversation interop_stdlib)
THREADS=4

# What takes a lock: by all kinds of servers and clients, and from all sides at once.
LOCKS=(threads close connection_request server server_turns server_handlers server_races
    server_stop server_life server_tls client client_tls_again datagram_life
    datagram_server_life remote_many mpconnection unixpath health prefork)

files() { # files NAME...: their paths
    local name
    for name; do printf 'tests/test_%s.py\n' "$name"; done
}

build() { # the package, whose locks tell; and what they tell it to
    if [[ ! -e $home/framing.c || -n $(find src setup.py -newer "$home/framing.c") ]]; then
        "$TOOLS/cython" -3 --line-directives -o "$home/framing.c" src/framing.pyx
    fi
    rm -rf "$site"
    mkdir -p "$site"
    cp -r pysock "$site/"
    local options=(-shared -fPIC -O0 "-I$include") # -O1 takes a minute
    gcc "${options[@]}" -Isrc -include ci/locks.h "$home/framing.c" \
        -o "$site/pysock/framing$suffix"
    gcc "${options[@]}" -Wall -Wextra ci/locks.c -o "$home/liblocks.so"
}

run() { # run ARGUMENT...: pytest with a watch on locks, but a test that has them in disorder
    LD_PRELOAD=$home/liblocks.so LOCKS_LOG=$log PYTHONPATH=$site:$ROOT/ci \
        "$venv/bin/python" -P -m pytest -q -p no:cacheprovider -p locks --tb=short \
        --timeout=300 -k "not callbacks_that_wait_for_each_other" "$@"
}

tools
if ! is_made "$venv/.made"; then
    "$TOOLS/python" -m venv --clear "$venv"
    "$venv/bin/python" -m pip install -q 'pip>=25.1'
    "$venv/bin/python" -m pip install -q --group test --group threads
    made "$venv/.made"
fi
where() { "$venv/bin/python" -c "import sysconfig as s; print(s.$1)"; }
include=$(where 'get_path("include")') suffix=$(where 'get_config_var("EXT_SUFFIX")')
[[ -e $include/Python.h ]] || cannot "Python's headers are missing: python3-dev"
prove() { # the watch must find two locks that are taken in different orders
    rm -f "$log"
    LD_PRELOAD=$home/liblocks.so LOCKS_LOG=$log PYTHONPATH=$ROOT/ci "$venv/bin/python" -P -c '
import locks
a, b = (locks.Recorded(locks._lock(), name) for name in "ab")
with a, b: pass
with b, a: pass'
    ! "$venv/bin/python" ci/locks.py "$log" >"$home/proof" && grep -q "DIFFERENT" "$home/proof"
}

build
prove || { say "the watch on locks does not find what it should"; exit 1; }
rm -f "$log"
failed=0
case ${1:-all} in
parallel | all)
    say "tests in $THREADS threads at once"
    mapfile -t paths < <(files "${PARALLEL[@]}")
    run --parallel-threads="$THREADS" "${paths[@]}" || failed=1
    ;;&
locks | all)
    say "tests of servers and clients, with a watch on locks"
    mapfile -t paths < <(files "${LOCKS[@]}")
    run "${paths[@]}" || failed=1
    ;;&
parallel | locks | all) "$venv/bin/python" ci/locks.py "$log" || failed=1 ;;
*) cannot "there is no part $1" ;;
esac
exit "$failed"
