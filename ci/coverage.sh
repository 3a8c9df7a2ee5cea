#!/usr/bin/env bash
# Which lines the tests run: of pysock/ with branches, in all processes that they start;
# of src/ as the C compiler counts them.
#
#     ci/coverage.sh [--append] [ARGUMENT OF PYTEST...]     default: the whole suite
#
# --append adds to what the runs before have counted.  The pages are in build/coverage/.
#
# Cython's own tracing is no use here: it parses the whole C file again in each of the many
# programs that tests start, and writes to their standard error.  So the C compiler is told
# the lines of src/, and counts; that sees functions without the GIL, and the headers, too.
# shellcheck source=ci/common.sh
. "$(dirname "$0")/common.sh"

need gcc:gcc git:git
# Some tests run programs as another user, who is to write what was counted, too.
home=${TMPDIR:-/tmp}/pysock-coverage.$(id -u)
[[ -d $home ]] || mkdir -m 755 "$home"
[[ -O $home ]] || cannot "$home is somebody else's"
venv=$home/venv
tree=$home/tree

append=
if [[ ${1-} == --append ]]; then
    append=1
    shift
fi

if ! cmp -s pyproject.toml "$venv/.made"; then
    "${PYTHON:-python3}" -m venv --clear "$venv"
    "$venv/bin/python" -m pip install -q 'pip>=25.1'
    "$venv/bin/python" -m pip install -q 'setuptools>=80' 'cython>=3.2' --group test \
        --group coverage
    cp pyproject.toml "$venv/.made"
fi
python=$venv/bin/python

# What is compiled, and counted, is a copy: nothing of it may get into a package.
lines_of() { git ls-files -z --cached --others --exclude-standard -- "$@"; }
copied=$(lines_of setup.py pyproject.toml pysock src man README.md LICENSE MANIFEST.in |
    xargs -0 sha256sum)
if [[ ! -e $venv/.copied || $(<"$venv/.copied") != "$copied" ]]; then
    say "builds the module with counters"
    [[ -z $append ]] || say "what was counted before is of other sources: it is dropped"
    append=
    rm -rf "$tree" "$venv/.copied"
    mkdir "$tree"
    lines_of | tar --null -cf - --ignore-failed-read -T - | tar -xf - -C "$tree"
    # Atomic: threads without the GIL count the same lines.
    PYSOCK_LINES=1 LDFLAGS=--coverage CFLAGS="-O0 -g0 --coverage -fprofile-update=atomic" \
        "$python" -m pip install -q --no-build-isolation --no-deps --force-reinstall "$tree"
    # It is run isolated, without what starts the measurement in all other programs.
    spawner=$("$python" -P -c 'import pysock.remote.spawner as s; print(s.__file__)')
    site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    sed -i "s|^import array\$|import sys; sys.path.append('$site'); import coverage; \
coverage.process_startup(); import array|" "$spawner"
    printf '%s' "$copied" >"$venv/.copied"
fi
package=$("$python" -P -c 'import os, pysock; print(os.path.dirname(pysock.__file__))')

if [[ -z $append ]]; then
    find "$tree" -name '*.gcda' -delete
    rm -rf "$home/data"
fi
mkdir -p "$home/data"
export PYSOCK_TEST_TIME_FACTOR=${PYSOCK_TEST_TIME_FACTOR:-5}
export PATH=$venv/bin:$PATH COVERAGE_FILE=$home/data/counts GCOV_ERROR_FILE=$home/gcov.log
: >"$GCOV_ERROR_FILE"
"$python" -P -c 'import pysock'  # so that the file of counts is there
chmod -R a+rwX "$home/data" "$tree/build" "$GCOV_ERROR_FILE"

status=0
began=$SECONDS
options=(-q --tb=short -p no:cacheprovider -n "${JOBS:-2}" --dist worksteal)
# coverage does not start in a second interpreter, and says so.
coverage run --source="$package" "$venv/bin/pytest" "${options[@]}" \
    --deselect=tests/test_subinterpreters.py "$@" || status=$?
if (($# == 0)); then
    say "with allocations that fail: what is compiled only, for coverage's tracer crashes there"
    PYSOCK_TEST_TIME_FACTOR=1 "$venv/bin/pytest" "${options[@]}" --timeout=600 -m slow \
        tests/test_faults_memory.py || status=$?
fi
say "the tests took $((SECONDS - began)) s, with status $status"

pages=$ROOT/build/coverage
rm -rf "$pages"
mkdir -p "$pages"
under=0
coverage combine -q --keep --data-file="$home/counts" "$home/data"
export COVERAGE_FILE=$home/counts
say "the Python layer: statements and branches"
coverage report || under=1
coverage html -q --fail-under=0 -d "$pages/python"
coverage xml -q --fail-under=0 -o "$pages/python.xml"

say "the compiled module: lines"
mkdir -p "$pages/compiled"
(cd "$tree" && gcovr --root . --txt - \
    --html-nested "$pages/compiled/index.html" --cobertura "$pages/compiled.xml" build) || under=1

say "the pages: build/coverage/python/index.html and build/coverage/compiled/index.html"
((status == 0)) || say "FAILED: pytest, status $status"
((under == 0)) || say "FAILED: less is covered than pyproject.toml wants"
exit $((status || under))
