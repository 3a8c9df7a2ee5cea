"""The completion of this command line for bash, also the old one of macOS.

bash hands words over that readline has cut at `=` and `:` too; the script joins them, finds
the verb and what the word at the cursor is for, and has bash list what that can be.
"""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterable, Iterator

from . import grammar
from .grammar import Option, Value, Verb

__all__ = ["script"]

_GLUE = "\0"  # a space at which no line is broken

_SCRIPT = r"""# bash completion for pysock, as `pysock completion bash` prints it

# Sets kind, and words, to what option $2 of verb $1 takes; fails where it takes nothing.
_pysock_value()
{
    kind=
    case "$1 $2" in
@VALUES@
        *) return 1 ;;
    esac
}

# Sets kind, and words, to what verb $1 takes at place $2; "--" is the place after that.
_pysock_argument()
{
    kind=
    case "$1 $2" in
@ARGUMENTS@
    esac
}

# Sets kind and words to the options of verb $1.
_pysock_options()
{
    kind=
    case $1 in
@OPTIONS@
    esac
}

_pysock()
{
    local line=${COMP_LINE:0:COMP_POINT} given=() count=-1 piece space i
    for ((i = 0; i <= COMP_CWORD; i++)); do
        space=${line%%[![:space:]]*}
        line=${line#"$space"}
        if [[ $count -lt 0 || -n $space ]]; then
            ((++count))
            given[count]=
        fi
        piece=${COMP_WORDS[i]}
        ((i < COMP_CWORD)) || piece=$line  # no further than the cursor
        given[count]+=$piece
        line=${line#"$piece"}
    done

    local verb=${given[1]} cur=${given[count]} kind= words= place=1 after= taking= prefix=
    COMPREPLY=()
    if ((count == 1)); then
        verb=
        [[ $cur == -* ]] || place=verb
    fi
    for ((i = 2; i < count; i++)); do
        if [[ $after ]]; then
            [[ $after != rest ]] || after=file  # for the arguments of the command
        elif [[ $taking && ${given[i]} != -* ]]; then
            taking=
        else
            taking=
            case ${given[i]} in
                --)
                    _pysock_argument "$verb" --
                    after=${kind:-none}
                    ;;
                --*=*) ;;
                -*)
                    if _pysock_value "$verb" "${given[i]}"; then
                        taking=${given[i]}
                        [[ $kind != rest ]] || after=rest
                    fi
                    ;;
                *) ((++place)) ;;
            esac
        fi
    done

    if [[ $after ]]; then
        kind=$after
    elif [[ $cur == --*=* ]]; then
        [[ $COMP_WORDBREAKS == *=* ]] || prefix=${cur%%=*}=
        _pysock_value "$verb" "${cur%%=*}"
        cur=${cur#*=}
    elif [[ $cur == -* ]]; then
        _pysock_options "$verb"
    elif [[ $taking ]]; then
        _pysock_value "$verb" "$taking"
    else
        _pysock_argument "$verb" "$place"
        [[ $kind ]] || _pysock_options "$verb"
    fi

    case $kind in
        word) COMPREPLY=($(compgen -P "$prefix" -W "$words" -- "$cur")) ;;
        user) COMPREPLY=($(compgen -P "$prefix" -u -- "$cur")) ;;
        command | rest) COMPREPLY=($(compgen -P "$prefix" -c -- "$cur")) ;;
        # What readline does by itself it does best; bash 3 has no compopt.
        folder) compopt -o dirnames 2>/dev/null || COMPREPLY=($(compgen -d -- "$cur")) ;;
        file) compopt -o default 2>/dev/null || COMPREPLY=($(compgen -f -- "$cur")) ;;
    esac
}

complete -F _pysock pysock"""


def script() -> str:
    """Return the script."""
    top, verbs = grammar.top(), grammar.verbs()
    values = [
        (f"{verb.name} {name}", _value(option))
        for verb in verbs
        for option in verb.options
        for name in option.names
        if option.value is not None
    ]
    values.sort(key=lambda found: found[1])
    arguments = [(" verb", _kind(top.arguments[0].value))]
    arguments += [found for verb in verbs for found in _arguments(verb)]
    arguments.sort(key=lambda found: found[0].endswith("*"))  # what fits all comes last
    options = [
        (verb.name or '""', f"kind=word words='{' '.join(_flags(verb))}'")
        for verb in [top, *verbs]
    ]
    return (
        _SCRIPT.replace("@VALUES@", _cases(values))
        .replace("@ARGUMENTS@", _cases(arguments))
        .replace("@OPTIONS@", _cases(options))
    )


def _cases(pairs: Iterable[tuple[str, str]]) -> str:
    """Return the branches of a `case`: (pattern, what is done for it) in this order."""
    lines = []
    for action, group in itertools.groupby(pairs, key=lambda pair: pair[1]):
        patterns = textwrap.wrap(
            " | ".join(pattern.replace(" ", _GLUE) for pattern, _ in group),
            80,
            break_long_words=False,
            break_on_hyphens=False,
        )
        head = " \\\n    ".join(patterns).replace(_GLUE, "\\ ")
        lines.append(f"{head}) {action} ;;")
    return textwrap.indent("\n".join(lines), " " * 8)


def _value(option: Option) -> str:
    assert option.value is not None
    return "kind=rest" if option.rest else _kind(option.value)


def _kind(value: Value) -> str:
    words = f" words='{' '.join(value.words)}'" if value.words else ""
    # What follows the colon of unix: is a word to readline, and so a path.
    kind = "file" if value.kind == "address" else value.kind or "text"
    return f"kind={kind}{words}"


def _arguments(verb: Verb) -> Iterator[tuple[str, str]]:
    for place, argument in enumerate(verb.arguments, 1):
        kind = _kind(argument.value)
        last = place == len(verb.arguments)
        if argument.value.kind == "command":
            yield f"{verb.name} --", "kind=rest"
        elif argument.many:
            yield f"{verb.name} *", kind
        else:
            yield f"{verb.name} {place}", kind
            if last:
                yield f"{verb.name} --", kind


def _flags(verb: Verb) -> list[str]:
    takes_a_command = any(argument.value.kind == "command" for argument in verb.arguments)
    return [*verb.flags, *(["--"] if takes_a_command else [])]
