"""The Python of the README and of docs/, run as it stands there."""

import dataclasses
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SNIPPETS = DOCS / "snippets"
PAGES = sorted(
    path
    for path in DOCS.rglob("*.md")
    if SNIPPETS not in path.parents
    and DOCS / "quickstart" not in path.parents  # The demo's results.
)

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\S*)[^\n]*\n(?P<code>.*?)^(?P=indent)```$",
    re.M | re.S,
)
_NOT_RUN = re.compile(r"<!-- not run: (?P<reason>[^>]+?) -->\s*\Z")
_SNIPPET = re.compile(r'^(?P<indent> *)--8<-- "(?P<name>.+)"$', re.M)


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and why it is not run (if it is not)."""

    language: str
    code: str
    not_run: str | None


def blocks(path):
    """All fenced blocks of a page, those of its snippets included."""
    text = expanded(path)
    return [_block(match, text) for match in _FENCE.finditer(text)]


def expanded(path):
    """The text of a page with its snippets in place."""
    return _SNIPPET.sub(_snippet, path.read_text())


def python_blocks(path):
    return [block for block in blocks(path) if block.language == "python"]


def run_page(path):
    """Runs the Python of a page from top to bottom in one namespace, and returns it."""
    names = {"__name__": "page"}
    for number, block in enumerate(python_blocks(path)):
        if block.not_run is None:
            exec(compile(block.code, f"{path}, block {number}", "exec"), names)
    return names


def _snippet(match):
    file = SNIPPETS / match["name"]
    text = (file if file.exists() else ROOT / match["name"]).read_text()
    return re.sub("^(?=.)", match["indent"], text.rstrip("\n"), flags=re.M)


def _block(match, text):
    reason = _NOT_RUN.search(text[: match.start()])
    return Block(
        language=match["language"],
        code=re.sub(f"^{match['indent']}", "", match["code"], flags=re.M),
        not_run=reason and reason["reason"],
    )
