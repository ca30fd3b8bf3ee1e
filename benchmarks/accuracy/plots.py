"""Pictures of finished cells: accuracy against sparsity, and sparsity by layer."""

import numpy as np
from matplotlib.figure import Figure

from benchmarks.accuracy.config import DENSE


def draw(results, folder):
    """Writes all pictures.

    Args:
        results: List of `Result`.
        folder: `pathlib.Path`, made if need be.

    Returns:
        List of the paths.
    """
    folder.mkdir(parents=True, exist_ok=True)
    curves = {}
    for result in results:
        cell = result.cell
        if cell.sparsity is not None:
            curves.setdefault((cell.data, cell.network, cell.what), []).append(result)
    figures = {f"accuracy {' '.join(key)}": accuracy(c) for key, c in curves.items()}
    figures |= {f"layers {result.cell}": layers(result) for result in results}
    paths = []
    for name, figure in figures.items():
        kept = "".join(c if c.isalnum() else " " for c in name)
        path = folder / f"{'_'.join(kept.split())}.png"
        figure.savefig(path, dpi=150)
        paths.append(path)
    return paths


def accuracy(results):
    """Test accuracy of each method over the sparsities of one structure.

    Args:
        results: List of `Result`s that differ in sparsity only.

    Returns:
        `matplotlib.figure.Figure`; bars are standard deviations over seeds.
    """
    results = sorted(results, key=lambda result: result.cell.sparsity)
    curves = {}
    for result in results:
        for standing in result.standings:
            tests = [100 * line["accuracy_test"] for line in standing.lines.values()]
            spread = np.std(tests, ddof=min(1, len(tests) - 1))
            point = (100 * result.cell.sparsity, np.mean(tests), spread)
            curves.setdefault(standing.entrant.name, []).append(point)
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for index, (name, points) in enumerate(curves.items()):
        x, y, spread = np.transpose(points)
        x = x + 0.25 * (index - len(curves) / 2)  # side by side, not on top
        dashed = "--" if name == DENSE else "-"
        axes.errorbar(x, y, spread, label=name, linestyle=dashed, marker="o", capsize=2)
    cell = results[0].cell
    axes.set(
        title=f"{cell.data}, {cell.network}, {cell.what}",
        xlabel="sparsity, %",
        ylabel="test accuracy, %",
    )
    return _finished(figure, axes)


def layers(result):
    """Sparsity of each layer by method, mean over seeds, in the network's order.

    Returns:
        `matplotlib.figure.Figure`.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for standing in result.standings:
        lines = [line["layers"] for line in standing.lines.values() if "layers" in line]
        if not lines:
            continue
        means = {name: np.mean([line[name] for line in lines]) for name in lines[0]}
        shares = [100 * share for share in means.values()]
        names = [name.removesuffix("/kernel") for name in means]
        axes.plot(names, shares, label=standing.entrant.name, marker=".")
    axes.set(title=str(result.cell), ylabel="weights that are zero, %", ylim=(-2, 102))
    axes.tick_params(axis="x", rotation=90, labelsize=7)
    return _finished(figure, axes)


def _finished(figure, axes):
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", fontsize=8)
    return figure
