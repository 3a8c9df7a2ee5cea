"""What the pages of docs/ show runs, and prints what it says; their links lead somewhere.

Pages whose programs need more than that, as a peer or a running server, have tests of their
own: each page is in one of the two lists.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import linux
from pages import ROOT, Page, Site

DOCS = ROOT / "docs"
if not DOCS.exists():
    pytest.skip("docs/ is not here", allow_module_level=True)

ELSEWHERE = {
    "deploy.md": "test_deploy.py",
    "remote.md": "test_docs_remote.py",
    "security.md": "test_docs_security.py",
    "sockets.md": "test_docs_sockets.py",
    "sockets.zh-CN.md": "test_docs_sockets.py",
    "testing.md": "test_testing_pages.py",
}
ALL = {str(path.relative_to(DOCS)): path for path in sorted(DOCS.rglob("*.md"))}
ALL = {name: path for name, path in ALL.items() if not name.startswith("_")}
PAGES = {name: Page(f"docs/{name}") for name in ALL if name not in ELSEWHERE}
BLOCKS = [block for page in PAGES.values() for block in page.every_block()]
IN_PLACE = [block.text for block in BLOCKS if block.in_place]
PROGRAMS = [
    (name, program)
    for name, page in PAGES.items()
    for program, text in page.programs().items()
    if text not in IN_PLACE
]
# What is not run: drawings, and what a program prints.
SHOWN = {"text"}
FLAGS = re.DOTALL | re.MULTILINE

pytestmark = linux  # abstract addresses, a port that is handed to the server


@pytest.fixture
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    page = PAGES[request.param]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield Site(tmp_path, page, listener)


def used(page: Page, name: str) -> bool:
    """Whether another block of the page runs, serves or imports this program."""
    module = name.removesuffix(".py").replace("/", ".")
    wanted = (
        rf"(^|[\s\"]){re.escape(name)}\b",
        rf"^\s*(from|import) {module}\b",
        rf"\b{module}:\w",
    )
    others = [block for block in page.every_block() if page.programs().get(name) != block.text]
    return any(re.search("|".join(wanted), block.text, re.MULTILINE) for block in others)


@pytest.mark.parametrize(("site", "program"), PROGRAMS, indirect=["site"])
def test_program_prints_what_it_says(
    site: Site, program: str, request: pytest.FixtureRequest
) -> None:
    text = site.programs[program]
    if "print(" not in text:
        page = PAGES[request.node.callspec.params["site"]]
        assert used(page, program), "it prints nothing, and no other block runs it"
        return
    site.check_program(program)


@pytest.mark.parametrize(
    "site", [name for name, page in PAGES.items() if page.commands()], indirect=True
)
def test_commands_print_what_they_say(site: Site, request: pytest.FixtureRequest) -> None:
    page = PAGES[request.node.callspec.params["site"]]
    if any("pysock keygen" in command for command in page.commands()):
        pytest.importorskip("cryptography", reason="no build of it for this Python")
    printed = site.script(*page.commands())
    # A text right behind commands is what they print.
    shown = re.findall(r"^```sh\n[^`]*?^```\n\n```text\n(.*?)^```$", page.text, FLAGS)
    assert printed == "".join(shown)


@pytest.mark.parametrize("name", PAGES)
def test_every_block_is_run_or_says_why_not(name: str) -> None:
    page = PAGES[name]
    for block in page.every_block():
        assert block.language in {"python", "sh", *SHOWN} or block.not_run, block
    assert page.text.count("\n```") + page.text.startswith("```") == 2 * len(
        page.every_block()
    )
    assert page.text.count("<!-- not run:") == len(
        [b for b in page.every_block() if b.not_run]
    )


@pytest.mark.parametrize("name", ALL)
def test_links_lead_somewhere(name: str) -> None:
    Page(f"docs/{name}").check_links()


def test_index_leads_to_every_page() -> None:
    text = PAGES["index.md"].text
    for name in [*ALL, *(f"reference/{path.name}" for path in DOCS.glob("reference/*.rst"))]:
        assert name == "index.md" or f"]({name})" in text, name


def test_deploying_has_one_block_of_commands_that_its_test_runs() -> None:
    """The other pages with tests of their own count their blocks there."""
    assert len(Page("docs/deploy.md").commands()) == 1


def test_pages_with_tests_of_their_own_are_named_there() -> None:
    for page, test in ELSEWHERE.items():
        assert f"docs/{page.partition('.')[0]}" in (ROOT / "tests" / test).read_text() or (
            page in (ROOT / "tests" / test).read_text()
        )
