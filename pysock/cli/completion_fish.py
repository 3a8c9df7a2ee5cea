"""The completion of this command line for fish: conditions, and what is offered under each."""

from __future__ import annotations

from collections.abc import Iterator

from . import grammar
from .grammar import Argument, Option, Value, Verb, brief

__all__ = ["script"]

_SCRIPT = """\
# fish completion for pysock, as `pysock completion fish` prints it

# Prints the verb, and the place of the argument that comes next; where an earlier word has
# ended the options, that word and those after it.
function __pysock_place
    set -l taking @TAKING@
    set -l rest @REST@
    set -l words (commandline -opc)
    set -l verb $words[2]
    set -l place 1
    set -l taken
    echo $verb
    for index in (seq 3 (count $words))
        set -l word $words[$index]
        if set -q taken[1]; and not string match -q -- '-*' $word
            set taken
            continue
        end
        set taken
        switch $word
            case --
                printf '%s\\n' -- $words[(math $index + 1)..]
                return
            case '--*=*'
            case '-*'
                if contains -- "$verb $word" $rest
                    printf '%s\\n' $word $words[(math $index + 1)..]
                    return
                end
                contains -- "$verb $word" $taking; and set taken 1
            case '*'
                set place (math $place + 1)
        end
    end
    echo $place
end

# Whether the verb is $argv[1], and the place one of those that follow: a number, a number and
# "+" for it and all after it, or such a word.  Without them: whether options may come.
function __pysock_at
    set -l now (__pysock_place)
    test "$now[1]" = "$argv[1]"; or return
    if not set -q argv[2]
        not string match -q -- '-*' $now[2]
        return
    end
    for place in $argv[2..]
        test "$now[2]" = "$place"; and return
        if string match -qr '^[0-9]+[+]$' -- $place; and string match -qr '^[0-9]+$' -- $now[2]
            test $now[2] -ge (string trim -rc + $place); and return
        end
    end
    return 1
end

# Completes the words of a command, as that command's own completion does.
function __pysock_command
    set -l words (__pysock_place)[3..] (commandline -ct)
    complete -C "$(string escape -- $words[1..-2]) $words[-1]"
end

# Completes addresses that have a path.
function __pysock_address
    set -l parts (string match -r '^(unix(?:gram)?://)(.*)' -- (commandline -ct)); or return
    printf "$parts[2]%s\\n" (__fish_complete_path $parts[3])
end

complete -c pysock -e
complete -c pysock -f
@LINES@"""

_OFFERED = {
    "address": "-r -F -a '(__pysock_address)'",
    "file": "-r -F",
    "folder": "-x -a '(__fish_complete_directories)'",
    "user": "-x -a '(__fish_complete_users)'",
    "command": "-x -a '(__fish_complete_command)'",
    "": "-x",
}


_COMMAND = "-a '(__pysock_command)'"


def script() -> str:
    """Return the script."""
    verbs = grammar.verbs()
    taking = [
        _place(verb, option) for verb in verbs for option in verb.options if option.value
    ]
    rest = [_place(verb, option) for verb in verbs for option in verb.options if option.rest]
    return (
        _SCRIPT.replace("@TAKING@", " ".join(taking))
        .replace("@REST@", " ".join(rest))
        .replace("@LINES@", "\n".join(_lines(verbs)))
    )


def _place(verb: Verb, option: Option) -> str:
    return " ".join(_quoted(f"{verb.name} {name}") for name in option.names)


def _lines(verbs: list[Verb]) -> Iterator[str]:
    for option in grammar.top().options:
        yield _complete("", [], _names(option), _about(option.help))
    for verb in verbs:
        yield _complete("", ["1"], f"-a {verb.name}", f"-d {_quoted(verb.summary)}")
    for verb in verbs:
        for option in verb.options:
            offered = _offered(option.value) if option.value and not option.rest else ""
            yield _complete(verb.name, [], _names(option), offered, _about(option.help))
            if option.rest:
                yield _complete(verb.name, [*option.names], _COMMAND)
        last = len(verb.arguments)
        for number, argument in enumerate(verb.arguments, 1):
            yield from _argument(verb, number, argument, number == last)


def _argument(verb: Verb, number: int, argument: Argument, last: bool) -> Iterator[str]:
    if argument.value.kind == "command":
        yield _complete(verb.name, ["--"], _COMMAND)
    elif argument.value.kind:
        places = [f"{number}+" if argument.many else f"{number}", *(["--"] if last else [])]
        yield _complete(verb.name, places, _offered(argument.value))


def _complete(verb: str, places: list[str], *parts: str) -> str:
    condition = " ".join(["__pysock_at", verb or '""', *places])
    return " ".join(["complete -c pysock -n", _quoted(condition), *filter(None, parts)])


def _names(option: Option) -> str:
    return " ".join(
        f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}"
        for name in option.names
    )


def _offered(value: Value) -> str:
    if value.words:
        return f"-x -a {_quoted(' '.join(value.words))}"
    return _OFFERED[value.kind]


def _about(text: str) -> str:
    return f"-d {_quoted(brief(text))}"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
