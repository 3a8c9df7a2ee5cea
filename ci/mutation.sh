#!/usr/bin/env bash
# Whether tests notice small faults: mutmut makes them in one module after another, and runs
# the tests that call the changed function, until one fails.
#
#     ci/mutation.sh [MODULE...]      as keyfile, or remote/fields; default: all below
#
# A fault that no test notices has survived; build/mutation/MODULE.txt shows each of them.
# mutmut leaves out what stands outside functions, and functions with most decorators.
# shellcheck source=ci/common.sh
. "$(dirname "$0")/common.sh"

LEAST=80 # per cent that must be killed of each module

# What is to kill the faults of each module: tests that take seconds, the quickest first.
declare -A TESTS=(
    [keyfile]="keyfile auth_keys"
    [hints]="hints named_formats"
    [formats]="named_formats"
    [errors]="errors connection_ends"
    [penalties]="penalties"
    [proxy]="proxy proxy_trusted"
    [challenge]="challenge mpconnection"
    [auth]="auth auth_states auth_keys"
    [greeting]="greeting server_handshake hostile_proof"
    [handshake]="server_handshake server_tls client_tls hostile_handshake hostile_proof"
    [mpconnection]="mpconnection"
    [remote/fields]="remote_protocol"
    [remote/protocol]="remote_protocol"
    [remote/conversation]="remote_conversation"
    [remote/talk]="remote_talk remote_hostile remote_run"
    [remote/policy]="remote_policy remote_users remote_limits"
)
# These try very many bytes made at random: each survivor would have to go through them all.
QUICK="not (test_any_messages_are_taken_or_refused or test_a_line_with_a_byte_changed \
or test_what_is_waited_for_can_still_come or test_an_answer_stays_the_same)"
ORDER=(keyfile hints formats errors penalties challenge auth proxy greeting handshake
    mpconnection remote/fields remote/protocol remote/conversation remote/talk remote/policy)

modules=("$@")
((${#modules[@]})) || modules=("${ORDER[@]}")
for module in "${modules[@]}"; do
    [[ -n ${TESTS[$module]-} ]] || cannot "no tests are named for $module: see ${ORDER[*]}"
done

need gcc:gcc git:git
home=$CACHE/mutation
venv=$home/venv
mkdir -p "$home"
if ! cmp -s pyproject.toml "$venv/.made"; then
    "${PYTHON:-python3}" -m venv --clear "$venv"
    "$venv/bin/python" -m pip install -q 'pip>=25.1'
    "$venv/bin/python" -m pip install -q 'setuptools>=80' 'cython>=3.2' --group test \
        --group mutation
    cp pyproject.toml "$venv/.made"
fi

# The module is compiled in a copy, once for all; the rest is copied anew.
compiled=$(sha256sum setup.py src/* | sha256sum)
if [[ ! -e $home/compiled || $(<"$home/compiled") != "$compiled" ]]; then
    say "builds the module"
    rm -rf "$home/build" "$home/compiled"
    mkdir "$home/build"
    git ls-files -z --cached --others --exclude-standard |
        tar --null -cf - --ignore-failed-read -T - | tar -xf - -C "$home/build"
    (cd "$home/build" && CFLAGS="-O1 -g0" "$venv/bin/python" setup.py -q build_ext --inplace)
    printf '%s' "$compiled" >"$home/compiled"
fi

pages=$ROOT/build/mutation
mkdir -p "$pages"
work=$home/work
export PATH=$venv/bin:$PATH PYSOCK_TEST_TIME_FACTOR=${PYSOCK_TEST_TIME_FACTOR:-2}
# Programs that tests start have the same fault.
export PYTHONPATH=$work/mutants:$ROOT/ci/mutation
PYSOCK_MUTATION_CALLS=$(mktemp)
export PYSOCK_MUTATION_CALLS
trap 'rm -f "$PYSOCK_MUTATION_CALLS"' EXIT
chmod 666 "$PYSOCK_MUTATION_CALLS"

# In a copy with mutmut's settings; its own results would be of another selection of tests.
# What hangs is for pytest to end: a slow machine is no fault that was noticed.
prepare() { # prepare MODULE
    local name tests=()
    rm -rf "$work"
    mkdir -p "$work/mutants" # Python forgets what is not there when it starts
    git ls-files -z --cached --others --exclude-standard |
        tar --null -cf - --ignore-failed-read -T - | tar -xf - -C "$work"
    cp "$home"/build/pysock/framing.*.so "$work/pysock/"
    for name in ${TESTS[$1]}; do tests+=("\"tests/test_$name.py\","); done
    cat >>"$work/pyproject.toml" <<END

[tool.mutmut]
source_paths = ["pysock"]
only_mutate = ["pysock/$1.py"]
also_copy = ["README.md", "docs", "examples", "src"]
pytest_add_cli_args_test_selection = [${tests[*]}]
pytest_add_cli_args = [
    "-p", "no:cacheprovider", "-p", "calls_elsewhere", "--timeout=60", "-k", "$QUICK"
]
timeout_constant = 30.0
timeout_multiplier = 5.0
use_git_change_detection = false
END
}

told=() failed=0 all=0 of=0
for module in "${modules[@]}"; do
    began=$SECONDS
    prepare "$module"
    log=$home/${module//\//.}.log
    if ! (cd "$work" && mutmut run --max-children "${JOBS:-2}" >"$log" 2>&1); then
        tail -n 30 "$log"
        told+=("$module could not be tried")
        failed=1
        continue
    fi
    page=$pages/${module//\//.}.txt
    line=$(cd "$work" && python "$ROOT/ci/mutation/result.py" "$page")
    told+=("$module: $line, $((SECONDS - began)) s")
    say "${told[-1]}"
    read -r percent _ noticed _ total _ <<<"$line"
    ((percent >= LEAST)) || failed=1
    of=$((of + total)) all=$((all + noticed))
done
say "in all $all of $of:"
printf '== %s\n' "${told[@]}"
exit "$failed"
