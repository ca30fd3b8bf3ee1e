"""One model of each way of building them in `keras.applications`.

`python -m benchmarks.applications` does the same with all of them.
"""

import pytest

from benchmarks.applications import passes, run


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["MobileNetV3Small", "ResNet50", "Xception", "ConvNeXtTiny"]
)
def test_a_model_of_keras_applications_prunes_freezes_and_strips(name):
    row = run(name)
    assert row["finite"]
    assert passes(row), row
