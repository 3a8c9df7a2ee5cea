"""The completion of this command line for zsh, by its own `_arguments`."""

from __future__ import annotations

from . import grammar
from .grammar import Argument, Option, Value, Verb, brief

__all__ = ["script"]

_SCRIPT = """\
#compdef pysock
# zsh completion for pysock, as `pysock completion zsh` prints it

_pysock()
{
    local curcontext=$curcontext state line ret=1
    local -A opt_args
    local -a verbs
    _arguments -C \\
@TOP@ \\
        '1:verb:->verb' \\
        '*:: :->rest' && ret=0
    case $state in
        verb)
            verbs=(
@VERBS@
            )
            _describe -t verbs verb verbs && ret=0
            ;;
        rest)
            curcontext=${curcontext%:*:*}:pysock-$words[1]:
            (( $+functions[_pysock_$words[1]] )) && _pysock_$words[1] && ret=0
            ;;
    esac
    return ret
}

# Addresses: the paths of sockets.
_pysock_address()
{
    compset -P 'unix(|gram)://'
    _files "$@"
}

# Tells what is to be typed; with the message beside them options would not be completed.
_pysock_text()
{
    [[ $PREFIX == -* ]] || _message -e $1 $1
}

@FUNCTIONS@

# In a folder of fpath this file is the function; elsewhere it has to make itself known.
if [[ $funcstack[1] == _pysock ]]; then
    _pysock "$@"
else
    compdef _pysock pysock
fi"""

# After --, what a command's arguments are is the business of that command's completion.
_COMMAND = """\
    local -i end=${words[(i)--]}
    if (( end < CURRENT )); then
        shift $end words
        (( CURRENT -= end ))
        _normal
        return
    fi
"""

_ACTIONS = {
    "address": "_pysock_address",
    "file": "_files",
    "folder": "_files -/",
    "user": "_users",
    "command": "_command_names -e",
    "": " ",
}


def script() -> str:
    """Return the script."""
    verbs = grammar.verbs()
    described = [_quoted(f"{_escaped(verb.name, ':')}:{verb.summary}") for verb in verbs]
    return (
        _SCRIPT.replace("@TOP@", _lines([_option(found) for found in grammar.top().options]))
        .replace("@VERBS@", "\n".join(" " * 16 + line for line in described))
        .replace("@FUNCTIONS@", "\n\n".join(map(_function, verbs)))
    )


def _function(verb: Verb) -> str:
    takes_a_command = any(found.value.kind == "command" for found in verb.arguments)
    specs = [_option(option) for option in verb.options]
    specs += [_argument(found) for found in verb.arguments if found.value.kind != "command"]
    return (
        f"_pysock_{verb.name}()\n{{\n{_COMMAND if takes_a_command else ''}"
        f"    _arguments -s -S : \\\n{_lines(specs)}\n}}"
    )


def _lines(specs: list[str]) -> str:
    return " \\\n".join(f"        {spec}" for spec in specs)


def _option(option: Option) -> str:
    """Return what `_arguments` is told of an option."""
    own = () if option.repeated else option.names
    barred = ["-", "*", ":"] if option.alone else [*own, *option.rivals]
    bars = f"({' '.join(barred)})" if len(barred) > 1 or option.rivals else ""
    star = "*" if option.repeated else ""
    about = f"[{_escaped(brief(option.help), '[]')}]{_taken(option)}"
    names = [name + _sign(name, option) for name in option.names]
    if len(names) == 1:
        return _quoted(f"{bars}{star}{names[0]}{about}")
    return f"{_quoted(bars + star)}{{{','.join(names)}}}{_quoted(about)}"


def _sign(name: str, option: Option) -> str:
    """Return what says where an option's value may stand."""
    if option.value is None or option.rest:
        return ""
    return "=" if name.startswith("--") else "+"


def _taken(option: Option) -> str:
    if option.value is None:
        return ""
    if option.rest:
        return f":*:::{_escaped(option.value.name, ':')}:_normal"
    return f":{_value(option.value)}" if not option.optional else f"::{_value(option.value)}"


def _argument(argument: Argument) -> str:
    value = argument.value
    action = _value(value) if value.kind else f"{value.name}: _pysock_text {value.name}"
    return _quoted(f"{'*' if argument.many else ''}:{action}")


def _value(value: Value) -> str:
    action = f"({' '.join(value.words)})" if value.words else _ACTIONS[value.kind]
    return f"{_escaped(value.name, ':')}:{action}"


def _escaped(text: str, special: str) -> str:
    return "".join(f"\\{char}" if char in f"\\{special}" else char for char in text)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
