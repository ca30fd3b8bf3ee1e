"""How the blocks that stay are chosen: one small class for each method."""

from smart_tf.methods.base import Method, deserialize, get
from smart_tf.methods.smart import Smart

__all__ = ["Method", "Smart", "deserialize", "get"]
