#!/usr/bin/env bash
# The tests on a CPython without the GIL.
#
#     ci/nogil.sh [ARGUMENT OF PYTEST...]
# shellcheck source=ci/freethreaded.sh
. "$(dirname "$0")/freethreaded.sh"

tools
build free
venv=$home/venv
if ! is_made "$venv/.made"; then
    "$home/free/bin/python$VERSION" -m venv --clear "$venv"
    "$venv/bin/python" -m pip install -q 'pip>=25.1' setuptools cython
    # What has no build for it is left out: the tests that need it say so.
    "$venv/bin/python" -m pip install -q --only-binary :all: \
        pytest pytest-timeout pytest-xdist hypothesis rich pexpect prompt_toolkit
    made "$venv/.made"
fi
"$venv/bin/python" -m pip install -q --no-build-isolation --no-deps --force-reinstall .
rm -rf build ./*.egg-info
look "$venv/bin/python"
# -X gil=0 is not used: a test that switches the GIL on is a fault.
PATH="$venv/bin:$PATH" "$venv/bin/pytest" -q -p no:cacheprovider --tb=short \
    -n "${JOBS:-2}" --dist worksteal "$@"
