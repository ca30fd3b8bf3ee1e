"""`SmartPruningCallback`: the three phases inside one `fit`."""

import math
import warnings

from smart_tf.fit_checks import (
    check_log_dir,
    check_number,
    check_search,
    warn_of_soft_masks,
)
from smart_tf.flavours.callback import Callback
from smart_tf.optimizer import set_optimizer
from smart_tf.printing import render
from smart_tf.pruner import Pruner
from smart_tf.report import report
from smart_tf.restart import check_can_restart, restart_learning_rate
from smart_tf.schedules import TemperatureSchedule, check_schedule
from smart_tf.summaries import MaskSummaries, freeze_summary


class SmartPruningCallback(Callback):
    """Pre-training, structure search and fine-tuning inside one `fit` (algorithm 1).

    Works on Keras 3 and on `tf_keras` models. With this callback the model's
    optimizer is put inside a `PruningOptimizer`, which gives the mask logits an
    optimizer of their own.

    With every epoch `fit`'s logs get `temperature`, `sparsity`, `soft_sparsity`,
    `mask_gap` and `mask_flips` (since the last epoch); `Pruner.metrics` says what they
    are. The progress bar and `History` show them wherever this callback is in the
    list; `CSVLogger`, `TensorBoard` and others that write logs come after it.

    Example:

    ```python
    pruned = smart_tf.prune(model, sparsity=0.9, structure="16x8")
    pruned.compile("adamw", "sparse_categorical_crossentropy")
    pruned.fit(x, y, epochs=20, callbacks=[SmartPruningCallback(search_epochs=10)])
    ```

    Args:
        pretrain_epochs: Number >= 0, epochs of dense training before the search.
        search_epochs: Number > 0, epochs of the search. Default: half of what is
            left after `pretrain_epochs`, the rest is for fine-tuning. A model that is
            new to pruning begins with the `initial_epoch` of `fit`.
        schedule: `TemperatureSchedule` in optimizer updates, instead of epochs and
            temperatures.
        mask_optimizer: None for the method's own, `"same"` for a copy of the
            model's optimizer without weight decay, or an optimizer.
        initial_temperature: Float; default: the method's.
        final_temperature: Float; default: the method's.
        log_dir: Path of TensorBoard's folder, or None. Once per epoch its run
            `pruning` gets sparsity, masks, logits and a map of the mask of every
            kernel; see `smart_tf.summaries.MaskSummaries`.
        verbose: Whether to print a few facts after the epoch in which the masks
            freeze. Default: where `fit` prints.
        restart_learning_rate: Whether the learning rate of `model.optimizer`, which
            must be a `LearningRateSchedule`, goes through its schedule once more in the
            updates from the freeze to the end of `fit`
            (`smart_tf.flavours.keras3.RestartedSchedule`).

    Raises:
        ValueError: If arguments contradict each other or are out of range; in `fit`,
            before the first step, if the run is too short for the schedule, or the
            learning rate has no schedule that could start over.
        TypeError: If `log_dir` is not a path, or a number of epochs is none.
        ImportError: If there is a `log_dir` and no `tensorboard`.
    """

    def __init__(
        self,
        pretrain_epochs=0,
        search_epochs=None,
        schedule=None,
        mask_optimizer=None,
        initial_temperature=None,
        final_temperature=None,
        log_dir=None,
        verbose=None,
        restart_learning_rate=False,
    ):
        super().__init__()
        check_schedule(schedule)
        also = search_epochs, initial_temperature, final_temperature
        if schedule is not None and (pretrain_epochs or also != (None, None, None)):
            raise ValueError(
                "Give either `schedule`, or epochs and temperatures, not both. "
                f"Received: {schedule=}, {pretrain_epochs=}, {search_epochs=}, "
                f"{initial_temperature=}, {final_temperature=}"
            )
        check_number("pretrain_epochs", pretrain_epochs)
        if not 0 <= pretrain_epochs < float("inf"):
            raise ValueError(
                f"Argument `pretrain_epochs` must be >= 0. Received: {pretrain_epochs=}"
            )
        check_number("search_epochs", 1 if search_epochs is None else search_epochs)
        if search_epochs is not None and not 0 < search_epochs < float("inf"):
            raise ValueError(
                f"Argument `search_epochs` must be positive. Received: {search_epochs=}"
            )
        self.pretrain_epochs = pretrain_epochs
        self.search_epochs = search_epochs
        self.schedule = schedule
        self.mask_optimizer = mask_optimizer
        self.initial_temperature = initial_temperature
        self.final_temperature = final_temperature
        check_log_dir(log_dir)
        self.log_dir = log_dir
        self.verbose = verbose
        self.restart_learning_rate = restart_learning_rate
        self.pruner = None
        self._summaries = None
        self._has_news = False
        self._before = None

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
            if wrapped is not model.optimizer:
                set_optimizer(model, wrapped)
                model.train_function = None  # The other one is built into it.

    def on_train_begin(self, logs=None):
        self.pruner = None
        self._summaries = None
        self._has_news = False

    def on_epoch_begin(self, epoch, logs=None):
        self._tell()
        self._batches_done = 0
        if self.pruner is None:  # restored state and first epoch are known by now
            self._start(epoch)

    def on_train_batch_end(self, batch, logs=None):
        is_first = self.pruner.updates_per_step is None
        self._has_news |= self.pruner.step(batch + 1 - self._batches_done)
        self._batches_done = batch + 1
        if is_first and self.pruner.updates_per_step is not None:
            self._warn_of_train_step()

    def on_epoch_end(self, epoch, logs=None):
        metrics = self.pruner.metrics()
        if logs is not None:
            logs.update(metrics)
        if self._summaries is not None and not math.isnan(metrics["sparsity"]):
            self._summaries.write(self.pruner.ranking, metrics, epoch)

    def on_train_end(self, logs=None):
        if self.pruner is None:  # There was no epoch left.
            Pruner(self.model).finish()
            return
        self.pruner.finish()
        self._tell()
        if self._summaries is not None:
            self._summaries.close()
        if not self.pruner.is_frozen:
            warn_of_soft_masks(self.pruner, self.model.optimizer)

    def _tell(self):
        """Prints what the freeze has done, where no progress bar is being drawn."""
        verbose = self.params.get("verbose") if self.verbose is None else self.verbose
        if self._has_news and verbose:
            pruner = self.pruner
            facts = report(self.model), pruner.frozen_after, pruner.gap_at_freeze
            print(render(freeze_summary(*facts)), flush=True)
        self._has_news = False

    def _warn_of_train_step(self):
        """After the first batch: whether the model's `train_step` does as expected."""
        pruner = self.pruner
        often = pruner.updates_per_step
        if often > 1 and self.schedule is None:
            warnings.warn(
                f"`train_step` makes {often} optimizer updates of a layer in a batch, "
                "and epochs were turned into updates as if it made one: the search "
                f"begins and ends {often} times as early. Pass `schedule`, in updates, "
                "to `SmartPruningCallback`.",
                stacklevel=4,
            )
        step, iterations = self._before
        idle = iterations is not None and iterations == self._iterations()
        if idle and pruner.ranking.step > step:
            warnings.warn(
                "`train_step` updates the model by other optimizers than "
                "`model.optimizer`, which `SmartPruningCallback` has prepared: the "
                "mask logits are trained like weights. Put what `smart_tf.Pruner("
                "model).wrap_optimizer` returns in the place of each of them.",
                stacklevel=4,
            )

    def _iterations(self):
        """Batches seen by the model's `PruningOptimizer`s; None without any."""
        held = [self.model.optimizer, *vars(self.model).values()]
        held = [getattr(value, "inner_optimizer", value) for value in held]
        ours = self.pruner.flavour.PruningOptimizer
        found = {id(value): value for value in held if isinstance(value, ours)}
        # `iterations` would leave out batches whose gradients are only accumulated.
        counts = [int(o.weights_optimizer._iterations.numpy()) for o in found.values()]
        return sum(counts) if counts else None

    def _start(self, epoch):
        """Resolves the schedule now that the run's length and state are known."""
        pruner = Pruner(self.model)
        pruner.optimizer = self.model.optimizer
        steps, epochs = self.params.get("steps"), self.params.get("epochs")
        # A run that goes on counts from where it began.
        first = epoch if pruner.ranking.step <= 0 else 0
        schedule = self._resolve_schedule(pruner, steps, epochs - first)
        # Only the user knows how many updates a `train_step` of theirs makes.
        own = pruner.flavour.keras.Model.train_step
        known = self.schedule is None or type(self.model).train_step is own
        left = (epochs - epoch) * steps if known and steps is not None else None
        if not pruner.is_frozen:
            check_search(self.model, pruner.ranking, schedule, left)
        if self.restart_learning_rate:
            self._restart_learning_rate(pruner, schedule, left)
        if pruner.layers[0].schedule != schedule:
            # A graph traced before has the other schedule, or none, built in.
            self.model.make_train_function(force=True)
        pruner.schedule = schedule
        pruner.start()
        pruner.metrics()  # the flips of the first epoch count from here
        self.pruner = pruner
        self._before = pruner.ranking.step, self._iterations()
        if self.log_dir is not None:
            self._summaries = MaskSummaries(self.log_dir)

    def _restart_learning_rate(self, pruner, schedule, left):
        """Has the optimizer's schedule start over, where it counts the freeze to be."""
        optimizer = pruner.weights_optimizer
        check_can_restart(optimizer, pruner.flavour)
        if left is None:
            raise ValueError(
                "Argument `restart_learning_rate` needs to know how many updates `fit` "
                "will make: pass `steps_per_epoch` to `fit`. With a `train_step` of "
                "your own, pass `search_epochs` instead of `schedule`, or compile with "
                "a `RestartedSchedule`. Received: restart_learning_rate=True, "
                f"steps={self.params.get('steps')}, train_step of {type(self.model)}"
            )
        now = int(optimizer._iterations.numpy())  # batches, where gradients accumulate
        begin, end = now - max(pruner.ranking.step, 0), now + left
        if pruner.is_frozen:
            schedule = pruner.layers[0].schedule or schedule
            if isinstance(optimizer._learning_rate, pruner.flavour.RestartedSchedule):
                return
        freeze = begin + schedule.end_step
        # The optimizer is newer than the freeze, or the run ends with it.
        if freeze < 0 or freeze >= end:
            return
        begin = max(begin, 0)
        restart_learning_rate(optimizer, pruner.flavour, begin, freeze, end)
        # A graph traced before has the other rate built in.
        self.model.make_train_function(force=True)

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
        first, last = self.initial_temperature, self.final_temperature
        return TemperatureSchedule(
            begin,
            end,
            layer.method.initial_temperature if first is None else first,
            layer.method.final_temperature if last is None else last,
        )
