"""Pictures with a row for each layer: how sparse it is, how wide it is."""

import numpy as np

from smart_tf.plots.figures import (
    COLOURS,
    DARK,
    PALE,
    finished,
    new_axes,
    shortened,
    style_of,
)

_WIDTH = 7  # inches
_LINE = 100  # characters of a legend that fit into it


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
        TypeError: If something else is given.
        ValueError: If there is no report, or their kernels are none or not the same.
    """
    reports = reports if isinstance(reports, dict) else {"": reports}
    curves = {method: _sparsities(report) for method, report in reports.items()}
    names = _common_names(curves)
    figure, axes = _layer_axes(names, "reports")
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
                label=shortened(method, _LINE // 2),
                linestyle="none",
                markersize=5,
                **style_of(index),
            )
        axes.set_xlim(-1, 101)
        axes.grid(axis="y", color=PALE, linewidth=0.6)
        longest = max(min(len(method), _LINE // 2) for method in curves)
        columns = max(1, min(4, _LINE // (longest + 6)))  # 6: a mark and its space
        place = {"loc": "outside upper center", "ncols": columns}
        figure.legend(**place, frameon=False, fontsize=8)
    axes.set_xlabel("weights that are zero, %")
    return finished(figure, path)


def channel_widths(comparison, path=None):
    """The output channels of every kernel, before and after.

    Args:
        comparison: `Comparison` of `smart_tf.compare`.
        path: Where to write the picture, or None.

    Returns:
        `matplotlib.figure.Figure`.

    Raises:
        ValueError: If the two networks have no kernels.
    """
    figure, axes = _layer_axes(_short(comparison.widths), "comparison")
    rows = np.arange(len(comparison.widths))
    before, after = zip(*comparison.widths.values(), strict=True)
    axes.barh(rows, before, color=PALE, label="before")
    axes.barh(rows, after, color=COLOURS[0], height=0.55, label="after")
    axes.set(xlabel="output channels")
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    return finished(figure, path)


def _sparsities(report):
    """Dict from the short names of kernels to their sparsities."""
    if hasattr(report, "kernels"):
        report = {kernel.name: kernel.sparsity for kernel in report.kernels}
    if not isinstance(report, dict):
        raise TypeError(
            "Argument `reports` must be a `PruningReport`, or a dict from names of "
            f"methods to reports. Received: {report!r} in place of a report"
        )
    return dict(zip(_short(report), report.values(), strict=True))


def _short(names):
    """Names of kernels without the model that all lie in, and without "/kernel".

    Keras numbers models without a name: the same network has another one each time.
    """
    names = list(names)
    if len({name.split("/")[0] for name in names}) == 1:
        inside = [name.partition("/")[2] for name in names]
        names = inside if all("/" in name for name in inside) else names
    if all(name.endswith("/kernel") for name in names):
        names = [name.removesuffix("/kernel") for name in names]
    return names


def _common_names(curves):
    names = [list(shares) for shares in curves.values()]
    if not names or any(other != names[0] for other in names):
        raise ValueError(
            "Argument `reports` must hold at least one report, and all must be of "
            "the same kernels: build the models with the same layer names. Received: "
            f"{ {method: list(shares) for method, shares in curves.items()} }"
        )
    return names[0]


def _layer_axes(names, argument):
    """Axes with a row for each layer, in the order of the network."""
    if not names:
        raise ValueError(
            f"Argument `{argument}` must be of a model with kernels, which are what is "
            "drawn. Received: no kernel"
        )
    figure, axes = new_axes(_WIDTH, max(2.5, 0.28 * len(names) + 1.2))
    labels = [shortened(name, 45) for name in names]
    axes.set_yticks(range(len(names)), labels, fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)
    return figure, axes


def _mark_total(axes, report):
    total = getattr(report, "sparsity", None)
    if total is None:
        return
    axes.axvline(100 * total, color=DARK, linewidth=1, linestyle="--")
    axes.annotate(
        f"all {total:.1%}",
        (100 * total, 1),
        xycoords=("data", "axes fraction"),
        ha="center",
        va="bottom",
        fontsize=8,
    )
