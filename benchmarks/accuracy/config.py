"""What is compared, as a TOML file says it."""

import dataclasses
import itertools
import re
import tomllib
from pathlib import Path

import numpy as np

import smart_tf
from benchmarks.accuracy.rivals.registry import RIVALS, Rival
from benchmarks.accuracy.runs import Run

DENSE = "dense"
HINDSIGHT = "hindsight"
COMMON = tomllib.loads(Path(__file__).with_name("common.toml").read_text())
SEEDS = ("tune", "retune", "final", "more", "decide")


@dataclasses.dataclass(frozen=True)
class Cell:
    """Where all methods are compared.

    Attributes:
        data: String, key of `Config.data`.
        network: String, key of `Config.networks`.
        structure: String, as `smart_tf.prune` takes it.
        sparsity: Float, or None where the structure says it.
        coupled: Whether channels go together with those of other layers.
        budget: `"weights"` or `"macs"`.
        tune_at: Float, the sparsity at which methods are tuned; None for its own.
    """

    data: str
    network: str
    structure: str
    sparsity: float | None = None
    coupled: bool = True
    budget: str = "weights"
    tune_at: float | None = None

    @property
    def tuned(self):
        """The cell in which the methods are tuned for this one."""
        sparsity = self.sparsity if self.tune_at is None else self.tune_at
        return dataclasses.replace(self, sparsity=sparsity)

    @property
    def what(self):
        """String: the structure, and what is counted."""
        single = "" if self.coupled else ", single layers"
        macs = " by MACs" if self.budget == "macs" else ""
        return f"{self.structure}{single}{macs}"

    def __str__(self):
        sparsity = "" if self.sparsity is None else f" {self.sparsity:.0%}"
        return f"{self.data} {self.network}: {self.what}{sparsity}"

    def pruning(self):
        """Dict: the arguments of `smart_tf.prune`, as a line has them."""
        fields = ("structure", "coupled", "sparsity", "budget")
        return {name: getattr(self, name) for name in fields}


@dataclasses.dataclass(frozen=True)
class Entrant:
    """A method with what is fixed and what is tuned.

    Attributes:
        name: String, as the tables call it.
        base: String, the name of a method or a rival; `"dense"` for none,
            `"hindsight"` for what SMART chooses, known from the start.
        settings: Dict of fields that are not left as they are.
        knob: String, the field that is tuned, or None.
        values: List of the knob's values; tuning starts in the middle.
        family: String; a rival is a method of another family.
        training: Dict of what is not as in `Config.training`.
    """

    name: str
    base: str
    settings: dict
    knob: str | None
    values: list
    family: str
    training: dict

    def with_knob(self, value):
        """Dict of the settings with the knob at a value."""
        return {**self.settings, **({self.knob: value} if self.knob else {})}

    def refuses(self, cell, make):
        """Why the method cannot prune what a cell asks for, or None if it can.

        Args:
            cell: `Cell`.
            make: String, the function in `examples.networks`.
        """
        if self.base == DENSE:
            return None
        structure = make_structure(**cell.pruning())
        method = make_method(self.base, self.with_knob(self.start))
        if isinstance(method, Rival):
            return method.refuses(structure, make)
        return method.supports(structure, getattr(structure, "coupled", False))

    @property
    def start(self):
        """The knob's value while the rate is tuned, or None."""
        return self.values[len(self.values) // 2] if self.knob else None


@dataclasses.dataclass(frozen=True)
class Config:
    """The whole comparison; see `common.toml` for what the fields mean."""

    seeds: dict
    margin: float
    search: dict
    training: dict
    data: dict
    networks: dict
    entrants: list
    cells: list

    def only(self, pattern):
        """The same without the methods in whose name a regular expression is not."""
        kept = [e for e in self.entrants if re.search(pattern, e.name)]
        return dataclasses.replace(self, entrants=kept)

    def rates(self, cell):
        """List of floats: the learning rates of the grid, rising."""
        ends = self.networks[cell.network]["rates"]
        grid = np.geomspace(*ends, self.search["rates"])
        return [float(f"{rate:.3g}") for rate in grid]

    def left_out(self, cell):
        """Dict from the names of the methods that a cell is not for to the reasons."""
        make, _ = architecture(self.networks[cell.network])
        reasons = {e.name: e.refuses(cell, make) for e in self.entrants}
        return {name: reason for name, reason in reasons.items() if reason}

    def check_rivals(self, cells):
        """Raises a `RuntimeError` if a rival that some cells need is not installed."""
        for entrant in self.entrants:
            if any(entrant.name not in self.left_out(cell) for cell in cells):
                if entrant.base in RIVALS:
                    RIVALS[entrant.base].check()

    def run(self, stage, cell, entrant, rate, value, seed):
        """The `Run` of a method in a cell.

        Args:
            stage: `"tune"` or `"final"`.
            cell: `Cell`.
            entrant: `Entrant`.
            rate: Float.
            value: What the knob is set to.
            seed: Integer.
        """
        network = dict(self.networks[cell.network])
        del network["rates"]
        return Run(
            stage=stage,
            data={"name": cell.data, **self.data[cell.data]},
            network={"name": cell.network, **network},
            training={**self.training, **entrant.training},
            pruning=None if entrant.base == DENSE else cell.pruning(),
            method=entrant.name,
            base=entrant.base,
            settings=entrant.with_knob(value),
            rate=rate,
            seed=seed,
        )


def make_structure(structure, coupled, **_):
    """The structure object that a cell names."""
    if structure == "channel":
        return smart_tf.Channel(coupled=coupled)
    return smart_tf.structures.get(structure)


def make_method(base, settings):
    """The method object that a run names, or the `Rival`."""
    base = "smart" if base == HINDSIGHT else base
    known = RIVALS.get(base) or smart_tf.methods.get(base)
    return dataclasses.replace(known, **settings)


def architecture(network):
    """What a table of the configuration says of how a network is built.

    Args:
        network: Dict, the table.

    Returns:
        Tuple of the name of a function in `examples.networks` and a dict of options.
    """
    options = dict(network)
    for name in ("name", "dense_rate", "rates"):
        options.pop(name, None)
    return options.pop("make"), options


def load(path):
    """Reads a `Config`.

    Args:
        path: `pathlib.Path` of a TOML file, which is merged into `common.toml`.

    Raises:
        ValueError: If a cell or an entrant names what there is not, or methods would
            not get the same number of trials.
    """
    content = _merged(COMMON, tomllib.loads(path.read_text()))
    names, cells = content.pop("entrants"), content.pop("cells")
    methods = content.pop("methods")
    _check_names("entrants", names, methods)
    if not content["search"]["more_trials"]:
        methods = {name: _without_knob(**given) for name, given in methods.items()}
    config = Config(
        **content,
        entrants=[_entrant(name, **methods[name]) for name in names],
        cells=[cell for given in cells for cell in _expand(given)],
    )
    _check(config)
    return config


def _merged(common, own):
    """The entries of both tables, where they are tables merged themselves."""
    merged = {**common, **own}
    for name in common.keys() & own.keys():
        if isinstance(common[name], dict):
            merged[name] = _merged(common[name], own[name])
    return merged


def _without_knob(knob=None, values=(), **given):
    return given


def _entrant(
    name,
    method=None,
    settings=None,
    knob=None,
    values=(),
    family=None,
    training=None,
):
    base, family = method or name, family or name
    return Entrant(
        name, base, settings or {}, knob, list(values), family, training or {}
    )


def _expand(given):
    """The cells of one entry, whose lists are all combined with each other."""
    lists = {
        key: value if isinstance(value, list) else [value]
        for key, value in given.items()
    }
    for combination in itertools.product(*lists.values()):
        yield Cell(**dict(zip(lists, combination, strict=True)))


def _check(config):
    rates, more = config.search["rates"], config.search["more_trials"]
    if rates < 3:
        raise ValueError(
            "Argument `search.rates` must be at least 3, or no optimum could lie "
            f"between others. Received: rates={rates}"
        )
    if more % 2:
        raise ValueError(
            f"Argument `search.more_trials` must be even. Received: more_trials={more}"
        )
    for entrant in config.entrants:
        if entrant.knob and len(entrant.values) != more + 1:
            raise ValueError(
                f"Argument `values` of method '{entrant.name}' must have "
                f"search.more_trials + 1 = {more + 1} values, or it would not get as "
                f"many trials as the others. Received: values={entrant.values}"
            )
        training = {**config.training, **entrant.training}
        if training.get("restart") and entrant.base in RIVALS:
            raise ValueError(
                f"Argument `training.restart` must be false for method '{entrant.name}'"
                ", whose library has no such thing. Received: restart=True"
            )
    for cell in config.cells:
        _check_names("data", [cell.data], config.data)
        _check_names("network", [cell.network], config.networks)
    tune, *others = (config.seeds[kind] for kind in SEEDS)
    seeds = [tune, *itertools.chain.from_iterable(others)]
    if len(set(seeds)) < len(seeds):
        raise ValueError(
            "Argument `seeds` must have no seed twice: what was tuned with a seed is "
            f"not measured with it. Received: seeds={config.seeds}"
        )


def _check_names(argument, names, known):
    for name in names:
        if name not in known:
            raise ValueError(
                f"Argument `{argument}` must name tables of {sorted(known)}. "
                f"Received: {argument}={name!r}"
            )
