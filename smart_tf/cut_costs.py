"""What a model costs when it is cut: both sides of every kernel shrink."""

import dataclasses
import functools

import numpy as np

_FAILURES = 64


@dataclasses.dataclass(frozen=True)
class CutCosts:
    """Cost of a model as a function of how many channels each group keeps.

    A kernel costs its coefficient times the widths of (at most) two of its axes, each
    width a sum over groups: `fixed + counts @ kept`. So the cost is a sum of products
    of two linear functions.

    Attributes:
        sizes: Tuple, the number of channels of each group.
        units: Tuple, in steps of how many channels each group is cut.
        widths: Tuple of `(fixed, ((group, count), ...))`, one for each different axis.
        terms: Tuple of `(coefficient, axis, axis)`, axes as indices into `widths`.
    """

    sizes: tuple
    units: tuple
    widths: tuple
    terms: tuple

    @classmethod
    def from_config(cls, config):
        """Builds the costs from the result of `get_config`."""
        return cls(
            tuple(config["sizes"]),
            tuple(config["units"]),
            tuple((fixed, tuple(map(tuple, row))) for fixed, row in config["widths"]),
            tuple(map(tuple, config["terms"])),
        )

    def get_config(self):
        """Nested lists and numbers, ready for JSON."""
        return {
            "sizes": list(self.sizes),
            "units": list(self.units),
            "widths": [[fixed, list(map(list, row))] for fixed, row in self.widths],
            "terms": list(map(list, self.terms)),
        }

    @functools.cached_property
    def counts(self):
        """float64 `(axes, groups)`: how often a group's channel is on an axis."""
        counts = np.zeros((len(self.widths), len(self.sizes)))
        for row, (_, entries) in zip(counts, self.widths, strict=True):
            for group, count in entries:
                row[group] = count
        return counts

    @functools.cached_property
    def fixed(self):
        """float64 `(axes,)`: what of each axis always stays."""
        return np.array([fixed for fixed, _ in self.widths], np.float64)

    @functools.cached_property
    def group_of(self):
        """int64 `(channels,)`: the group of every channel; groups stand in order."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)

    def total(self, kept=None):
        """The cost when group `g` keeps `kept[g]` channels; by default all."""
        kept = np.asarray(self.sizes if kept is None else kept, np.float64)
        width = self.fixed + self.counts @ kept
        coefficient, one, other = self._columns
        return float(np.sum(coefficient * width[one] * width[other]))

    @functools.cached_property
    def _columns(self):
        terms = np.array(self.terms, np.float64).reshape(-1, 3)
        return terms[:, 0], terms[:, 1].astype(np.int64), terms[:, 2].astype(np.int64)

    def quadratic(self):
        """`(matrix, vector, constant)`: the cost is `k @ matrix @ k + vector @ k + c`.

        float64 arrays of shape `(groups, groups)` and `(groups,)`, and a float.
        """
        coefficient, one, other = self._columns
        a, b = self.counts[one], self.counts[other]
        p, q = self.fixed[one], self.fixed[other]
        matrix = a.T @ (coefficient[:, None] * b)
        vector = (coefficient * p) @ b + (coefficient * q) @ a
        return matrix, vector, float(np.sum(coefficient * p * q))

    def select(self, scores, budget, floors):
        """The best channels that the budget allows.

        Groups grow in steps of their unit, in the order of the score of the middle
        channel of a step, until the next one would cost too much; steps that still
        fit are added then.

        Args:
            scores: float64 array `(channels,)`.
            budget: Float, the cost that must not be exceeded.
            floors: int array `(groups,)`, channels that stay at least.

        Returns:
            Boolean array `(channels,)`.

        Raises:
            ValueError: If the floors alone exceed the budget.
        """
        order, starts = self._order(scores), np.cumsum((0, *self.sizes))
        ladders = [
            self._ladder(size, unit, floor)
            for size, unit, floor in zip(self.sizes, self.units, floors, strict=True)
        ]
        kept = np.array([ladder[0] for ladder in ladders])
        limit = budget * (1 + 1e-9)
        if self.total(kept) > limit:
            finer = ", or for a finer `round_to`" if max(self.units) > 1 else ""
            raise ValueError(
                "The budget cannot be met: the channels that have to stay cost "
                f"{self.total(kept):,.0f} of {self.total():,.0f}, but the budget is "
                f"{budget:,.0f}. Ask for less sparsity, or for a larger "
                f"`max_layer_sparsity`{finer}."
            )
        steps = []
        for group, ladder in enumerate(ladders):
            ranked = scores[order[starts[group] : starts[group + 1]]]
            for low, high in zip(ladder, ladder[1:], strict=False):
                steps.append((-ranked[(low + high) // 2], group, low, high))
        steps.sort()
        kept = self._grow(kept, steps, limit)
        keep = np.zeros(len(scores), bool)
        for start, count in zip(starts, kept, strict=False):
            keep[order[start : start + count]] = True
        return keep

    def _order(self, scores):
        """Channels group by group, each by falling score, ties by rising index."""
        return np.lexsort((np.arange(len(scores)), -scores, self.group_of))

    @staticmethod
    def _ladder(size, unit, floor):
        """The numbers of channels that a group may keep, rising."""
        least = min(size, -(-max(1, floor) // unit) * unit)
        return [*range(least, size, unit), size]

    def _grow(self, kept, steps, limit):
        """Takes steps in order as long as they fit; then those that still do."""

        def after(count):
            grown = kept.copy()
            for _, group, _, high in steps[:count]:
                grown[group] = high
            return grown

        low, high = 0, len(steps)
        while low < high:
            middle = (low + high + 1) // 2
            if self.total(after(middle)) <= limit:
                low = middle
            else:
                high = middle - 1
        kept, failures = after(low), 0
        for _, group, start, stop in steps[low:]:
            if failures == _FAILURES:
                break
            if kept[group] != start:
                continue
            kept[group] = stop
            if self.total(kept) > limit:
                kept[group] = start
                failures += 1
        return kept
