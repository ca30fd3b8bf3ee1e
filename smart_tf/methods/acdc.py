"""AC/DC: alternating compressed and decompressed training."""

import dataclasses

import numpy as np

from smart_tf.methods.base import Method
from smart_tf.methods.settings import check_count


@dataclasses.dataclass(frozen=True)
class ACDC(Method):
    """Alternates between training the pruned and the dense network.

    The search is cut into `2 * steps - 1` phases of equal length. It begins and ends
    with a compressed one, whose masks keep the blocks that are largest (root mean
    square, over all layers) at its beginning. In a decompressed phase all weights are
    trained, those that were pruned from zero. The dense warm-up of the paper is
    `SmartPruningCallback(pretrain_epochs=...)`.

    Channels that run through several layers are refused: with their kernels and
    normalisations at zero, no gradient ever brings one back from behind a ReLU.

    Args:
        steps: Integer >= 1, how many phases are compressed.

    Raises:
        ValueError: If `steps` is out of its range.

    Reference:
        - [Peste et al., 2021](https://arxiv.org/abs/2106.12379)
    """

    steps: int = 8

    def __post_init__(self):
        check_count(self, "steps")

    def milestones(self):
        phases = 2 * self.steps - 1
        return tuple(k / phases for k in range(phases))

    def update(self, ranking, index):
        if index % 2 == 0:
            ranking.prune()
            return
        for mask in ranking.masks:
            mask.mask.assign(np.ones(mask.mask.shape, np.float32))
