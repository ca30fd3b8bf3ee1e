"""Pictures of what pruning does: figures of matplotlib, which is loaded when drawing.

Every function returns a `matplotlib.figure.Figure`, which a notebook shows by itself,
and writes it to `path` if there is one; the suffix (`.png`, `.svg`, `.pdf`) decides
how. No window is opened, and no global state of matplotlib is touched.
"""

import numpy as np

from smart_tf.export.optional import require
from smart_tf.export.staging import staged

COLOURS = ("#4477aa", "#ee6677", "#228833", "#aa3377", "#ccbb44", "#66ccee", "#bbbbbb")
"""Paul Tol's bright scheme, which colour-blind readers can tell apart."""

MARKERS = "osD^vPX"
_DARK, _GREY, _PALE = "#222222", "#777777", "#dddddd"
_HEAT = "Blues"

_QUANTITIES = {
    "sparsity": (100, "weights that are zero, %"),
    "accuracy": (100, "accuracy, %"),
    "bytes": (1e-3, "file, kB"),
    "macs": (1e-6, "multiply-accumulates, millions"),
    "latency": (1, "latency, ms"),
}


def sparsity_by_layer(reports, path=None):
    """How sparse each kernel is, for one model or for several side by side.

    One report is drawn as bars, several as a row of marks for each kernel.

    Args:
        reports: `PruningReport`, or dict from the name of a method to one. Instead of
            a report, a dict from the names of kernels to their sparsities, in [0, 1],
            will do.
        path: Where to write the picture, or None.

    Returns:
        `matplotlib.figure.Figure`.

    Raises:
        ValueError: If there is no report, or their kernels are not the same.
    """
    reports = reports if isinstance(reports, dict) else {"": reports}
    curves = {method: _sparsities(report) for method, report in reports.items()}
    names = _common_names(curves)
    figure, axes = _layer_axes(names)
    rows = np.arange(len(names))
    if len(curves) == 1:
        ((method, shares),) = curves.items()
        axes.barh(rows, 100 * np.array(list(shares.values())), color=COLOURS[0])
        axes.set_xlim(0, 100)
        _mark_total(axes, reports[method])
    else:
        for index, (method, shares) in enumerate(curves.items()):
            axes.plot(
                100 * np.array(list(shares.values())),
                rows + 0.5 * ((index + 0.5) / len(curves) - 0.5),  # none hides another
                label=method,
                linestyle="none",
                markersize=5,
                **_style(index),
            )
        axes.set_xlim(-1, 101)
        axes.grid(axis="y", color=_PALE, linewidth=0.6)
        figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=8)
    axes.set_xlabel("weights that are zero, %")
    return _finished(figure, path)


def channel_widths(comparison, path=None):
    """The output channels of every kernel, before and after.

    Args:
        comparison: `Comparison` of `smart_tf.compare`.
        path: Where to write the picture, or None.

    Returns:
        `matplotlib.figure.Figure`.
    """
    figure, axes = _layer_axes(_short(comparison.widths))
    rows = np.arange(len(comparison.widths))
    before, after = zip(*comparison.widths.values(), strict=True)
    axes.barh(rows, before, color=_PALE, label="before")
    axes.barh(rows, after, color=COLOURS[0], height=0.55, label="after")
    axes.set(xlabel="output channels")
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    return _finished(figure, path)


def tradeoff(points, x="sparsity", y="accuracy", by=None, reference="dense", path=None):
    """What each method pays for how much: a line for each.

    Marks of the same setting stand beside each other, so that none hides another.

    Example:

    ```python
    points = [
        {"method": "smart", "sparsity": 0.9, "accuracy": 0.881, "seed": 0},
        {"method": "smart", "sparsity": 0.9, "accuracy": 0.884, "seed": 1},
        {"method": "magnitude", "sparsity": 0.9, "accuracy": 0.868, "seed": 0},
    ]
    smart_tf.plots.tradeoff(points)
    ```

    Args:
        points: Iterable of dicts, one for each trained model, with `"method"`, `x`,
            `y` and `by`.
        x: Key of what lies along the horizontal axis. `"sparsity"` and `"accuracy"`
            are fractions and shown in percent, `"bytes"` in kB, `"macs"` in millions,
            `"latency"` is in milliseconds; any other key is shown as it is.
        y: Key of the vertical axis.
        by: Key in which the runs of one setting agree that differ in the seed only;
            they become one mark, with the standard deviation as a bar. Default: `x`.
        reference: Method that is drawn in grey: across the picture if it has one
            setting.
        path: Where to write the picture, or None.

    Returns:
        `matplotlib.figure.Figure`.

    Raises:
        ValueError: If there are no points, or one lacks a key.
    """
    curves = _curves(list(points), x, y, by or x)
    (x_scale, x_label), (y_scale, y_label) = (
        _QUANTITIES.get(key, (1, key)) for key in (x, y)
    )
    figure, axes = _axes(7, 4.5)
    rivals = [method for method in curves if method != reference]
    for method, settings in curves.items():
        runs = [np.array(setting) * (x_scale, y_scale) for setting in settings]
        if method not in rivals:
            _draw_reference(axes, method, runs)
            continue
        index = rivals.index(method)
        style = _style(index)
        if by in (None, x):  # marks of the same setting stand side by side
            style["transform"] = _shifted(axes, 4 * (index - (len(rivals) - 1) / 2))
        _draw_runs(axes, method, runs, style)
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.grid(color=_PALE, linewidth=0.6)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return _finished(figure, path)


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
        ValueError: If nothing was recorded, or `layer` names no kernel or several.
    """
    name = _kernel_named(history, layer)
    indices = moments
    if isinstance(moments, int):
        first, last = _search(history.phases)
        spaced = np.linspace(first, last, max(moments, 1))
        indices = sorted({round(float(at)) for at in spaced})
    masks = [history.masks[name][index] for index in indices]
    figure, panels = _panels(tile(masks[0]).shape, len(masks))
    for panel, mask, index in zip(panels, masks, indices, strict=False):
        image = _draw_mask(panel, mask)
        panel.set_title(_moment(history, index), fontsize=8)
    for panel in panels[len(masks) :]:
        panel.set_visible(False)
    height, width = masks[0].shape[2:]
    places = f", at {height}x{width} positions" if height * width > 1 else ""
    figure.suptitle(f"{name}{places}", fontsize=10)
    figure.supxlabel("blocks of input channels", fontsize=8)
    figure.supylabel("blocks of output channels", fontsize=8)
    figure.colorbar(image, ax=panels, label="mask", shrink=0.7)
    return _finished(figure, path)


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
    figure = _figure(7, 4.8)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    edges = _edges(history.updates)
    norm = require("matplotlib.colors", "plots").LogNorm(vmin=1e-3, vmax=1)
    heat = upper.pcolormesh(edges, levels, np.transpose(shares), norm=norm, cmap=_HEAT)
    figure.colorbar(heat, ax=upper, label="share of the blocks")
    upper.set(ylabel="mask")
    if layer:
        figure.suptitle(names[0], fontsize=10)
    warm = [index for index, phase in enumerate(history.phases) if phase != "frozen"]
    lower.semilogy(
        [history.updates[index] for index in warm],
        [history.temperatures[index] for index in warm],
        color=COLOURS[1],
        marker=".",
    )
    lower.set(xlabel="optimizer updates", ylabel="temperature")
    lower.tick_params(axis="y", which="minor", labelleft=False)  # they overlap
    _mark_phases((upper, lower), history.phases, edges)
    return _finished(figure, path)


def tile(mask):
    """A mask `(outputs, inputs, height, width)` as one picture.

    Returns:
        Array `(height * outputs, width * inputs)`: at each kernel position a map with a
        row for each block of outputs.
    """
    outputs, inputs, height, width = mask.shape
    return mask.transpose(2, 0, 3, 1).reshape(height * outputs, width * inputs)


# The data behind the pictures


def _sparsities(report):
    """Dict from the short names of kernels to their sparsities."""
    if not isinstance(report, dict):
        report = {kernel.name: kernel.sparsity for kernel in report.kernels}
    return dict(zip(_short(report), report.values(), strict=True))


def _short(names):
    """Names of kernels without the model that all lie in, and without "/kernel".

    Keras numbers models without a name: the same network has another one each time.
    """
    names = list(names)
    if len({name.split("/")[0] for name in names}) == 1 < len(names):
        inside = [name.partition("/")[2] for name in names]
        names = inside if all("/" in name for name in inside) else names
    if all(name.endswith("/kernel") for name in names):
        names = [name.removesuffix("/kernel") for name in names]
    return names


def _common_names(curves):
    names = [list(shares) for shares in curves.values()]
    if not names or not names[0] or any(other != names[0] for other in names):
        raise ValueError(
            "Argument `reports` must hold at least one report, and all must be of "
            "the same kernels: build the models with the same layer names. Received: "
            f"{ {method: list(shares) for method, shares in curves.items()} }"
        )
    return names[0]


def _curves(points, x, y, by):
    """Dict from methods to a list of settings, each a list of pairs of x and y."""
    lacking = [p for p in points if any(k not in p for k in ("method", x, y, by))]
    if lacking or not points:
        raise ValueError(
            "Argument `points` must hold dicts with the keys "
            f"{sorted({'method', x, y, by})}. Received: "
            + (f"one without all of these: {lacking[0]}" if lacking else "no point")
        )
    curves = {}
    for point in points:
        settings = curves.setdefault(point["method"], {})
        settings.setdefault(point[by], []).append((point[x], point[y]))
    return {method: list(settings.values()) for method, settings in curves.items()}


def _check_recorded(history):
    if not history.updates:
        raise ValueError(
            "Argument `history` must have recorded something: pass it to `fit` in "
            f"`callbacks` first. Received: {history!r} without any moment"
        )


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


# Figures and axes


def _figure(width, height):
    figure = require("matplotlib.figure", "plots").Figure
    return figure(figsize=(width, height), layout="constrained")


def _axes(width, height):
    figure = _figure(width, height)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _layer_axes(names):
    """Axes with a row for each layer, in the order of the network."""
    figure, axes = _axes(7, max(2.5, 0.28 * len(names) + 1.2))
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)
    return figure, axes


def _panels(shape, count):
    """Axes for pictures of a shape, arranged so that the figure is not too slim."""
    ratio = min(max(shape[1] / shape[0], 0.25), 6)
    columns = min(
        range(1, count + 1),
        key=lambda n: abs(np.log(n * ratio / -(-count // n) / 1.8)) - (count % n == 0),
    )
    rows = -(-count // columns)
    height = min(7 / columns / ratio + 0.5, 3.5)
    figure = _figure(8, rows * height + 0.9)
    return figure, figure.subplots(rows, columns, squeeze=False).ravel()


def _draw_runs(axes, method, runs, style):
    """A curve with a mark for each array `(seeds, 2)`, and bars where seeds differ."""
    means = np.array([run.mean(0) for run in runs])
    deviations = np.array([run.std(0, ddof=min(1, len(run) - 1)) for run in runs])
    order = np.argsort(means[:, 0])
    (x, y), (x_bar, y_bar) = means[order].T, deviations[order].T
    bars = {"xerr": x_bar if x_bar.any() else None, "yerr": y_bar}
    bars = bars if y_bar.any() or x_bar.any() else {}
    axes.errorbar(x, y, label=method, capsize=2.5, **bars, **style)
    for sign in (-1, 1):  # matplotlib leaves shifted marks out of the limits
        axes.update_datalim(np.transpose([x + sign * x_bar, y + sign * y_bar]))
    axes.autoscale_view()


def _draw_reference(axes, method, runs):
    if len(runs) > 1:
        style = {"color": _GREY, "marker": ".", "linestyle": "--"}
        _draw_runs(axes, method, runs, style)
        return
    axes.axhline(runs[0].mean(0)[1], color=_GREY, linestyle="--", label=method)


def _shifted(axes, points):
    """The axes' transformation, moved to the right by so many points of a print."""
    transforms = require("matplotlib.transforms", "plots")
    shift = transforms.ScaledTranslation(points / 72, 0, axes.figure.dpi_scale_trans)
    return axes.transData + shift


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
        panel.axhline(row * outputs - 0.5, color=_DARK, linewidth=0.7)
    for column in range(1, width):
        panel.axvline(column * inputs - 0.5, color=_DARK, linewidth=0.7)
    panel.set(xticks=[], yticks=[])
    return image


def _mark_total(axes, report):
    total = getattr(report, "sparsity", None)
    if total is None:
        return
    axes.axvline(100 * total, color=_DARK, linewidth=1, linestyle="--")
    axes.annotate(
        f"all {total:.1%}",
        (100 * total, 1),
        xycoords=("data", "axes fraction"),
        ha="center",
        va="bottom",
        fontsize=8,
    )


def _mark_phases(panels, phases, edges):
    for index in range(1, len(phases)):
        if phases[index] != phases[index - 1]:
            for axes in panels:
                axes.axvline(edges[index], color=_DARK, linewidth=1, linestyle="--")
            panels[0].annotate(
                f" {phases[index]}",
                (edges[index], 1),
                xycoords=("data", "axes fraction"),
                va="bottom",
                fontsize=8,
            )


def _style(index):
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
    }


def _finished(figure, path):
    if path is not None:
        with staged(path) as scratch:
            figure.savefig(scratch, dpi=150)
    return figure
