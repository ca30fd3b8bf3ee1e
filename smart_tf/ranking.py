"""One ranking over the blocks of all layers: their threshold, and the freeze.

The blocks of all layers stand in one list (section 2.1): a `Ranking` joins the
pruning wrappers of a model, solves their common threshold once per training
step, and at the end keeps exactly the blocks that the budget allows.
"""

import numpy as np
import tensorflow as tf

from smart_tf import topk
from smart_tf.search import DENSE, FROZEN, Search, SearchState


def check_built(model, layers):
    """Raises a `ValueError` unless all pruning wrappers of a model are built."""
    if not all(layer.built for layer in layers):
        raise ValueError(
            "Argument `model` must be built: give it a `keras.Input`, or call it "
            f"on a batch first. Received: model={model!r}"
        )


def check_ranking(model, layers):
    """Raises a `ValueError` unless pruning wrappers can be ranked against each other.

    Args:
        model: The model that they are in.
        layers: Non-empty list of built pruning wrappers, all of the model.
    """
    masks = [mask for layer in layers for mask in layer.weight_masks]
    coupled = any(mask.channels is not None for mask in masks)
    if coupled and all(layer.coupling is None for layer in layers):
        raise ValueError(
            "Argument `model` must be the whole model that was pruned: its "
            "channels run through layers that are missing here. "
            f"Received: model={model!r}"
        )
    first = layers[0].method
    for layer in layers:
        if layer.method != first:
            raise ValueError(
                "Argument `model` must have pruning wrappers of one method, since all "
                f"their blocks are ranked together. Received: {first} and "
                f"{layer.method} of layer '{layer.name}'"
            )


class Ranking:
    """Pruning wrappers that compete for one budget.

    Args:
        layers: Non-empty list of built pruning wrappers, of one Keras flavour.
        joins: Whether it is theirs from now on; False for a look at some of them.
    """

    def __init__(self, layers, joins=True):
        self.layers = list(layers)
        self.masks = [m for layer in self.layers for m in layer.weight_masks]
        self.coupled = [m for m in self.masks if m.channels is not None]
        self.ranked = [
            m for m in self.masks if m.structure.is_global and m.channels is None
        ]
        self.lead = next((k for k in self.layers if k.coupling is not None), None)
        self.search = Search(self)
        for layer in self.layers if joins else ():
            layer.ranking = self

    def shared_logits(self):
        """Tensor of the logits of channels that run through several layers, or None."""
        if self.lead is None or self.lead.shared_logits is None:
            return None
        return tf.convert_to_tensor(self.lead.shared_logits)

    def logits_of(self, mask):
        """Float32 array of the logits behind the mask of a kernel, or None."""
        shared = self.shared_logits()
        if mask.channels is None or shared is None:
            return None if mask.logits is None else mask.logits.numpy()
        return shared.numpy()[mask.channels[mask.channels >= 0]]

    def costs(self):
        """Float64 `[n]`: what each ranked block costs, by default its weights."""
        return np.concatenate([m.costs.ravel() for m in self.ranked])

    def budget(self, share=1.0):
        """`K = (1 - r) * sum(c)`: the cost that may stay, in weights.

        Args:
            share: Float in [0, 1], how much of the sparsity `r` is asked for.
        """
        return sum((1.0 - share * m.sparsity) * m.costs.sum() for m in self.ranked)

    @property
    def step(self):
        """Integer: the pruning step of the wrapper that is furthest."""
        return max(int(layer.pruning_step.numpy()) for layer in self.layers)

    @property
    def phase(self):
        """Float: `DENSE`, `SEARCHING` or `FROZEN`."""
        return float(self.layers[0].search_state.numpy()[0])

    @property
    def has_diverged(self):
        """Whether kernels or the logits of their masks hold NaN or infinity."""
        kernels = [mask.weight.variable for mask in self.masks]
        logits = [v for layer in self.layers for v in layer.trainable_logits()]
        return not all(np.isfinite(v.numpy()).all() for v in [*kernels, *logits])

    def initialise_logits(self):
        """Starts the logits from the magnitudes that the weights have now."""
        method = self.layers[0].method
        if self.shared_logits() is not None:
            (start,) = method.initial_logits([self.channel_magnitudes()])
            self._set_shared_logits(start)
            self._set_state(spend=1.0)
        if not self.ranked or not method.has_logits:
            return
        starts = method.initial_logits([m.scores() for m in self.ranked])
        for mask, start in zip(self.ranked, starts, strict=True):
            mask.logits.assign(start.astype(np.float32))

    def _set_shared_logits(self, values):
        self.lead.shared_logits.assign(values.astype(np.float32))
        for mask in self.coupled:
            copied = values[np.maximum(mask.channels, 0)]
            mask.logits.assign(copied.astype(np.float32))

    def settle_widths(self):
        """Moves the logits of channels, group by group, to widths of whole units.

        What is cut are whole units (`round_to`), which the soft masks do not know of:
        without this, the freeze takes up to half a unit from some groups and gives
        it to others. For kernels of single layers there is nothing to do.
        """
        if self.shared_logits() is None or max(self.lead.coupling.costs.units) == 1:
            return
        state = SearchState(*self.lead.search_state.numpy())
        logits, spend = self.lead.coupling.settled(
            self.shared_logits().numpy(),
            state.a + state.temperature * state.s,
            state.temperature,
        )
        self._set_shared_logits(logits)
        self._set_state(spend=spend)

    def hard_masks(self, share=1.0):
        """The exact 0/1 masks that the ranking stands for now, one for each kernel.

        Ties are broken by index, no kernel is emptied, and never more is kept
        than the budget allows: the sparsity is exact to one block.

        Args:
            share: Float in [0, 1], how much of the sparsity is asked for. An N:M
                pattern has no in-between, and is always whole.

        Raises:
            ValueError: If the training has diverged, or the budget is below what has
                to stay.
        """
        if self.has_diverged:
            raise ValueError(
                "Training has diverged: weights or mask logits are no finite numbers "
                f"at update {self.step}, so that there is nothing to rank. Take an "
                "earlier checkpoint, and a lower learning rate."
            )
        masks = {
            m: m.structure.hard_mask(m.weight.variable.numpy(), m.layout)
            for m in self.masks
            if not m.structure.is_global
        }
        if self.ranked:
            masks |= self._ranked_hard_masks(share)
        masks |= {m: m.mask.numpy() > 0 for m in self.coupled}
        if self.lead is not None:
            scores = self.lead.method.final_channel_scores(self)
            keep = self.lead.coupling.select(scores, share)
            masks |= {m: m.slices(keep) for m in self.coupled}
        return [masks[m] for m in self.masks]

    def _ranked_hard_masks(self, share):
        scores = [np.asarray(m.final_scores()).ravel() for m in self.ranked]
        ends = np.cumsum([len(s) for s in scores])
        floors = [
            (np.arange(end - len(s), end), m.floor())
            for end, s, m in zip(ends, scores, self.ranked, strict=True)
        ]
        budget, costs = self.budget(share), self.costs()
        try:
            keep = topk.hard_topk(np.concatenate(scores), budget, costs, floors)
        except topk.BudgetTooSmall as error:
            raise ValueError(
                "Argument `sparsity` must leave every kernel the blocks that have to "
                "stay (at least one; more where `max_layer_sparsity` says so). Ask for "
                "less sparsity or smaller blocks, or leave small layers out by "
                f"`filters`. Received: sparsity={1 - budget / costs.sum():.3g} of "
                f"{len(costs)} blocks in {len(floors)} kernels"
            ) from error
        parts = np.split(keep, ends[:-1])
        return {
            m: part.reshape(m.costs.shape)
            for m, part in zip(self.ranked, parts, strict=True)
        }

    def channel_magnitudes(self):
        """float64 `(channels,)`: root mean square over all kernels that make one."""
        size = self.lead.coupling.size
        total, count = np.zeros(size), np.zeros(size)
        for mask in self.coupled:
            if mask.is_kernel:
                made = mask.channels >= 0
                np.add.at(total, mask.channels[made], mask.scores()[made] ** 2)
                np.add.at(count, mask.channels[made], 1)
        mean = total.sum() / max(count.sum(), 1)
        return np.sqrt(np.where(count > 0, total / np.maximum(count, 1), mean))

    def current_masks(self):
        """List of the 0/1 masks of all kernels: frozen, or as the ranking is now."""
        if self.phase == FROZEN:
            return [m.mask.numpy() for m in self.masks]
        return self.hard_masks()

    def soft_masks(self):
        """List of the masks of all kernels, in [0, 1], that the network runs with now.

        Before the search they are 1, during it they are what the method makes of the
        logits at the last training step's temperature and threshold, and then 0 or 1.
        A kernel in front of a normalisation, which is masked behind it, is shown with
        the masks of its channels.
        """
        if self.phase == DENSE:
            return [np.ones(m.mask.shape, np.float32) for m in self.masks]
        if self.phase == FROZEN:
            return self.current_masks()
        state = SearchState.unpack(self.layers[0].search_state)
        masks = [m.soft(m.weight.variable, state).numpy() for m in self.masks]
        if self.lead is None:
            return masks
        shares = self.channel_shares(masks).astype(np.float32)
        return [
            mask if m.channels is None else m.slices(shares)
            for m, mask in zip(self.masks, masks, strict=True)
        ]

    def channel_shares(self, masks):
        """How much of each channel stays, in the least of its slices.

        Args:
            masks: List with a mask for each kernel.

        Returns:
            Float64 array `(channels,)`.
        """
        shares = np.ones(self.lead.coupling.size)
        for mask, values in zip(self.masks, masks, strict=True):
            if mask.channels is not None:
                made = mask.channels >= 0
                np.minimum.at(shares, mask.channels[made], values[made])
        return shares

    def sparsity(self, masks=None):
        """Float: fraction of the budget's total that the masks drop.

        By default in weights of the wrapped kernels; for channels of several layers,
        of what the model costs when it is cut.

        Args:
            masks: List with a mask, hard or soft, for each kernel. Default: the hard
                ones as of now.
        """
        masks = self.current_masks() if masks is None else masks
        if self.lead is not None:
            return self.lead.coupling.sparsity(self.channel_shares(masks))
        pairs = list(zip(self.masks, masks, strict=True))
        total = sum(m.costs.sum() for m, _ in pairs)
        return float(1 - sum((m.costs * mask).sum() for m, mask in pairs) / total)

    def decisions(self, masks):
        """What is decided: the blocks, and channels of several layers once each.

        Args:
            masks: List with a mask for each kernel.

        Returns:
            Tuple of float64 arrays `(n,)`: the mask of each block or channel, and how
            many weights of kernels it stands for.
        """
        pairs = zip(self.masks, masks, strict=True)
        blocks = [
            (mask.ravel(), m.counts.ravel()) for m, mask in pairs if m.channels is None
        ]
        if self.lead is not None:
            blocks.append((self.channel_shares(masks), self.channel_weights()))
        values, weights = zip(*blocks, strict=True)
        return np.concatenate(values).astype(np.float64), np.concatenate(weights)

    def channel_weights(self):
        """float64 `(channels,)`: how many weights make each channel, in all kernels."""
        weights = np.zeros(self.lead.coupling.size)
        for mask in (m for m in self.coupled if m.is_kernel):
            made = mask.channels >= 0
            np.add.at(weights, mask.channels[made], mask.counts[made])
        return weights

    def gap(self, soft, hard):
        """Float: mean of `|soft - hard|` over all weights of the kernels.

        Args:
            soft: List with a mask for each kernel.
            hard: List with a 0/1 mask for each kernel.
        """
        values, weights = self.decisions(soft)
        kept, _ = self.decisions(hard)
        return float((weights * np.abs(values - kept)).sum() / weights.sum())

    def prune(self, share=1.0):
        """Sets the masks to the hard top-k, and folds the zeros into the kernels.

        Args:
            share: Float in [0, 1], as in `hard_masks`.
        """
        for mask, keep in zip(self.masks, self.hard_masks(share), strict=True):
            mask.freeze(keep)

    def freeze(self):
        """Prunes for good: from now on only the weights are trained."""
        self.prune()
        self._set_state(phase=FROZEN)

    def update(self, schedule):
        """Calls the method's `update` for each milestone that is due and not done.

        Args:
            schedule: `TemperatureSchedule`, whose search the milestones divide.

        Returns:
            Integer, the step at which there is something to do next.
        """
        method, step = self.layers[0].method, self.step
        length = schedule.end_step - schedule.begin_step
        steps = [schedule.begin_step + int(at * length) for at in method.milestones()]
        due = sum(at <= step for at in steps)
        # Those done count no more once a later search begins.
        state = SearchState(*self.layers[0].search_state.numpy())
        done = min(int(state.updates), due)
        for index in range(done, due):
            method.update(self, index)
        self._set_state(updates=due)
        return [*steps, schedule.end_step][due]

    def _set_state(self, **changes):
        for layer in self.layers:
            state = SearchState(*layer.search_state.numpy())._replace(**changes)
            layer.search_state.assign(np.array(state, np.float32))


def joined(layers):
    """The `Ranking` that the wrappers are in already, or else a new one.

    Whoever looks on while a model is trained leaves its ranking as it is.
    """
    ranking = layers[0].ranking
    if ranking is not None and list(map(id, ranking.layers)) == list(map(id, layers)):
        return ranking
    return Ranking(layers, joins=ranking is None)
