"""Build the one extension module; everything declarative is in pyproject.toml."""

import os
import sys
from glob import glob

from setuptools import Extension, setup

trace = os.environ.get("PYSOCK_TRACE") == "1"  # line tracing, for coverage only
trace_macros = [("CYTHON_TRACE_NOGIL", "1"), ("CYTHON_USE_SYS_MONITORING", "0")]
# Symbols make the module several times as large; who compiles with -g wants them.
strip = sys.platform == "linux" and "-g" not in os.environ.get("CFLAGS", "").split()

framing = Extension(
    "pysock.framing",
    ["src/framing.pyx"],
    depends=sorted(glob("src/*.pxi") + glob("src/*.h")),
    include_dirs=["src"],
    libraries=["ws2_32"] if sys.platform == "win32" else [],
    define_macros=trace_macros if trace else [],
    extra_link_args=["-s"] if strip else [],
)
framing.cython_directives = {"linetrace": trace}

setup(ext_modules=[framing])
