"""Mask files, read by numpy and json alone."""

import json

import keras
import numpy as np
import pytest

from smart_tf import export
from tests.pruned_models import convnet, golden


def read(path):
    with np.load(path) as arrays:
        return dict(arrays), json.loads(path.with_suffix(".json").read_text())


def test_blocks_of_a_convolution(tmp_path):
    report = export.to_masks(golden(), tmp_path / "masks.npz", "16x8")
    arrays, content = read(tmp_path / "masks.npz")
    assert content["structure"] == "16x8"
    assert list(arrays) == [kernel["name"] for kernel in content["kernels"]]
    blocks = {kernel["name"].split("/")[-2]: kernel for kernel in content["kernels"]}
    kernel = blocks["blocks"]
    assert kernel["layer"].endswith("blocks")
    assert kernel["shape"] == kernel["view"] == [3, 3, 16, 32]
    assert kernel["roles"] == ["position", "position", "input", "output"]
    assert kernel["block"] == [1, 1, 8, 16]
    assert kernel["grid"] == [3, 3, 2, 2]
    assert (kernel["blocks"], kernel["kept"]) == (36, 32)
    kept = arrays[kernel["name"]]
    wanted = np.ones((3, 3, 2, 2), bool)
    wanted[0, :, 1, 0] = wanted[2, 2, 0, 1] = False
    np.testing.assert_array_equal(kept, wanted)
    rows = {row.source: row.zero_fraction for row in report.tensors}
    assert rows[kernel["name"]] == pytest.approx(4 / 36)
    assert report.bytes == sum(f.stat().st_size for f in tmp_path.iterdir())


def test_ragged_blocks_channels_and_groups(tmp_path):
    model = golden()
    export.to_masks(model, tmp_path / "a.npz", "10x3")
    _, content = read(tmp_path / "a.npz")
    kernel = next(k for k in content["kernels"] if "quads" in k["name"])
    assert (kernel["block"], kernel["grid"]) == ([3, 10], [6, 4])

    export.to_masks(model, tmp_path / "b.npz", "channel")
    arrays, _ = read(tmp_path / "b.npz")
    (channels,) = (array for name, array in arrays.items() if "channels" in name)
    assert channels.shape == (1, 8)
    assert np.flatnonzero(~channels).tolist() == [2, 5]

    export.to_masks(model, tmp_path / "c.npz", "2:4")
    arrays, content = read(tmp_path / "c.npz")
    (name,) = (name for name in arrays if "two_of_four" in name)
    kernel = model.get_layer("two_of_four").kernel.numpy()
    np.testing.assert_array_equal(arrays[name], kernel != 0)


def test_kernels_that_cannot_be_cut_are_left_out_with_the_reason(tmp_path):
    export.to_masks(convnet(), tmp_path / "masks.npz", "2:4")
    arrays, content = read(tmp_path / "masks.npz")
    ((name, reason),) = content["left_out"].items()
    assert "depthwise" in name and "input axis" in reason
    assert name not in arrays and len(arrays) == 3


def test_wrong_arguments_leave_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match=r"`path` must end in '.npz'"):
        export.to_masks(golden(), tmp_path / "masks.json", "16x8")
    with pytest.raises(ValueError, match="`structure` must be"):
        export.to_masks(golden(), tmp_path / "masks.npz", "16 by 8")
    with pytest.raises(TypeError, match="`model` must be a Keras model"):
        export.to_masks(keras.layers.Dense(3), tmp_path / "masks.npz", "16x8")
    with pytest.raises(ValueError, match="`path` must be a file in a folder"):
        export.to_masks(golden(), tmp_path / "no" / "masks.npz", "16x8")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_of_the_masks_is_not_replaced(tmp_path):
    masks, other = tmp_path / "masks.npz", tmp_path / "masks.json"
    other.write_text("precious")
    with pytest.raises(ValueError, match=r"`path` must .* move '.*masks.json' away"):
        export.to_masks(golden(), masks, "16x8")
    assert other.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [other]
    other.unlink()
    for structure in ("16x8", "2:4"):
        export.to_masks(golden(), masks, structure)
        assert read(masks)[1]["structure"] == structure


def test_masks_that_do_not_read_back_are_not_left_behind(tmp_path, monkeypatch):
    def save_nothing(path, **kept):
        save(path, **{name: np.zeros_like(mask) for name, mask in kept.items()})

    save = np.savez_compressed
    monkeypatch.setattr(np, "savez_compressed", save_nothing)
    with pytest.raises(export.ExportError, match="mask of golden/blocks"):
        export.to_masks(golden(), tmp_path / "masks.npz", "16x8")
    assert list(tmp_path.iterdir()) == []


def test_kernels_of_equal_names_are_numbered(tmp_path):
    def part(name):
        inputs = keras.Input((8,))
        return keras.Model(inputs, keras.layers.Dense(8, name="fc")(inputs), name=name)

    inputs = keras.Input((8,))
    model = keras.Model(inputs, part("second")(part("first")(inputs)))
    kernel = model.layers[1].get_layer("fc").kernel
    kernel.assign(kernel.numpy() * (np.arange(8) >= 4)[:, None])
    export.to_masks(model, tmp_path / "masks.npz", "4x4")
    arrays, content = read(tmp_path / "masks.npz")
    assert arrays["fc/kernel"].tolist() == [[False, False], [True, True]]
    assert arrays["fc/kernel_1"].all()
    kept = {kernel["name"]: kernel["kept"] for kernel in content["kernels"]}
    assert kept == {"fc/kernel": 2, "fc/kernel_1": 4}


def test_a_structure_that_fits_nothing_is_refused(tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Rescaling(2.0)])
    with pytest.raises(ValueError, match="`structure` must fit kernels of the model"):
        export.to_masks(model, tmp_path / "masks.npz", "4x4")
    assert not list(tmp_path.iterdir())
