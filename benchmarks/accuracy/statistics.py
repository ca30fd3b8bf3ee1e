"""Paired differences between methods, and what they take for granted."""

import dataclasses

from scipy import stats

from benchmarks.accuracy.config import DENSE


@dataclasses.dataclass(frozen=True)
class Difference:
    """A method minus its best rival, seed by seed.

    Attributes:
        rival: String.
        mean: Float.
        low: Float, lower end of the 95 % confidence interval.
        high: Float, the upper end.
    """

    rival: str
    mean: float
    low: float
    high: float


def paired(first, second):
    """Mean and 95 % confidence interval of `first - second`, by Student's t.

    Args:
        first: List of two or more floats.
        second: List of as many, in the order of the same seeds.

    Returns:
        Tuple `(mean, low, high)`.
    """
    differences = [a - b for a, b in zip(first, second, strict=True)]
    mean = sum(differences) / len(differences)
    error = float(stats.sem(differences))
    if error == 0:
        return mean, mean, mean
    low, high = stats.t.interval(0.95, len(differences) - 1, mean, error)
    return mean, float(low), float(high)


def to_best_rival(standing, standings):
    """How a method did beside the best of the other families.

    The best rival is the one with the highest mean test accuracy over the seeds that
    both have: the choice that is hardest on the method.

    Args:
        standing: `Standing`.
        standings: List of all `Standing`s of the cell.

    Returns:
        `Difference`, or None for the dense network, or if there is no rival or only
        one seed.
    """
    family = standing.entrant.family
    rivals = [s for s in standings if s.entrant.family not in (family, DENSE)]
    if standing.entrant.family == DENSE or not rivals or len(standing.lines) < 2:
        return None

    def lead(rival):
        seeds = sorted(standing.lines.keys() & rival.lines.keys())
        return paired(
            [standing.lines[seed]["accuracy_test"] for seed in seeds],
            [rival.lines[seed]["accuracy_test"] for seed in seeds],
        )

    leads = {rival.entrant.name: lead(rival) for rival in rivals}
    name = min(leads, key=lambda rival: leads[rival][0])
    return Difference(name, *leads[name])


def check_pairs(result):
    """Raises a `ValueError` unless all runs of a seed had the same dense checkpoint."""
    checkpoints = {}
    for standing in result.standings:
        for seed, line in standing.lines.items():
            checkpoints.setdefault(seed, set()).add(line["checkpoint"])
    torn = {
        seed: sorted(found) for seed, found in checkpoints.items() if len(found) > 1
    }
    if torn:
        raise ValueError(
            f"All runs of a seed in '{result.cell}' must start from one checkpoint. "
            f"Received: {torn}"
        )
