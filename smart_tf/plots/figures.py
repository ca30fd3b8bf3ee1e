"""What all pictures share: empty figures, colours, and writing to a file."""

import pathlib

from smart_tf.export.optional import require
from smart_tf.export.staging import staged

_BRIGHT = ("#4477aa", "#ee6677", "#228833", "#aa3377", "#ccbb44", "#66ccee", "#bbbbbb")
COLOURS = (*_BRIGHT, "#ee7733", "#332288", "#000000")
"""Paul Tol's bright scheme, which colour-blind readers can tell apart, and more."""

MARKERS = "osD^vPX<>p"
DARK, GREY, PALE = "#222222", "#777777", "#dddddd"


def new_figure(width, height):
    """An empty figure of so many inches, which belongs to no window."""
    figure = require("matplotlib.figure", "plots").Figure
    return figure(figsize=(width, height), layout="constrained")


def new_axes(width, height):
    """A figure and its only axes, without a frame at the top and the right."""
    figure = new_figure(width, height)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def shortened(name, most):
    """A name without its middle, if it has more characters than `most`."""
    half = (most - 1) // 2
    return name if len(name) <= most else f"{name[:half]}…{name[-half:]}"


def style_of(index):
    """Dict: colour and mark of the curve with a number; the first 100 all differ."""
    turn, place = divmod(index, len(COLOURS))
    return {"color": COLOURS[place], "marker": MARKERS[(place + turn) % len(MARKERS)]}


def finished(figure, path):
    """The figure, written to `path` if there is one."""
    if path is not None:
        formats = figure.canvas.get_supported_filetypes()
        if pathlib.Path(path).suffix[1:].lower() not in formats:
            raise ValueError(
                "Argument `path` must end in the name of a format: "
                f".{', .'.join(formats)}. Received: path={str(path)!r}"
            )
        with staged(path) as scratch:
            figure.savefig(scratch, dpi=150)
    return figure
