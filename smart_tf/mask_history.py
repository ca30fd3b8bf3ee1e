"""`MaskHistory`: what the masks looked like while they were searched for."""

import numpy as np

from smart_tf import flavours
from smart_tf.flavours.callback import Callback
from smart_tf.prunable import kernel_names
from smart_tf.ranking import joined
from smart_tf.search import PHASES, SearchState
from smart_tf.structures.base import is_count


class MaskHistory(Callback):
    """Keeps the masks of a model at moments of its training.

    Works in `fit` on Keras 3 and on `tf_keras` models, beside `SmartPruningCallback`
    and in any order with it. `smart_tf.plots.mask_map` and
    `smart_tf.plots.mask_histogram` draw what it has kept.

    A moment costs a pass over the masks, and two bytes of memory for each block: next
    to nothing for blocks and channels, and half the size of the kernels for single
    weights and N:M, where `kernels` restricts it to a few.

    Example:

    ```python
    history = smart_tf.MaskHistory()
    pruned.fit(x, y, epochs=20, callbacks=[smart_tf.SmartPruningCallback(), history])
    smart_tf.plots.mask_map(history, "conv_2", path="conv_2.png")
    ```

    Args:
        every: Integer >= 1, how many optimizer updates lie between two moments at
            least. Default: a moment at the end of each epoch. A moment is taken
            between two calls of the training step, before the next one begins.
        kernels: String or list of strings, the kernels to keep: all that have one of
            these in their names. Default: all.

    Attributes:
        updates: List of integers, the optimizer updates that were done at each moment.
        phases: List of `"dense"`, `"searching"` or `"frozen"`.
        temperatures: List of floats.
        masks: Dict from the name of a kernel, as in `smart_tf.report`, to a list of
            float16 arrays `(outputs, inputs, height, width)`: the mask of each block,
            soft during the search and 0 or 1 after it.

    A second `fit` of the same model adds to them; with another model they begin anew.

    Raises:
        ValueError: If `every` is no positive integer, or `kernels` no names; in `fit`,
            before the first step, if the model has no pruning wrappers or no kernel is
            of these names.
    """

    def __init__(self, every=None, kernels=None):
        super().__init__()
        if every is not None and not is_count(every):
            raise ValueError(
                f"Argument `every` must be an integer >= 1, or None. Received: {every=}"
            )
        if isinstance(kernels, str):
            kernels = [kernels]
        if kernels is not None and not _are_names(kernels):
            raise ValueError(
                "Argument `kernels` must be a string or a list of one or more strings, "
                f"or None for all kernels. Received: {kernels=}"
            )
        self.every = every
        self.kernels = kernels
        self.updates, self.phases, self.temperatures, self.masks = [], [], [], {}
        self._names = None

    def set_model(self, model):
        super().set_model(model)
        layers = [] if model is None else flavours.wrappers(model)
        if not layers:
            raise ValueError(
                "`MaskHistory` must be given to a model with pruning wrappers: call "
                f"`smart_tf.prune` on it first. Received: model={model!r}"
            )
        chosen = self._chosen(layers)
        if chosen != self._names:  # another model, and not a second `fit`
            self.updates, self.phases, self.temperatures = [], [], []
            self.masks = {name: [] for name in chosen.values()}
        self._layers, self._names = layers, chosen

    def on_train_begin(self, logs=None):
        self._done = 0

    def on_train_batch_begin(self, batch, logs=None):
        # Not at the end of the last one: the masks might freeze after this callback.
        if self.every and batch - self._done >= self.every:
            self.record()
            self._done = batch

    def on_train_batch_end(self, batch, logs=None):
        self._batches = batch + 1

    def on_epoch_end(self, epoch, logs=None):
        if not self.every or self._batches - self._done >= self.every:
            self.record()
            self._done = self._batches
        self._done -= self._batches  # the next epoch counts from 0

    def record(self):
        """Keeps the masks of now.

        In a training loop of your own, call `set_model(pruned)` first.
        """
        ranking = joined(self._layers)
        state = SearchState(*self._layers[0].search_state.numpy())
        self.updates.append(max(ranking.step, 0))
        self.phases.append(PHASES[float(state.phase)])
        self.temperatures.append(float(state.temperature))
        for mask, values in zip(ranking.masks, ranking.soft_masks(), strict=True):
            if mask in self._names:
                kept = mask.oihw(values).astype(np.float16)
                self.masks[self._names[mask]].append(kept)

    def _chosen(self, layers):
        """Dict from each `WeightMask` to the name of its kernel."""
        masks = [m for layer in layers for m in layer.weight_masks if m.is_kernel]
        names = dict(zip(masks, kernel_names([m.weight for m in masks]), strict=True))
        if self.kernels is None:
            return names
        lost = [k for k in self.kernels if not any(k in n for n in names.values())]
        if lost:
            raise ValueError(
                "Argument `kernels` must hold names of kernels, or parts of them. "
                f"Received: {lost}, which are in none of {list(names.values())}"
            )
        return {
            mask: name
            for mask, name in names.items()
            if any(part in name for part in self.kernels)
        }


def _are_names(values):
    """Whether it is a list of one or more strings."""
    is_list = isinstance(values, (list, tuple, set))
    return is_list and len(values) > 0 and all(isinstance(v, str) for v in values)
