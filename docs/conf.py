"""The documentation as a site: `make docs`.

The pages are plain Markdown that reads well without Sphinx too.  What only the site needs is
here and in _sphinx: contents made from the index, and the reference from the docstrings.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_sphinx"))

# With the stub Sphinx would not look into the compiled module; docstrings.py reads both.
os.environ["SPHINX_AUTODOC_IGNORE_NATIVE_MODULE_TYPE_STUBS"] = "1"

from pysock import __version__

project = "pysock"
author = "the pysock authors"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "contents", "docstrings"]
exclude_patterns = ["_build", "_sphinx"]
root_doc = "index"
default_role = "py:obj"  # as docstrings have it: a link where there is something to link to
smartquotes = False  # strings are code here
nitpicky = True
# Types of the standard library, whose pages no network is asked for, and names that only type
# checkers import.
nitpick_ignore_regex = [
    (
        "py:.*",
        r"(_?[a-z]+\.)*(Any|Buffer|Callable|Collection|Generic|Iterable|Iterator|Literal|"
        r"Mapping|NamedTuple|Path(Like)?|Self|Sequence|SSLContext|SSLObject|SSLSocket|"
        r"AbstractContextManager|BinaryIO|BaseRequestHandler|CompletedProcess|"
        r"AddressLike|Credentials|EllipsisType|FaultOptions|ReadableBuffer|"
        r"Unpack|socket\.socket|_[A-Z]\w+|End|T|Waited)",
    ),
]

myst_heading_anchors = 4
myst_links_external_new_tab = False
suppress_warnings = ["myst.header"]  # SECURITY.md and others begin where they like

autodoc_member_order = "bysource"
autodoc_mock_imports = ["pytest"]  # of the plugin only what it says is here
autodoc_default_options = {"members": True}
python_maximum_signature_line_length = 80
add_module_names = False

html_theme = "furo"
html_title = f"pysock {release}"
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
