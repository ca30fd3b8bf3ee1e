"""The notebooks of `examples`: they run, and are stored as they ran."""

import json
import re

import keras
import nbformat
import pytest

import smart_tf
from examples import notebooks
from smart_tf.printing import render

NOTEBOOKS = sorted(notebooks.FOLDER.glob("*.ipynb"))
ABSOLUTE = re.compile(
    r"(?<![\w.:/])/(home|root|tmp|work|usr|opt|var|mnt|Users)/|\b[A-Z]:\\\\"
)

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path):
    cells = nbformat.read(path, as_version=4).cells
    return [cell for cell in cells if cell.cell_type == "code"]


def kinds(cell):
    """What a cell shows: the streams it prints to, and the formats of its results."""
    return {
        kind
        for output in cell.outputs
        for kind in (output.get("data") or {output.get("name", "error"): None})
    }


def text(path):
    """All that is written in a notebook, but for its pictures."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            output.get("data", {}).pop("image/png", None)
    return json.dumps(notebook, ensure_ascii=False)


def test_all_three_are_there():
    names = {path.stem for path in NOTEBOOKS}
    assert names == {"tutorial", "tfmot_users", "transformer_2_4"}


@every_notebook
def test_stored_outputs_come_from_one_run_from_top_to_bottom(path):
    cells = code_cells(path)
    counts = [cell.execution_count for cell in cells]
    assert counts == list(range(1, len(cells) + 1))
    shown = set().union(*(kinds(cell) for cell in cells))
    assert shown == {"stdout", "image/png", "text/plain"}  # no errors, no logs
    for cell in cells:
        if re.search(r"^(print|console\.print|smart_tf\.plots)", cell.source, re.M):
            assert kinds(cell), cell.source


@every_notebook
def test_stored_notebooks_are_small_and_name_no_place_on_a_machine(path):
    assert path.stat().st_size < 500_000
    assert not ABSOLUTE.search(text(path))


@pytest.mark.slow
@every_notebook
def test_runs_and_shows_what_is_stored(path, tmp_path, monkeypatch):
    monkeypatch.setenv("SMART_TF_QUICK", "1")
    monkeypatch.setenv("PYTHONPATH", str(notebooks.FOLDER.parent))
    monkeypatch.delenv("TF_USE_LEGACY_KERAS", raising=False)
    notebooks.execute(path, tmp_path / path.name)
    stored, executed = code_cells(path), code_cells(tmp_path / path.name)
    assert [kinds(cell) for cell in executed] == [kinds(cell) for cell in stored]


def test_reports_are_plain_text_in_a_notebook(monkeypatch):
    # Rich writes HTML and colours of its own accord, if it finds itself in a kernel.
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    model = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(4, name="up"), keras.layers.Dense(2)]
    )
    report = smart_tf.report(model)
    reports = [
        str(report),
        str(smart_tf.compare(model, model, files=False)),
        str(smart_tf.channels.find_groups(model)),
        render(report.__rich__()),
    ]
    for printed in reports:
        assert "up" in printed
        assert "\x1b" not in printed
