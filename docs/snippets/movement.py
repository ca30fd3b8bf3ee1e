import dataclasses

import numpy as np
import smart_tf
from smart_tf.methods import Method, straight_through


@dataclasses.dataclass(frozen=True)
class Movement(Method):
    updates: int = 10  # fields are settings, and are saved with the model
    has_logits = True  # a trainable score for every block, from 0 on

    def soft_mask(self, weights, weight_mask, state):  # in each training step
        return straight_through(weight_mask.logits, weight_mask.mask)

    def milestones(self):  # when to call `update`, in shares of the search
        return [k / self.updates for k in range(1, self.updates)]

    def update(self, ranking, index):  # on the host: a little sparser
        ranking.prune((index + 1) / self.updates)

    def final_scores(self, weight_mask):  # by which blocks are ranked
        scores = weight_mask.logits.numpy().astype("float64")
        return np.where(weight_mask.mask.numpy() > 0, scores, -np.inf)
