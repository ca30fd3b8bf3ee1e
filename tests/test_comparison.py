"""Networks side by side: what is printed where there is little to compare."""

import keras
import pytest
from rich.table import Table

import smart_tf
from smart_tf.printing import render
from tests.references import mlp


def test_networks_without_parameters_are_compared_without_ratios():
    model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten()])
    comparison = smart_tf.compare(model, model, files=False)
    cells = [line.split("│") for line in str(comparison).splitlines() if "│" in line]
    rows = {row[1].strip(): [cell.strip() for cell in row[2:-1]] for row in cells}
    assert rows["parameters"] == ["0", "0", ""]
    with pytest.raises(ValueError, match="with kernels"):
        comparison.plot()


def test_networks_that_differ_in_what_is_trained_have_the_same_layers():
    frozen = mlp()
    frozen.trainable = False
    widths = smart_tf.compare(mlp(), frozen, files=False).widths
    assert list(widths.values()) == [(16, 16), (16, 16), (4, 4)]


@pytest.mark.parametrize("name", ["original", "small"])
def test_networks_with_wrappers_are_to_be_stripped_first(name):
    models = {"original": mlp(), "small": mlp()}
    models[name] = smart_tf.prune(models[name], 0.5, "4x4")
    with pytest.raises(ValueError, match=f"`{name}` must be .*strip_pruning.*Received"):
        smart_tf.compare(**models, files=False)


@pytest.mark.parametrize("name", ["odd[bold]x.tflite", "[/x].tflite", "a:cat:b.tflite"])
def test_names_are_printed_as_they_are(name):
    table = Table(name, title=name)
    table.add_row(name)
    table.caption = name
    assert render(table, name).count(name) == 5
