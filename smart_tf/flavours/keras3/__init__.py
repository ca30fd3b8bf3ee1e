"""Keras 3."""

import keras

from smart_tf.flavours.keras3.models import (
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
from smart_tf.flavours.keras3.optimizer import (
    LossScaleOptimizer,
    PruningOptimizer,
    RestartedSchedule,
    average_of,
    trained_by,
)
from smart_tf.flavours.keras3.wrapper import PrunableLayer

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
