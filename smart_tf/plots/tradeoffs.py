"""Pictures of what methods pay for how much."""

import numpy as np

from smart_tf.export.optional import require
from smart_tf.plots.figures import GREY, PALE, finished, new_axes, style_of

_QUANTITIES = {
    "sparsity": (100, "weights that are zero, %"),
    "accuracy": (100, "accuracy, %"),
    "bytes": (1e-3, "file, kB"),
    "macs": (1e-6, "multiply-accumulates, millions"),
    "latency": (1, "latency, ms"),
}


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
    figure, axes = new_axes(7, 4.5)
    rivals = [method for method in curves if method != reference]
    for method, settings in curves.items():
        runs = [np.array(setting) * (x_scale, y_scale) for setting in settings]
        if method not in rivals:
            _draw_reference(axes, method, runs)
            continue
        index = rivals.index(method)
        style = style_of(index)
        if by in (None, x):  # marks of the same setting stand side by side
            style["transform"] = _shifted(axes, 4 * (index - (len(rivals) - 1) / 2))
            axes.margins(x=0.1)  # what is shifted shall not leave the picture
        _draw_runs(axes, method, runs, style)
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.grid(color=PALE, linewidth=0.6)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return finished(figure, path)


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
        style = {"color": GREY, "marker": ".", "linestyle": "--"}
        _draw_runs(axes, method, runs, style)
        return
    axes.axhline(runs[0].mean(0)[1], color=GREY, linestyle="--", label=method)


def _shifted(axes, points):
    """The axes' transformation, moved to the right by so many points of a print."""
    transforms = require("matplotlib.transforms", "plots")
    shift = transforms.ScaledTranslation(points / 72, 0, axes.figure.dpi_scale_trans)
    return axes.transData + shift
