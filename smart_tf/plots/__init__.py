"""Pictures of what pruning does: figures of matplotlib, which is loaded when drawing.

Every function returns a `matplotlib.figure.Figure`, which a notebook shows by itself,
and writes it to `path` if there is one; the suffix (`.png`, `.svg`, `.pdf`) decides
how. No window is opened, and no global state of matplotlib is touched.
"""

from smart_tf.plots.layers import channel_widths, sparsity_by_layer
from smart_tf.plots.masks import mask_histogram, mask_map
from smart_tf.plots.tradeoffs import tradeoff

__all__ = [
    "channel_widths",
    "mask_histogram",
    "mask_map",
    "sparsity_by_layer",
    "tradeoff",
]
