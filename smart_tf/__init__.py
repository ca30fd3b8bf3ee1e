"""smart_tf: block, channel and N:M pruning for Keras, learned by SMART.

Separate, dynamic, differentiable: every block of weights gets a logit of its own,
a soft top-k over the logits of all layers masks the weights while both are trained,
and a falling temperature makes the masks hard.
"""

import sys

from smart_tf import (
    channels,
    export,
    flavours,
    methods,
    plots,
    structures,
    targets,
)
from smart_tf.callbacks import SmartPruningCallback
from smart_tf.channels import shrink
from smart_tf.comparison import Comparison, compare
from smart_tf.flavours.keras3 import PrunableLayer
from smart_tf.inspection import FileReport, inspect_file
from smart_tf.layouts import Layout
from smart_tf.mask_history import MaskHistory
from smart_tf.prunable import register_prunable
from smart_tf.pruner import Pruner
from smart_tf.pruning import prune, strip_pruning
from smart_tf.report import PruningReport, report
from smart_tf.schedules import TemperatureSchedule
from smart_tf.structures import Channel
from smart_tf.topk import soft_topk

if "tensorflow_model_optimization" in sys.modules:
    # The process is switched to tf_keras already; now its saved models load too.
    from smart_tf.flavours import tf_keras as _tf_keras  # noqa: F401

__version__ = "0.1.0"

__all__ = [
    "Channel",
    "Comparison",
    "FileReport",
    "Layout",
    "MaskHistory",
    "PrunableLayer",
    "Pruner",
    "PruningReport",
    "SmartPruningCallback",
    "TemperatureSchedule",
    "channels",
    "compare",
    "export",
    "flavours",
    "inspect_file",
    "methods",
    "plots",
    "prune",
    "register_prunable",
    "report",
    "shrink",
    "soft_topk",
    "strip_pruning",
    "structures",
    "targets",
]
