"""Pictures of finished cells: accuracy against sparsity, and sparsity by layer."""

import numpy as np

from benchmarks.accuracy.config import DENSE
from smart_tf import plots


def draw(results, folder):
    """Writes all pictures.

    Args:
        results: List of `Result`; where nothing was pruned there is nothing to draw.
        folder: `pathlib.Path`, made if need be.

    Returns:
        List of the paths.
    """
    folder.mkdir(parents=True, exist_ok=True)
    results = [result for result in results if result.pruned]
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
        `matplotlib.figure.Figure`; bars are standard deviations over seeds, and the
        methods' marks stand side by side.
    """
    points = [
        {
            "method": standing.entrant.name,
            "sparsity": result.cell.sparsity,
            "accuracy": line["accuracy_test"],
        }
        for result in results
        for standing in result.standings
        for line in standing.lines.values()
    ]
    figure = plots.tradeoff(points, reference=DENSE)
    cell = results[0].cell
    figure.axes[0].set(
        title=f"{cell.data}, {cell.network}, {cell.what}",
        xlabel="sparsity asked for, % (marks are moved apart)",
        xticks=[100.0 * result.cell.sparsity for result in results],
        ylabel="test accuracy, %",
    )
    return figure


def layers(result):
    """Sparsity of each layer by method, mean over seeds, in the network's order.

    Returns:
        `matplotlib.figure.Figure`.
    """
    means = {}
    for standing in result.standings:
        lines = [line["layers"] for line in standing.lines.values() if "layers" in line]
        if lines:
            means[standing.entrant.name] = {
                name: np.mean([line[name] for line in lines]) for name in lines[0]
            }
    figure = plots.sparsity_by_layer(means)
    figure.axes[0].set_title(str(result.cell))
    return figure
