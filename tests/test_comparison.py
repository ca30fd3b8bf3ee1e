"""Networks side by side: what is printed where there is little to compare."""

import keras
import pytest
from rich.table import Table

import smart_tf
from smart_tf.printing import render


def test_networks_without_parameters_are_compared_without_ratios():
    model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten()])
    comparison = smart_tf.compare(model, model, files=False)
    cells = [line.split("│") for line in str(comparison).splitlines() if "│" in line]
    rows = {row[1].strip(): [cell.strip() for cell in row[2:-1]] for row in cells}
    assert rows["parameters"] == ["0", "0", ""]
    with pytest.raises(ValueError, match="with kernels"):
        comparison.plot()


@pytest.mark.parametrize("name", ["odd[bold]x.tflite", "[/x].tflite", "a:cat:b.tflite"])
def test_names_are_printed_as_they_are(name):
    table = Table(name, title=name)
    table.add_row(name)
    table.caption = name
    assert render(table, name).count(name) == 5
