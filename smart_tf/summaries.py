"""What `fit` tells of the search: to TensorBoard, and in a few words at the freeze."""

import pathlib

import numpy as np
import tensorflow as tf
from rich.panel import Panel
from rich.table import Table

from smart_tf.plots.masks import tile
from smart_tf.prunable import kernel_names

_LARGEST_IMAGE = 512


class MaskSummaries:
    """Writes TensorBoard summaries of the masks of a model.

    For each kernel `NAME` there are the scalar `NAME/sparsity` (of the hard mask, as
    a fraction of its weights), the histograms `NAME/mask` and `NAME/logits` and the
    image `NAME/map`, black where the network runs without a block and white where
    with it. The numbers of `Pruner.metrics` are scalars `pruning/...`.

    Args:
        log_dir: Path of TensorBoard's folder; the summaries are its run `pruning`.
    """

    def __init__(self, log_dir):
        folder = pathlib.Path(log_dir) / "pruning"
        self._writer = tf.summary.create_file_writer(str(folder))

    def write(self, ranking, metrics, step):
        """Writes the masks of now.

        Args:
            ranking: `smart_tf.ranking.Ranking` of the model.
            metrics: Dict of floats.
            step: Integer, what TensorBoard shows as the step.
        """
        columns = ranking.masks, ranking.soft_masks(), ranking.current_masks()
        rows = [row for row in zip(*columns, strict=True) if row[0].is_kernel]
        names = kernel_names([mask.weight for mask, _, _ in rows])
        with self._writer.as_default(step):
            for name, value in metrics.items():
                tf.summary.scalar(f"pruning/{name}", value)
            for name, (mask, soft, hard) in zip(names, rows, strict=True):
                self._write_kernel(name, mask, soft, hard, ranking.logits_of(mask))
        self._writer.flush()

    def _write_kernel(self, name, mask, soft, hard, logits):
        kept = (mask.counts * hard).sum() / mask.counts.sum()
        tf.summary.scalar(f"{name}/sparsity", 1.0 - kept)
        tf.summary.histogram(f"{name}/mask", soft)
        if logits is not None:
            tf.summary.histogram(f"{name}/logits", logits)
        tf.summary.image(f"{name}/map", _image(tile(mask.oihw(soft))))

    def close(self):
        """Closes the file that is written to."""
        self._writer.close()


def _image(picture):
    """An array `(rows, columns)` as an image `(1, rows, columns, 1)`, not too large."""
    image = np.asarray(picture, np.float32)[None, :, :, None]
    size = np.minimum(picture.shape, _LARGEST_IMAGE)
    return tf.image.resize(image, size, method="area")


def freeze_summary(report, update, gap):
    """A few facts about masks that have just been frozen.

    Args:
        report: `PruningReport` of the model.
        update: Integer, after how many optimizer updates.
        gap: Float, by how much the freeze changed the masks.

    Returns:
        `rich.panel.Panel`.
    """
    emptied = sorted(report.kernels, key=lambda kernel: -kernel.sparsity)[:3]
    weights = sum(kernel.weights for kernel in report.kernels)
    facts = Table.grid(padding=(0, 2))
    facts.add_row("sparsity", f"{report.sparsity:.2%} of {weights:,} weights")
    if report.cut:
        facts.add_row("when cut", f"{report.cut[1]:.2%} of the {report.cut[0]} gone")
    facts.add_row("blocks kept", report.blocks_kept)
    names = [f"{kernel.name} {kernel.sparsity:.1%}" for kernel in emptied]
    facts.add_row("emptied most", "\n".join(names))
    facts.add_row("mask gap before", f"{gap:.2%}")
    title = f"masks frozen after update {update:,}"
    return Panel(facts, title=title, title_align="left", expand=False)
