"""What can be wrong with a `fit` that is to prune, and what is said then."""

import importlib.util
import numbers
import os
import warnings

from smart_tf.search import DENSE

_SKIPPED = (
    " Updates that loss scaling skips, because of an overflow, do not count: leave "
    "some epochs for fine-tuning."
)


def check_number(name, value):
    """Raises a `TypeError` unless an argument is a number."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"Argument `{name}` must be a number. Received: {value!r}")


def check_log_dir(log_dir):
    """Raises unless `log_dir` is None, or a path and there is `tensorboard`."""
    if log_dir is None:
        return
    if not isinstance(log_dir, (str, os.PathLike)):
        raise TypeError(
            "Argument `log_dir` must be the path of a folder, or None. "
            f"Received: {log_dir=} (of type {type(log_dir).__name__})"
        )
    if importlib.util.find_spec("tensorboard") is None:
        raise ImportError(
            "Argument `log_dir` needs the package `tensorboard`, which is not "
            f"installed: pip install tensorboard. Received: {log_dir=}"
        )


def check_search(model, ranking, schedule, left):
    """Raises a `ValueError` unless a search can come to its end in a `fit`.

    Args:
        model: The model.
        ranking: The `Ranking` of its wrappers.
        schedule: `TemperatureSchedule`.
        left: Integer, how many updates there will be, or None if nobody knows.
    """
    trained = {id(variable) for variable in model.trainable_variables}
    masks = ranking.masks
    if not any(id(mask.weight.variable) in trained for mask in masks):
        raise ValueError(
            "The model must have pruned kernels that are trained, or its masks "
            "cannot be searched for: set `trainable = True` on its layers. "
            f"Received: a model in which none of {len(masks)} is"
        )
    updates = max(ranking.step, 0)
    if left is not None and updates + left < schedule.end_step:
        raise ValueError(
            "The run is too short for its pruning schedule: the masks would "
            f"freeze at update {schedule.end_step}, but `fit` ends at update "
            f"{updates + left} ({left} from update {updates}). Train for more "
            "epochs, or give `SmartPruningCallback` fewer. "
            f"Received: {schedule}"
        )


def warn_of_soft_masks(pruner, optimizer):
    """Warns of a training that has ended with no mask hard.

    Args:
        pruner: The `Pruner`.
        optimizer: That of the model.
    """
    schedule, phase = pruner.schedule, pruner.phase
    when = "before" if phase == DENSE else "in the middle of"
    scaling = pruner.flavour.LossScaleOptimizer
    also = _SKIPPED if isinstance(optimizer, scaling) else ""
    warnings.warn(
        f"Training ended {when} the search, at update "
        f"{pruner.ranking.step} of {schedule.begin_step} to "
        f"{schedule.end_step}: no mask is hard yet. Train on, or "
        "`strip_pruning` will cut them hard without fine-tuning." + also,
        stacklevel=4,
    )
