"""TensorFlow Lite's sparse tensors: which numbers are stored, and what that costs."""

import numpy as np

from smart_tf import structures

ENCODED_BLOCKS = ("1x1", "1x4", "1x16")
"""The block shapes (outputs x inputs) that TensorFlow Lite's converter stores."""


def densify(values, shape, sparsity):
    """Bring the stored values of a sparse tensor to their places.

    Args:
        values: The stored values, in a row.
        shape: Shape of the tensor.
        sparsity: The tensor's `SparsityParametersT` from the `.tflite` file.

    Returns:
        An array of `shape` and the values' dtype.
    """
    # Level by level: `index` counts the entries of this level, `places` has one column
    # of coordinates for each level above it.
    index, places = np.zeros(1, int), []
    for level in sparsity.dimMetadata:
        if level.format == 0:  # Dense.
            parents = np.repeat(np.arange(len(index)), level.denseSize)
            place = np.tile(np.arange(level.denseSize), len(index))
            index = index[parents] * level.denseSize + place
        else:  # Compressed rows.
            segments = np.asarray(level.arraySegments.values, int)
            counts = segments[index + 1] - segments[index]
            parents = np.repeat(np.arange(len(index)), counts)
            first = np.cumsum(counts) - counts
            index = segments[index][parents] + np.arange(len(parents)) - first[parents]
            place = np.asarray(level.arrayIndices.values, int)[index]
        places = [column[parents] for column in places] + [place]
    order = list(sparsity.traversalOrder)
    axes = [places[order.index(axis)] for axis in range(len(shape))]
    block_map = sparsity.blockMap if sparsity.blockMap is not None else []
    for block, axis in enumerate(block_map):
        level = order.index(len(shape) + block)
        size = sparsity.dimMetadata[level].denseSize
        axes[axis] = axes[axis] * size + places[level]
    dense = np.zeros(shape, values.dtype)
    dense[tuple(axes)] = values[index]
    return dense


def metadata_bytes(sparsity):
    """Bytes of the row starts and column numbers that a sparse tensor stores."""
    vectors = [
        np.asarray(vector.values)
        for level in sparsity.dimMetadata
        for vector in (level.arraySegments, level.arrayIndices)
        if vector is not None
    ]
    return sum(len(v) * _width(v.max(initial=0)) for v in vectors)


def encoded_bytes(zeros, layout, item_bytes):
    """Bytes of a tensor in TensorFlow Lite's sparse format, in the best of its blocks.

    Compressed rows: a row for every output and kernel position.  Every block that is
    kept stores all its values and its column number; every row stores its start, and
    the last one its end.  These take 1, 2 or 4 bytes, as their largest needs.

    Args:
        zeros: Boolean array.
        layout: The `Layout` of its axes; it has outputs and inputs.
        item_bytes: Bytes of one number.

    Returns:
        Integer.
    """
    return min(_encoded(zeros, layout, item_bytes, block) for block in ENCODED_BLOCKS)


def _encoded(zeros, layout, item_bytes, block):
    structure = structures.get(block)
    kept = structure.scores(~zeros, layout, reduction="max") > 0
    columns = kept.shape[layout.roles(zeros.ndim).index("input")]
    rows, blocks = kept.size // columns, int(kept.sum())
    # A ragged block is stored in full.
    values = blocks * np.prod(structure.shape) * item_bytes
    return int(values + blocks * _width(columns - 1) + (rows + 1) * _width(blocks))


def _width(largest):
    return 1 if largest < 2**8 else 2 if largest < 2**16 else 4
