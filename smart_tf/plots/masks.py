"""Pictures of how masks come about while a network is trained."""

import numbers

import numpy as np

from smart_tf.export.optional import require
from smart_tf.plots.figures import COLOURS, DARK, finished, new_figure, shortened

_HEAT = "Blues"


def mask_map(history, layer, moments=6, path=None):
    """The mask of one kernel at several moments, from white (gone) to blue (kept).

    Rows are blocks of output channels, columns blocks of input channels. A kernel with
    positions (of a convolution) has one such map for each, in their places.

    Args:
        history: `smart_tf.MaskHistory` after or during training.
        layer: String, name of the kernel or a part of it that no other has.
        moments: Integer >= 1, how many to show at most: evenly spaced from the last
            one before the search to the first one after it, outside of which nothing
            changes. Or a list of indices into `history.updates`.
        path: Where to write the picture, or None.

    Returns:
        `matplotlib.figure.Figure`.

    Raises:
        ValueError: If nothing was recorded, `layer` names no kernel or several, or
            there is no such moment.
    """
    name = _kernel_named(history, layer)
    indices = _indices(history, moments)
    masks = [history.masks[name][index] for index in indices]
    figure, panels = _panels(tile(masks[0]).shape, len(masks))
    for panel, mask, index in zip(panels, masks, indices, strict=False):
        image = _draw_mask(panel, mask)
        panel.set_title(_moment(history, index), fontsize=8)
    for panel in panels[len(masks) :]:
        panel.set_visible(False)
    height, width = masks[0].shape[2:]
    places = f", at {height}x{width} positions" if height * width > 1 else ""
    figure.suptitle(f"{shortened(name, 70)}{places}", fontsize=10)
    figure.supxlabel("blocks of input channels", fontsize=8)
    figure.supylabel("blocks of output channels", fontsize=8)
    figure.colorbar(image, ax=panels, label="mask", shrink=0.7)
    return finished(figure, path)


def mask_histogram(history, layer=None, path=None):
    """How the masks of all blocks are spread over [0, 1] as training goes on.

    Below, the temperature that drives them apart.

    Args:
        history: `smart_tf.MaskHistory` after or during training.
        layer: Name of one kernel (or a part of it), or None for all together.
        path: Where to write the picture, or None.

    Returns:
        `matplotlib.figure.Figure`.

    Raises:
        ValueError: If nothing was recorded, or `layer` names no kernel or several.
    """
    names = [_kernel_named(history, layer)] if layer else list(history.masks)
    _check_recorded(history)
    levels = np.linspace(0, 1, 26)
    shares = []
    for index in range(len(history.updates)):
        values = np.concatenate([history.masks[n][index].ravel() for n in names])
        counts, _ = np.histogram(values.astype(np.float32), levels)
        shares.append(counts / values.size)
    figure = new_figure(7, 4.8)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    edges = _edges(history.updates)
    norm = require("matplotlib.colors", "plots").LogNorm(vmin=1e-3, vmax=1)
    heat = upper.pcolormesh(edges, levels, np.transpose(shares), norm=norm, cmap=_HEAT)
    figure.colorbar(heat, ax=upper, label="share of the blocks")
    upper.set(ylabel="mask")
    if layer:
        figure.suptitle(shortened(names[0], 70), fontsize=10)
    warm = [index for index, phase in enumerate(history.phases) if phase != "frozen"]
    temperatures = [history.temperatures[index] for index in warm]
    lower.semilogy(
        [history.updates[index] for index in warm],
        temperatures,
        color=COLOURS[1],
        marker=".",
    )
    lower.set(xlabel="optimizer updates", ylabel="temperature")
    if temperatures and max(temperatures) >= 10 * min(temperatures):
        # Between powers of ten they overlap; without one, there are no others.
        lower.tick_params(axis="y", which="minor", labelleft=False)
    _mark_phases((upper, lower), history.phases, edges)
    return finished(figure, path)


def tile(mask):
    """A mask `(outputs, inputs, height, width)` as one picture.

    Returns:
        Array `(height * outputs, width * inputs)`: at each kernel position a map with a
        row for each block of outputs.
    """
    outputs, inputs, height, width = mask.shape
    return mask.transpose(2, 0, 3, 1).reshape(height * outputs, width * inputs)


def _kernel_named(history, layer):
    _check_recorded(history)
    found = [name for name in history.masks if layer in name]
    found = [layer] if layer in found else found
    if len(found) != 1:
        raise ValueError(
            "Argument `layer` must be the name of one kernel, or a part of it that no "
            f"other has. Received: layer={layer!r}, which {len(found)} have of "
            f"{list(history.masks)}"
        )
    return found[0]


def _indices(history, moments):
    """List of indices into the moments of a history."""
    count = len(history.updates)
    if isinstance(moments, numbers.Integral) and moments >= 1:
        first, last = _search(history.phases)
        spaced = np.linspace(first, last, moments)
        return sorted({round(float(at)) for at in spaced})
    indices = [] if isinstance(moments, numbers.Number) else list(moments)
    if not indices or not all(-count <= index < count for index in indices):
        raise ValueError(
            "Argument `moments` must be a positive integer or a list of indices of "
            f"the {count} moments that were recorded. Received: moments={moments!r}"
        )
    return indices


def _check_recorded(history):
    if not history.updates:
        raise ValueError(
            "Argument `history` must have recorded something: pass it to `fit` in "
            f"`callbacks` first. Received: {history!r} without any moment"
        )


def _search(phases):
    """Indices of the last moment before the search and of the first after it."""
    during = [index for index, phase in enumerate(phases) if phase == "searching"]
    last = len(phases) - 1
    return (max(during[0] - 1, 0), min(during[-1] + 1, last)) if during else (0, last)


def _moment(history, index):
    phase, temperature = history.phases[index], history.temperatures[index]
    state = rf"$\tau$ = {temperature:.2g}" if phase == "searching" else phase
    return f"update {history.updates[index]:,}\n{state}"


def _edges(updates):
    """Where the columns of moments begin and end: halfway to their neighbours."""
    updates = np.array(updates, float)
    middle = (updates[1:] + updates[:-1]) / 2
    if not len(middle):
        return updates[0] + np.array([-0.5, 0.5])
    first, last = 2 * updates[0] - middle[0], 2 * updates[-1] - middle[-1]
    return np.array([first, *middle, last])


def _panels(shape, count):
    """Axes for pictures of a shape, arranged so that the figure is not too slim."""
    ratio = min(max(shape[1] / shape[0], 0.25), 6)
    columns = min(
        range(1, count + 1),
        key=lambda n: abs(np.log(n * ratio / -(-count // n) / 1.8)) - (count % n == 0),
    )
    rows = -(-count // columns)
    height = min(7 / columns / ratio + 0.5, 3.5)
    figure = new_figure(8, rows * height + 0.9)
    return figure, figure.subplots(rows, columns, squeeze=False).ravel()


def _draw_mask(panel, mask):
    image = panel.imshow(
        tile(mask).astype(np.float32),
        cmap=_HEAT,
        vmin=0,
        vmax=1,
        aspect="auto",
        interpolation="nearest",
    )
    outputs, inputs, height, width = mask.shape
    for row in range(1, height):
        panel.axhline(row * outputs - 0.5, color=DARK, linewidth=0.7)
    for column in range(1, width):
        panel.axvline(column * inputs - 0.5, color=DARK, linewidth=0.7)
    panel.set(xticks=[], yticks=[])
    return image


def _mark_phases(panels, phases, edges):
    near = 0.15 * (edges[-1] - edges[0])  # closer, a word would run into the next one
    last, lift = -np.inf, 0
    for index in range(1, len(phases)):
        if phases[index] == phases[index - 1]:
            continue
        for axes in panels:
            axes.axvline(edges[index], color=DARK, linewidth=1, linestyle="--")
        lift = 10 if edges[index] - last < near and not lift else 0
        last = edges[index]
        panels[0].annotate(
            phases[index],
            (edges[index], 1),
            xytext=(2, 1 + lift),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            va="bottom",
            fontsize=8,
        )
