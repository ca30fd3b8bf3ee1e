"""Drives the phases of algorithm 1, in `fit` or in a loop of the user's own."""

import warnings

import numpy as np

from smart_tf import flavours
from smart_tf.optimizer import (
    around,
    constant_learning_rate,
    fresh_copy,
    peak_learning_rate,
    transfer,
)
from smart_tf.ranking import Ranking, check_built, check_ranking
from smart_tf.schedules import check_schedule
from smart_tf.search import FROZEN, NOT_STARTED


class Pruner:
    """Takes a pruned model through pre-training, search and fine-tuning.

    The temperature falls inside the training graph, with every optimizer update.
    What happens rarely is done here, between two updates: the logits start from the
    weights' magnitudes when the search begins, the method intervenes at milestones
    of its own, and the masks freeze when the search ends.

    Example of a custom training loop:

    ```python
    pruner = smart_tf.Pruner(pruned, TemperatureSchedule(0, 1000))
    optimizer = pruner.wrap_optimizer(keras.optimizers.Adam(1e-3))
    pruner.start()
    for x, y in batches:
        with tf.GradientTape() as tape:
            loss = loss_fn(y, pruned(x, training=True))
        weights = pruned.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights))
        pruner.step()
    ```

    Args:
        model: A model from `smart_tf.prune`, or one with `PrunableLayer`s in it.
        schedule: `TemperatureSchedule`, or None to go on with the one that the
            model was saved with.

    Raises:
        ValueError: If the model has no pruning wrappers, is not built, is a part of a
            model that was pruned in channels of several layers, or has wrappers of
            several methods.
    """

    def __init__(self, model, schedule=None):
        layers = flavours.wrappers(model)
        if not layers:
            raise ValueError(
                "Argument `model` has no pruning wrappers: call `smart_tf.prune` on "
                f"it first. Received: model={model!r}"
            )
        check_built(model, layers)
        self._model = model
        check_schedule(schedule)
        check_ranking(model, layers)
        self.ranking = Ranking(layers)
        self.layers = layers
        self.flavour = flavours.of(layers[0])
        self.schedule = schedule or layers[0].schedule
        self.optimizer = None
        self.updates_per_step = None
        self._updates_at_most = 0
        self._starts_without_logits = False
        self._due = 0
        self._is_over = False
        self._decided = None
        self.frozen_after = None
        self.gap_at_freeze = None

    @property
    def phase(self):
        """`search.DENSE`, `SEARCHING` or `FROZEN`."""
        return self.ranking.phase

    @property
    def is_frozen(self):
        """Whether the masks are fixed."""
        return self.phase == FROZEN

    def start(self):
        """Begins, or goes on where a restored model stood.

        Raises:
            ValueError: If there is no schedule.
        """
        self._decided = None
        if self.schedule is None:
            raise ValueError(
                "Argument `schedule` must be a `TemperatureSchedule`: the model has "
                "none of its own. Received: schedule=None"
            )
        for layer in self.layers:
            layer.schedule = self.schedule
            layer.driven = True
        if self.ranking.step == NOT_STARTED:
            for layer in self.layers:
                layer.pruning_step.assign(0)
        self.updates_per_step = None
        self._updates_at_most = self.ranking.step
        self._starts_without_logits = self._updates_at_most <= self.schedule.begin_step
        self._due = 0
        self._advance()

    def step(self, updates=1):
        """To be called after optimizer updates.

        Args:
            updates: Integer, how many updates there were since the last call, or
                batches: `updates_per_step` is what the first one of them has made.

        Returns:
            Whether this call froze the masks. `frozen_after` is the number of updates
            by then, and `gap_at_freeze` the `mask_gap` just before.
        """
        if self.updates_per_step is None and updates > 0 and not self._is_over:
            made = self.ranking.step - self._updates_at_most
            self.updates_per_step = max(1, -(-made // updates))
        self._updates_at_most += updates * (self.updates_per_step or 1)
        return self._advance()

    def _advance(self):
        # Reading a variable would wait for the device, so only near a milestone.
        if self._is_over or self._updates_at_most < self._due:
            return False
        self._is_over = self.is_frozen
        if self._is_over:
            return False
        self._updates_at_most = step = self.ranking.step
        begin, end = self.schedule.begin_step, self.schedule.end_step
        if step < end and self.ranking.has_diverged:
            return False  # `TerminateOnNaN` may end this in peace; the freeze will not.
        if self._starts_without_logits and step >= begin:
            self._starts_without_logits = False
            self.ranking.initialise_logits()
        next_update = self.ranking.update(self.schedule)
        self._due = begin if self._starts_without_logits else next_update
        if step >= end:
            self._freeze(step)
        return step >= end

    def _freeze(self, step):
        soft = self.ranking.soft_masks()
        self.ranking.freeze()
        self.frozen_after = step
        self.gap_at_freeze = self.ranking.gap(soft, self.ranking.current_masks())
        optimizer = getattr(self.optimizer, "inner_optimizer", self.optimizer)
        if isinstance(optimizer, self.flavour.PruningOptimizer):
            optimizer.stop_logits()
        for mask in self.ranking.masks:
            average = self.flavour.average_of(
                self.weights_optimizer, mask.weight.variable
            )
            if average is not None:
                mask.fold(average)

    @property
    def weights_optimizer(self):
        """The part of the optimizer that trains the weights; None without any."""
        optimizer = getattr(self.optimizer, "inner_optimizer", self.optimizer)
        return getattr(optimizer, "weights_optimizer", optimizer)

    def wrap_optimizer(self, optimizer, mask_optimizer=None):
        """An optimizer that trains the logits apart from the weights.

        Args:
            optimizer: The weights' optimizer. What it has learnt of the weights is
                kept; the object itself is not used any further.
            mask_optimizer: None for the method's own (SGD with momentum, following
                the decay of the weights' learning rate), `"same"` for a copy of
                `optimizer` without weight decay, or an optimizer.

        Returns:
            A `PruningOptimizer`; `optimizer` itself if it is one already or if there
            are no logits. A `mask_optimizer` is not needed then, and a warning says so
            if it is another one.
        """
        self.optimizer = self._wrapped(optimizer, mask_optimizer)
        return self.optimizer

    def _wrapped(self, optimizer, mask_optimizer):
        if not isinstance(optimizer, self.flavour.keras.optimizers.Optimizer):
            raise TypeError(
                "Argument `optimizer` must be an optimizer of the model's Keras, and "
                f"not a legacy one. Received: {optimizer!r}"
            )
        logits = [v for layer in self.layers for v in layer.trainable_logits()]
        if isinstance(optimizer, self.flavour.PruningOptimizer) or not logits:
            self._warn_if_ignored(optimizer, mask_optimizer)
            return optimizer
        if isinstance(optimizer, self.flavour.LossScaleOptimizer):
            inner = self._wrapped(optimizer.inner_optimizer, mask_optimizer)
            if inner is optimizer.inner_optimizer:
                return optimizer
            return around(optimizer, inner)
        mask_optimizer = self._mask_optimizer(optimizer, mask_optimizer)
        weights_optimizer = fresh_copy(optimizer)
        wrapped = self.flavour.PruningOptimizer(
            weights_optimizer,
            mask_optimizer,
            peak_rate=peak_learning_rate(weights_optimizer),
            mask_rate=None
            if self.layers[0].method.keeps_mask_optimizer
            else constant_learning_rate(mask_optimizer),
        )
        if int(optimizer.iterations.numpy()) > 0:
            trained = self.flavour.trained_by(optimizer, self._model)
            known = {id(v): v for v in [*trained, *logits]}
            wrapped.build(list(known.values()))
            transfer(optimizer, weights_optimizer)
        return wrapped

    def _warn_if_ignored(self, optimizer, mask_optimizer):
        now = getattr(optimizer, "mask_optimizer", None)
        if mask_optimizer is None or type(now) is type(mask_optimizer):
            return
        if now is not None and isinstance(mask_optimizer, str):
            return  # "same" as what it was before
        why = (
            "the method has no logits to train"
            if now is None
            else f"the model's optimizer has a {type(now).__name__} for them: compile "
            "it anew to change that"
        )
        warnings.warn(
            f"Argument `mask_optimizer` is ignored, since {why}. "
            f"Received: {mask_optimizer!r}",
            stacklevel=4,
        )

    def _mask_optimizer(self, optimizer, mask_optimizer):
        method = self.layers[0].method
        if mask_optimizer is None:
            mask_optimizer = method.mask_optimizer_config()
        elif method.keeps_mask_optimizer:
            raise ValueError(
                "Argument `mask_optimizer` must be None: with this method the logits' "
                f"optimizer is not free. Received: {mask_optimizer!r}, method={method}"
            )
        if isinstance(mask_optimizer, dict):
            make = getattr(self.flavour.keras.optimizers, mask_optimizer["class_name"])
            mask_optimizer = make(**mask_optimizer["config"])
            accumulation = getattr(optimizer, "gradient_accumulation_steps", None)
            if accumulation:
                mask_optimizer.gradient_accumulation_steps = accumulation
        elif isinstance(mask_optimizer, str) and mask_optimizer == "same":
            mask_optimizer = fresh_copy(optimizer)
            if mask_optimizer.weight_decay is not None:
                mask_optimizer.weight_decay = 0.0  # AdamW's config must have a number
        elif isinstance(mask_optimizer, self.flavour.keras.optimizers.Optimizer):
            mask_optimizer = fresh_copy(mask_optimizer)
        else:
            raise TypeError(
                'Argument `mask_optimizer` must be None, "same" or an optimizer of '
                f"the model's Keras. Received: {mask_optimizer!r}"
            )
        scale = getattr(optimizer, "loss_scale_factor", None)
        if scale is not None:
            mask_optimizer.loss_scale_factor = scale
        return mask_optimizer

    def finish(self):
        """After the last update: what averaging of weights may have undone."""
        if self.is_frozen:
            for mask in self.ranking.masks:
                mask.fold()

    def metrics(self):
        """How far the search is, for a training log: the same keys in every phase.

        Two kinds of masks are compared: the soft ones, which the network runs with
        (1 before the search), and the hard ones, which the freeze would make now.
        Takes a pass over all masks, so call it once in a while.

        Returns:
            Dict of floats:

            - `temperature`: of the last update; its first value before the search.
            - `sparsity`: fraction of the budget that the hard masks drop.
            - `soft_sparsity`: fraction of the budget that the soft masks drop.
            - `mask_gap`: mean of `|soft - hard|` over the weights, which is how much
              the freeze would change; 0 from the freeze on.
            - `mask_flips`: fraction of the blocks (and coupled channels) whose hard
              mask was the opposite at the last call; 0 in the first one.

            All but the first are NaN if the training has diverged.
        """
        ranking = self.ranking
        temperature = float(self.layers[0].search_state.numpy()[1])
        if not self.is_frozen and ranking.has_diverged:
            names = ("sparsity", "soft_sparsity", "mask_gap", "mask_flips")
            return {"temperature": temperature, **dict.fromkeys(names, float("nan"))}
        soft, hard = ranking.soft_masks(), ranking.current_masks()
        decided = ranking.decisions(hard)[0] > 0.5
        before = decided if self._decided is None else self._decided
        self._decided = decided
        return {
            "temperature": temperature,
            "sparsity": ranking.sparsity(hard),
            "soft_sparsity": ranking.sparsity(soft),
            "mask_gap": ranking.gap(soft, hard),
            "mask_flips": float(np.mean(decided != before)),
        }
