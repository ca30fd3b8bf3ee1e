"""`SmartPruningCallback`: the three phases inside one `fit`."""

import warnings

import keras

from smart_tf.optimizer import set_optimizer
from smart_tf.pruner import Pruner
from smart_tf.ranking import DENSE
from smart_tf.schedules import TemperatureSchedule, check_schedule


class SmartPruningCallback(keras.callbacks.Callback):
    """Pre-training, structure search and fine-tuning inside one `fit` (algorithm 1).

    Works on Keras 3 and on `tf_keras` models. With this callback the model's
    optimizer is put inside a `PruningOptimizer`, which gives the mask logits an
    optimizer of their own.

    `fit`'s logs get `temperature` and `sparsity` (of the hard masks) with every
    epoch.

    Example:

    ```python
    pruned = smart_tf.prune(model, sparsity=0.9, structure="16x8")
    pruned.compile("adamw", "sparse_categorical_crossentropy")
    pruned.fit(x, y, epochs=20, callbacks=[SmartPruningCallback(search_epochs=10)])
    ```

    Args:
        pretrain_epochs: Number >= 0, epochs of dense training before the search.
        search_epochs: Number > 0, epochs of the search. Default: half of what is
            left after `pretrain_epochs`, the rest is for fine-tuning.
        schedule: `TemperatureSchedule` in optimizer updates, instead of epochs.
        mask_optimizer: None for the method's own, `"same"` for a copy of the
            model's optimizer without weight decay, or an optimizer.
        initial_temperature: Float; default: the method's.
        final_temperature: Float; default: the method's.

    Raises:
        ValueError: If arguments contradict each other or are out of range; in `fit`,
            before the first step, if the run is too short for the schedule.
    """

    # What `tf_keras` asks its callbacks.
    _supports_tf_logs = False

    def __init__(
        self,
        pretrain_epochs=0,
        search_epochs=None,
        schedule=None,
        mask_optimizer=None,
        initial_temperature=None,
        final_temperature=None,
    ):
        super().__init__()
        check_schedule(schedule)
        if schedule is not None and (pretrain_epochs or search_epochs is not None):
            raise ValueError(
                "Give either `schedule` or epochs, not both. Received: "
                f"{schedule=}, {pretrain_epochs=}, {search_epochs=}"
            )
        if pretrain_epochs < 0:
            raise ValueError(
                f"Argument `pretrain_epochs` must be >= 0. Received: {pretrain_epochs=}"
            )
        if search_epochs is not None and search_epochs <= 0:
            raise ValueError(
                f"Argument `search_epochs` must be positive. Received: {search_epochs=}"
            )
        self.pretrain_epochs = pretrain_epochs
        self.search_epochs = search_epochs
        self.schedule = schedule
        self.mask_optimizer = mask_optimizer
        self.initial_temperature = initial_temperature
        self.final_temperature = final_temperature
        self.pruner = None

    def set_model(self, model):
        super().set_model(model)
        self.pruner = None
        if model is None:
            return
        # Here, before any callback restores a checkpoint into the optimizer.
        pruner = Pruner(model)
        if model.optimizer is not None:
            with model.distribute_strategy.scope():
                wrapped = pruner.wrap_optimizer(model.optimizer, self.mask_optimizer)
                # Built now, the training graph need not be traced twice.
                if not getattr(wrapped, "built", False):
                    wrapped.build(model.trainable_variables)
            set_optimizer(model, wrapped)

    def on_train_begin(self, logs=None):
        self.pruner = None

    def on_epoch_begin(self, epoch, logs=None):
        self._batches_done = 0
        if self.pruner is None:  # restored state and first epoch are known by now
            self._start(epoch)

    def on_train_batch_end(self, batch, logs=None):
        self.pruner.step(batch + 1 - self._batches_done)
        self._batches_done = batch + 1

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs.update(self.pruner.metrics())

    def on_train_end(self, logs=None):
        self.pruner.finish()
        if not self.pruner.is_frozen:
            schedule, phase = self.pruner.schedule, self.pruner.phase
            when = "before" if phase == DENSE else "in the middle of"
            warnings.warn(
                f"Training ended {when} the search, at update "
                f"{self.pruner.ranking.step} of {schedule.begin_step} to "
                f"{schedule.end_step}: no mask is hard yet. Train on, or "
                "`strip_pruning` will cut them hard without fine-tuning.",
                stacklevel=2,
            )

    def _start(self, epoch):
        """Resolves the schedule now that the run's length and state are known."""
        pruner = Pruner(self.model)
        steps, epochs = self.params.get("steps"), self.params.get("epochs")
        schedule = self._resolve_schedule(pruner, steps, epochs)
        updates = max(pruner.ranking.step, 0)
        if steps is not None and not pruner.is_frozen:
            available = updates + (epochs - epoch) * steps
            if available < schedule.end_step:
                raise ValueError(
                    "The run is too short for its pruning schedule: the masks would "
                    f"freeze at update {schedule.end_step}, but `fit` ends at update "
                    f"{available} ({epochs - epoch} epochs of {steps} steps, from "
                    f"update {updates}). Train for more epochs, or give "
                    f"`SmartPruningCallback` fewer. Received: {schedule}"
                )
        if pruner.layers[0].schedule not in (None, schedule):
            # A graph traced before has the other schedule built in.
            self.model.make_train_function(force=True)
        pruner.schedule = schedule
        pruner.optimizer = self.model.optimizer
        pruner.start()
        self.pruner = pruner

    def _resolve_schedule(self, pruner, steps, epochs):
        layer = pruner.layers[0]
        if self.schedule is not None:
            return self.schedule
        stored = layer.schedule is not None and pruner.ranking.step >= 0
        if stored and self.search_epochs is None and not self.pretrain_epochs:
            return layer.schedule
        if steps is None:
            raise ValueError(
                "`SmartPruningCallback` cannot turn epochs into updates, since the "
                "number of steps per epoch is unknown: pass `steps_per_epoch` to "
                "`fit`, or `schedule` to the callback."
            )
        search_epochs = self.search_epochs
        if search_epochs is None:
            search_epochs = (epochs - self.pretrain_epochs) / 2
        begin = round(self.pretrain_epochs * steps)
        end = begin + round(search_epochs * steps)
        if end <= begin:
            raise ValueError(
                f"A run of {epochs} epochs of {steps} steps leaves no update for the "
                f"search. Received: pretrain_epochs={self.pretrain_epochs}, "
                f"search_epochs={self.search_epochs}"
            )
        method = layer.method
        return TemperatureSchedule(
            begin,
            end,
            self.initial_temperature or method.initial_temperature,
            self.final_temperature or method.final_temperature,
        )

    # `tf_keras` asks its callbacks which hooks they have.
    def _implements_train_batch_hooks(self):
        return True

    def _implements_test_batch_hooks(self):
        return False

    def _implements_predict_batch_hooks(self):
        return False
