#!/usr/bin/env bash
# The tests that use threads, with ThreadSanitizer, on a CPython without the GIL.
#
#     ci/tsan.sh [TEST FILE...]
# shellcheck source=ci/freethreaded.sh
. "$(dirname "$0")/freethreaded.sh"

# A test takes ten times as long, and only races matter.  What faulthandler would print of a
# slow one looks at other threads' frames, which are reported.
RACES=(threads close connection_request timeouts wait server server_turns server_races
    server_stop server_handlers server_limits client datagram_life datagram_server
    datagram_server_life datagram_request recv_view)
files=("$@")
((${#files[@]})) || for name in "${RACES[@]}"; do files+=("tests/test_$name.py"); done

tools
build free
build tsan --with-thread-sanitizer --without-ensurepip
site=$home/tsan-site python=$home/tsan/bin/python$VERSION failed=0
rm -rf "$site" && mkdir -p "$site"
[[ -d $home/venv ]] || cannot "ci/nogil.sh has not run, whose packages are used"
cp -r "$home"/venv/lib/python*/site-packages/. "$site/"
rm -rf "$site/pysock" "$site"/pysock_framing*
cp -r pysock "$site/"
# Not by setup.py: to translate it takes that Python more than five minutes.
translate "$home/framing.c"
TSAN_OPTIONS=report_bugs=0 "$python" -c 'from sysconfig import *
print(get_path("include"), get_config_var("EXT_SUFFIX"))' >"$home/where"
read -r include suffix <"$home/where"
gcc -fsanitize=thread -shared -fPIC -g -O1 -DCYTHON_VECTORCALL_TPNEW=0 -I src -I "$include" \
    "$home/framing.c" -o "$site/pysock/framing$suffix"
export PYTHONPATH=$site TSAN_OPTIONS="halt_on_error=0 exitcode=66 history_size=7 log_path=$home/tsan-log
report_thread_leaks=0
suppressions=$ROOT/ci/tsan.supp"
rm -f "$home"/tsan-log*
look "$python"
# Left out: a test in which one thread writes what another sends, a race in each of 16 MiB; and
# where a thread forks the child dies of the sanitizer, without the module as well.
PYSOCK_TEST_TIME_FACTOR=${PYSOCK_TEST_TIME_FACTOR:-10} "$TOOLS/python" ci/each.py \
    -j "${JOBS:-2}" --limit 1800 --times "$home/times.json" -- "$python" -P -m pytest -q \
    -p no:cacheprovider --tb=short --timeout=600 -o faulthandler_timeout=0 \
    -k "not (test_buffer_changed_while_it_is_sent or fork)" -- "${files[@]}" || failed=1
reports=("$home"/tsan-log*)
if ((${#reports[@]})); then
    say "$(cat "${reports[@]}" | grep -c '^WARNING: ThreadSanitizer') reports:"
    cat "${reports[@]}" | grep -h '^SUMMARY' | sort | uniq -c | sort -rn
    failed=1
else
    say "ThreadSanitizer has nothing to report"
fi
exit "$failed"
