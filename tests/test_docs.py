"""The pages of docs/: their Python runs, and nothing public is missing in them."""

import ast
import importlib
import re
import shlex
import subprocess
import sys

import keras
import pytest
import yaml

import smart_tf
from smart_tf import cli, prunable, targets
from smart_tf.channels.rules import registry
from smart_tf.methods import base
from tests import documents
from tests.documents import DOCS, PAGES, ROOT

TF_KERAS = {DOCS / "guides" / "from-tfmot.md"}  # Run by tests/tf_keras/test_docs.py.
SLOW = {
    DOCS / "methods.md",
    *(DOCS / "guides" / f"{name}.md" for name in ("channels", "exports")),
    DOCS / "guides" / "training-loops.md",
}
WITH_PYTHON = [page for page in PAGES if documents.python_blocks(page)]


def name(page):
    return str(page.relative_to(DOCS))


def parameters(pages):
    return [
        pytest.param(page, id=name(page), marks=[pytest.mark.slow] * (page in SLOW))
        for page in pages
    ]


@pytest.fixture
def clean(tmp_path, monkeypatch):
    """A folder of its own, and registries that forget what a page teaches them."""
    monkeypatch.chdir(tmp_path)
    for module, attribute in (
        (base, "_METHODS"),
        (prunable.declared, "_REGISTERED"),
        (registry, "_REGISTERED"),
    ):
        monkeypatch.setattr(module, attribute, dict(getattr(module, attribute)))
    keras.backend.clear_session()
    yield
    keras.mixed_precision.set_dtype_policy("float32")  # If a page failed in between.


@pytest.mark.parametrize(
    "page", parameters(page for page in WITH_PYTHON if page not in TF_KERAS)
)
def test_the_python_of_a_page_runs(page, clean):
    documents.run_page(page)


@pytest.mark.slow
def test_the_commands_of_the_command_line_run(clean, capsys):
    page = DOCS / "guides" / "command-line.md"
    documents.run_page(page)
    blocks = [b.code for b in documents.blocks(page) if b.language == "sh"]
    commands = [line for code in blocks for line in code.splitlines()]
    assert commands
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "smart-tf" and cli.main(arguments) == 0
        assert capsys.readouterr().out


def test_few_blocks_are_not_run_and_each_says_why():
    not_run = [
        (name(page), block.not_run)
        for page in PAGES
        for block in documents.python_blocks(page)
        if block.not_run
    ]
    assert not_run == []


def test_no_block_escapes_by_its_language_or_form():
    for page in PAGES:
        blocks = documents.blocks(page)
        assert {block.language for block in blocks} <= {"python", "sh", "text"}
        text = documents.expanded(page)
        assert text.count("```") == 2 * len(blocks)


def test_every_target_is_shown_as_it_prints():
    page = (DOCS / "structures.md").read_text()
    for target in targets.TARGETS.values():
        assert f"```text\n{target}\n```" in page


def test_every_quoted_row_is_in_the_results():
    quotes = [
        (ROOT / match[1], row)
        for page in [*PAGES, ROOT / "README.md"]
        for match in re.finditer(
            r"<!-- quoted from (\S+) -->\n\n((?:\|.*\n)+)", page.read_text()
        )
        for row in match[2].splitlines()[2:]
    ]
    assert quotes
    for path, row in quotes:
        assert row in path.read_text().splitlines()


def test_the_table_of_modules_is_what_the_source_imports():
    page = (DOCS / "design.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \|([^|]*)\|$", page, re.M)
    table = {module: set(re.findall(r"`(\w+)`", cell)) for module, cell in rows}
    assert table == {module: _imports(module) for module in _modules()}
    above = set()
    for module, imported in table.items():
        assert imported <= above
        above.add(module)


def _modules():
    package = ROOT / "smart_tf"
    names = {path.stem for path in package.iterdir() if path.suffix in ("", ".py")}
    return {name for name in names if not name.startswith("__")}


def _imports(module):
    """The other modules of smart_tf that one imports."""
    package = ROOT / "smart_tf"
    single = package / f"{module}.py"
    files = [single] if single.exists() else (package / module).rglob("*.py")
    found = set()
    for node in (n for file in files for n in ast.walk(ast.parse(file.read_text()))):
        if not isinstance(node, ast.ImportFrom) or node.module is None:
            continue
        first, *rest = node.module.split(".")
        if first == "smart_tf":
            found |= {rest[0]} if rest else {alias.name for alias in node.names}
    return found - {module}


def test_the_navigation_has_every_page_once():
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    listed = list(_leaves(config["nav"]))
    assert sorted(listed) == sorted(name(page) for page in PAGES)


def _leaves(nav):
    if isinstance(nav, str):
        yield nav
    elif isinstance(nav, dict):
        yield from _leaves(list(nav.values()))
    else:
        for entry in nav:
            yield from _leaves(entry)


def test_the_reference_has_every_public_name():
    names = re.findall(
        r"^::: (\S+)$",
        "\n".join(page.read_text() for page in (DOCS / "reference").glob("*.md")),
        re.M,
    )
    assert len(names) == len(set(names))
    documented = [_resolve(name) for name in names]
    modules = [smart_tf, *(getattr(smart_tf, m) for m in smart_tf.__all__)]
    public = {
        f"{module.__name__}.{public}": getattr(module, public)
        for module in modules
        for public in getattr(module, "__all__", ())
    }
    missing = [n for n, thing in public.items() if not _among(thing, documented)]
    assert missing == []


def _resolve(name):
    """What a name stands for; modules before attributes, as in `smart_tf.report.x`."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            found = getattr(found, part)
        return found
    raise LookupError(name)


def _among(thing, things):
    return any(thing is other for other in things)


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    pages = {path: path.read_text() for path in tmp_path.rglob("*.html")}
    assert {tmp_path / "results" / "export.html"} <= set(pages)
    # Markdown that was not understood: a list or a table without a line before it.
    unread = re.compile(r"<p>[^<]*\n(?:- |\d+\. |\|)|--8 ?<")
    assert [path for path, text in pages.items() if unread.search(text)] == []
