"""Build the one extension module; everything declarative is in pyproject.toml."""

import os
import sys
import sysconfig
from glob import glob

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, PlatformError

# The compiler is told the lines of src/: for coverage, debuggers and profilers.
lines = os.environ.get("PYSOCK_LINES") == "1"
# Symbols make the module several times as large; who compiles with -g wants them.
strip = sys.platform == "linux" and "-g" not in os.environ.get("CFLAGS", "").split()

MISSING = """
{error}

pysock has a part in C, which could not be compiled: {reason}.
    Debian, Ubuntu   apt install gcc libc6-dev python3-dev
    Fedora           dnf install gcc python3-devel
    Alpine           apk add gcc musl-dev python3-dev
    macOS            xcode-select --install
    Windows          "Desktop development with C++" of the Build Tools for Visual Studio
Or take a wheel, which needs no compiler, where there is one for this Python and system:
    pip install --only-binary :all: pysock-framing
"""


class BuildFraming(build_ext):
    """Says what is missing where the module cannot be compiled."""

    def run(self):
        try:
            super().run()
        except (CompileError, PlatformError) as exc:
            header = os.path.join(sysconfig.get_path("include"), "Python.h")
            reason = "there is no C compiler, or it failed (see above)"
            if not os.path.exists(header):
                reason = f"Python's headers are missing ({header})"
            sys.exit(MISSING.format(error=exc, reason=reason))


framing = Extension(
    "pysock.framing",
    ["src/framing.pyx"],
    depends=sorted(glob("src/*.pxi") + glob("src/*.h")),
    include_dirs=["src"],
    # Cython 3.3's own code for arguments of __new__ frees what it has not set, where it
    # finds no memory for their names.
    define_macros=[("CYTHON_VECTORCALL_TPNEW", "0")],
    libraries=["ws2_32"] if sys.platform == "win32" else [],
    extra_link_args=["-s"] if strip else [],
)
framing.cython_line_directives = lines

setup(ext_modules=[framing], cmdclass={"build_ext": BuildFraming})
