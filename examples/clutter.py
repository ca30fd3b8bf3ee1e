"""A harder data set made of Fashion-MNIST: a garment somewhere among clutter."""

import numpy as np

from examples.datasets import Dataset

CANVAS = 36
SIZES = (18, 32)
"""The smallest and the largest side of a garment on the canvas, in pixels."""
PATCHES, PATCH = 6, 8


def cluttered(data, seed=0):
    """Places every image on a larger canvas, among patches cut from other images.

    A garment has a random size and position, and is flipped left to right or not. The
    six patches of 8x8 pixels come from the middle of other images of the same split;
    the brighter one wins where things overlap. The same seed gives the same pixels.

    Args:
        data: `Dataset` of square images of one channel.
        seed: Integer.

    Returns:
        A `Dataset` of images of shape `(36, 36, 1)` with the same labels.
    """
    splits = (data.x_train, data.x_val, data.x_test)
    made = [_scatter(x, np.random.default_rng([seed, i])) for i, x in enumerate(splits)]
    return Dataset(
        f"cluttered_{data.name}",
        *(made[0], data.y_train),
        *(made[1], data.y_val),
        *(made[2], data.y_test),
    )


def _scatter(images, rng):
    """The images of one split on their canvases, float32 `(count, 36, 36, 1)`."""
    images = images[..., 0]
    count, side = images.shape[:2]
    sizes = rng.integers(SIZES[0], SIZES[1] + 1, count)
    rows, inside_rows = _sources(sizes, side, rng)
    columns, inside_columns = _sources(sizes, side, rng)
    flip = rng.random(count) < 0.5
    columns = np.where(flip[:, None], side - 1 - columns, columns)
    index = np.arange(count)[:, None, None]
    canvas = images[index, rows[:, :, None], columns[:, None, :]]
    canvas *= inside_rows[:, :, None] & inside_columns[:, None, :]
    for _ in range(PATCHES):
        _add_patch(canvas, images, rng)
    return canvas[..., None]


def _sources(sizes, side, rng):
    """Which pixel of the image each of the canvas shows along one axis.

    Returns:
        Integer array `(count, 36)`, and a boolean one that says where there is any.
    """
    start = rng.integers(0, CANVAS - sizes + 1)
    place = np.arange(CANVAS) - start[:, None]
    inside = (place >= 0) & (place < sizes[:, None])
    source = (place + 0.5) * side / sizes[:, None]
    return np.clip(source.astype(int), 0, side - 1), inside


def _add_patch(canvas, images, rng):
    """Adds a patch of another image to each canvas."""
    count, side = images.shape[:2]
    index = np.arange(count)
    other = (index + rng.integers(1, count, count)) % count
    margin = side // 7  # the borders of the images are empty
    source = rng.integers(margin, side - PATCH - margin + 1, (2, count))
    target = rng.integers(0, CANVAS - PATCH + 1, (2, count))
    for row in range(PATCH):
        for column in range(PATCH):
            to = index, target[0] + row, target[1] + column
            cut = images[other, source[0] + row, source[1] + column]
            canvas[to] = np.maximum(canvas[to], cut)
