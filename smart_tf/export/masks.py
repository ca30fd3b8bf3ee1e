"""The pattern by itself, for toolchains that take it beside the weights."""

import json
import pathlib

import numpy as np

from smart_tf import structures
from smart_tf.export.conversion import check_model
from smart_tf.export.report import ExportError, ExportReport, TensorRow
from smart_tf.export.staging import sizes, staged
from smart_tf.prunable import kernel_names, prunable_weights
from smart_tf.structures.views import canonical


def to_masks(model, path, structure):
    """Write which blocks of a pruned model are kept: an `.npz` file and a JSON file.

    The `.npz` file has a boolean array per kernel, under the kernel's name: one entry
    per block, true where the block is kept.  The `.json` file of the same name has
    `structure`, and for each of the `kernels`: `name`, `layer`, `shape` (of the
    kernel), `roles` and `view` (what its axes are, with axes of one role merged, and
    their lengths), `block` and `grid` (the size of a block and the number of blocks
    along each of these axes), `blocks` and `kept`.  Blocks at far edges are cut off.
    `left_out` names the kernels that the structure cannot cut, and why.

    The files appear only after they have been read back, and every kernel is unchanged,
    bit for bit, by its mask: so are the outputs of the model.

    Args:
        model: A Keras 3 or tf_keras model, stripped of pruning wrappers.
        path: The `.npz` file to write, in a folder that exists.
        structure: What to cut the kernels into: `"16x8"`, `"channel"`, `"2:4"` (whose
            blocks are single weights), ..., or a `Structure`.

    Returns:
        An `ExportReport`, with the arrays of the file as its tensors.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If an argument is wrong, the structure fits no kernel, or nothing
            can be written at `path`.
        ExportError: If a mask that was read back does not fit its kernel.
    """
    check_model(model)
    structure = structures.get(structure)
    path = pathlib.Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"Argument `path` must end in '.npz'. Received: {str(path)!r}")
    weights, left_out = _cut(model, structure)
    with staged(path) as staging:
        _write(staging, weights, structure, left_out)
        kept = _read_back(staging, weights, structure)
        size, gzip_size = sizes(staging)
    rows = tuple(
        TensorRow(name, mask.shape, "bool", 1 - mask.mean().item(), source=name)
        for name, mask in kept.items()
    )
    return ExportReport(
        path=str(path),
        quantize=None,
        bytes=size,
        gzip_bytes=gzip_size,
        tensors=rows,
        lost=(),
        max_difference=0.0,
        relative_difference=0.0,
        samples=0,
        target="masks",
    )


def _cut(model, structure):
    """The kernels that the structure can cut, and why it cannot cut the others.

    Returns:
        Two dicts by name: of `PrunableWeight`s, and of reasons.
    """
    weights, left_out = {}, {}
    found = prunable_weights(model)
    for name, weight in zip(kernel_names(found), found, strict=True):
        reason = structure.supports(tuple(weight.variable.shape), weight.layout)
        if reason is None:
            weights[name] = weight
        else:
            left_out[name] = reason
    if not weights:
        raise ValueError(
            f"Argument `structure` must fit kernels of the model: {structure} fits "
            f"none. Received: {left_out or 'a model without kernels'}"
        )
    return weights, left_out


def _write(path, weights, structure, left_out):
    kept = {
        name: structure.scores(weight.variable, weight.layout, "max") > 0
        for name, weight in weights.items()
    }
    np.savez_compressed(path, **kept)
    content = {
        "structure": str(structure),
        "kernels": [
            _describe(name, weight, structure, kept[name])
            for name, weight in weights.items()
        ],
        "left_out": left_out,
    }
    path.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")


def _describe(name, weight, structure, kept):
    shape, layout = tuple(map(int, weight.variable.shape)), weight.layout
    first = np.zeros(kept.shape, bool)
    first.flat[0] = True  # The first block is a whole one.
    inside = np.nonzero(canonical(structure.expand(first, shape, layout), layout, np))
    return {
        "name": name,
        "layer": getattr(weight.owner, "path", weight.owner.name),
        "shape": shape,
        "roles": layout.roles(len(shape)),
        "view": layout.canonical_shape(shape),
        "block": [int(axis.max()) + 1 for axis in inside],
        "grid": kept.shape,
        "blocks": kept.size,
        "kept": int(kept.sum()),
    }


def _read_back(path, weights, structure):
    with np.load(path) as arrays:
        kept = dict(arrays)
    for name, weight in weights.items():
        kernel = np.asarray(weight.variable)
        mask = structure.expand(kept[name], kernel.shape, weight.layout)
        if not np.array_equal(kernel, np.where(mask, kernel, 0)):
            raise ExportError(
                f"The mask of {name} does not hold all of the kernel's weights"
            )
    return kept
