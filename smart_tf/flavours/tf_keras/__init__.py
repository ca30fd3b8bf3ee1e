"""`PrunableLayer` for `tf_keras`: a `PruneLowMagnitude`, which tfmot's tools take.

Importing this module imports tfmot, which switches `tf.keras` to `tf_keras` for the
whole process. `smart_tf` does so only when a `tf_keras` object is handed in.
"""

import tensorflow_model_optimization as tfmot
import tf_keras as keras

from smart_tf.flavours.tf_keras.models import (
    TRACKING_ATTRIBUTES,
    calls,
    clone_graph_model,
    copy_layer,
    inputs_of,
    is_graph_model,
    is_model,
    replace_items,
    set_attribute,
    set_tracked_layers,
)
from smart_tf.flavours.tf_keras.optimizer import (
    LossScaleOptimizer,
    PruningOptimizer,
    RestartedSchedule,
    average_of,
    trained_by,
)
from smart_tf.flavours.tf_keras.wrapper import PrunableLayer
from smart_tf.schedules import TemperatureSchedule

tfmot.sparsity.keras.PruningSchedule.register(TemperatureSchedule)

__all__ = [
    "TRACKING_ATTRIBUTES",
    "LossScaleOptimizer",
    "PrunableLayer",
    "PruningOptimizer",
    "RestartedSchedule",
    "average_of",
    "calls",
    "clone_graph_model",
    "copy_layer",
    "inputs_of",
    "is_graph_model",
    "is_model",
    "keras",
    "replace_items",
    "set_attribute",
    "set_tracked_layers",
    "trained_by",
]
