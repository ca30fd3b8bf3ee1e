"""The Python of the README and of docs/, run as it stands there."""

import dataclasses
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(
    path
    for path in DOCS.rglob("*.md")
    if not path.is_relative_to(DOCS / "quickstart")  # The demo's results.
)

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\S*)[^\n]*\n(?P<code>.*?)^(?P=indent)```$",
    re.M | re.S,
)
_NOT_RUN = re.compile(r"<!-- not run: (?P<reason>[^>]+?) -->\s*\Z")
_SNIPPET = re.compile(r'^--8<-- "(.+)"$', re.M)


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block: its language, text, first line, and why it is not run (if so)."""

    language: str
    code: str
    line: int
    not_run: str | None


def blocks(path):
    """All fenced blocks of a page, with snippets in place."""
    text = path.read_text()
    return [_block(match, text) for match in _FENCE.finditer(text)]


def python_blocks(path):
    return [block for block in blocks(path) if block.language == "python"]


def run(block, names, path):
    """Runs a block in a namespace; errors point to the line of the page."""
    code = "\n" * block.line + block.code
    exec(compile(code, str(path), "exec"), names)


def run_page(path):
    """Runs the Python of a page from top to bottom in one namespace, and returns it."""
    names = {"__name__": "page"}
    for block in python_blocks(path):
        if block.not_run is None:
            run(block, names, path)
    return names


def _block(match, text):
    indent = match["indent"]
    code = re.sub(f"^{indent}", "", match["code"], flags=re.M)
    reason = _NOT_RUN.search(text[: match.start()])
    return Block(
        language=match["language"],
        code=_SNIPPET.sub(lambda m: (DOCS / "snippets" / m[1]).read_text(), code),
        line=text[: match.start()].count("\n") + 1,
        not_run=reason and reason["reason"],
    )
