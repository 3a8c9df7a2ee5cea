#!/usr/bin/env bash
# The tests that use threads, with ThreadSanitizer, on a CPython without the GIL.
#
#     ci/tsan.sh [TEST FILE...]
# shellcheck source=ci/freethreaded.sh
. "$(dirname "$0")/freethreaded.sh"

# A test takes ten times as long, and only races matter.
RACES=(threads close connection_request timeouts wait memory server server_turns server_races
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
PYTHONPATH=$site TSAN_OPTIONS=report_bugs=0 CFLAGS=-g "$python" setup.py -q build_ext \
    --build-lib "$site" --build-temp "$home/tsan-build" 2>&1 | tail -n 3
rm -rf build src/framing.c
export PYTHONPATH=$site TSAN_OPTIONS="halt_on_error=0 exitcode=66 history_size=4 log_path=$home/tsan-log"
rm -f "$home"/tsan-log*
look "$python"
PYSOCK_TEST_TIME_FACTOR=${PYSOCK_TEST_TIME_FACTOR:-20} "$TOOLS/python" ci/each.py \
    --limit 1800 -- "$python" -P -m pytest -q -p no:cacheprovider --tb=short \
    --timeout=600 -- "${files[@]}" || failed=1
reports=("$home"/tsan-log*)
if ((${#reports[@]})); then
    say "$(cat "${reports[@]}" | grep -c '^WARNING: ThreadSanitizer') reports:"
    cat "${reports[@]}" | grep -h '^SUMMARY' | sort | uniq -c | sort -rn
    failed=1
else
    say "ThreadSanitizer has nothing to report"
fi
exit "$failed"
