"""`pysock completion`: print a script with which a shell completes this command line.

The script is whole: the shell asks no Python at the Tab key.  It is written from the
parsers of the verbs, which `grammar` reads.
"""

from __future__ import annotations

import argparse
import importlib

from . import Parser
from .dump import say

DESCRIPTION = """\
Print a script for a shell, with which the Tab key completes verbs, options, names of formats
and files. Print it anew after an update of pysock."""

EPILOG = """\
examples:
  pysock completion bash \\
      > ~/.local/share/bash-completion/completions/pysock
  pysock completion zsh > ~/.zfunc/_pysock
  pysock completion fish > ~/.config/fish/completions/pysock.fish

These take effect in a new shell; the folders must exist. In bash the first one needs the
package bash-completion. In zsh, ~/.zshrc must name the folder before it calls compinit:
`fpath=(~/.zfunc $fpath)`.

Instead, ~/.bashrc can have `eval "$(pysock completion bash)"`, and ~/.zshrc the same with zsh
after compinit; that takes a moment at each start of a shell.

exit status: 0; 1 the output cannot be written; 2 a wrong command line"""

SHELLS = ("bash", "zsh", "fish")


def configure(parser: Parser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help="bash, zsh or fish")


def run(options: argparse.Namespace) -> int:
    """Print the script; return 0."""
    module = importlib.import_module(f"{__package__}.completion_{options.shell}")
    say(module.script())
    return 0
