"""How the blocks that stay are chosen: one small class for each method."""

from smart_tf.methods.acdc import ACDC
from smart_tf.methods.awg import AWG
from smart_tf.methods.base import Method, deserialize, get
from smart_tf.methods.magnitude import Magnitude
from smart_tf.methods.masks import straight_through
from smart_tf.methods.pas import PaS
from smart_tf.methods.pdp import PDP
from smart_tf.methods.smart import Smart

__all__ = [
    "ACDC",
    "AWG",
    "PDP",
    "Magnitude",
    "Method",
    "PaS",
    "Smart",
    "deserialize",
    "get",
    "straight_through",
]
