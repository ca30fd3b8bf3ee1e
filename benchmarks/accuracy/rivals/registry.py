"""Which other libraries take part, with what settings, and in which cells."""

import dataclasses
import sys
from pathlib import Path
from typing import ClassVar

from smart_tf import structures

ROOT = Path(__file__).parents[3]


@dataclasses.dataclass(frozen=True)
class Rival:
    """A library that prunes in a process of its own; its fields are its settings.

    Attributes:
        module: String, the program that is run by `python -m`.
        python: `pathlib.Path` of the Python that has the library.
        install: String, the command that brings it here.
    """

    module: ClassVar[str]
    python: ClassVar[Path]
    install: ClassVar[str]

    def refuses(self, structure, make):
        """Why the library cannot prune all kernels as asked, or None if it can.

        Args:
            structure: `smart_tf.structures.Structure`.
            make: String, the function in `examples.networks`.
        """
        raise NotImplementedError

    def check(self):
        """Raises a `RuntimeError` if there is no Python to run it with."""
        if not self.python.exists():
            raise RuntimeError(
                f"The accuracy benchmark runs {self.module} with {self.python}, which "
                f"does not exist. Install it with `{self.install}`, or leave the "
                "method out of the configuration."
            )


@dataclasses.dataclass(frozen=True)
class Tfmot(Rival):
    """`prune_low_magnitude` of the TensorFlow Model Optimization Toolkit.

    Args:
        updates: Integer, how many times the sparsity rises in the search.
        power: Number, the exponent of `PolynomialDecay`.
    """

    updates: int = 20
    power: float = 3
    module = f"{__package__}.tfmot"
    python = Path(sys.executable)
    install = "pip install -e .[tf-keras]"

    def refuses(self, structure, make):
        if not isinstance(structure, structures.Unstructured | structures.NM):
            return (
                "it prunes no channels, and blocks in Dense layers only, not in the "
                "convolutions that all of these networks have"
            )
        if make == "small_mobilenet":
            return "it leaves depthwise convolutions dense"
        return None


@dataclasses.dataclass(frozen=True)
class PQuant(Rival):
    """PDP of PQuantML, without quantization.

    Args:
        temperature: Positive float, in the unit of the squared weights.
        updates: Integer, how many times the sparsity rises in the search.
        share_out: Whether kernels get sparsities of their own, by one threshold for
            all magnitudes. PQuantML 0.1.0 means to, but its Keras layers all take the
            same sparsity: `_pdp_setup` compares weights that are masked already, and
            sets an attribute `init_r` that nothing reads (`PDP` has `_init_r`). True
            mends both.
    """

    temperature: float = 1e-5
    updates: int = 20
    share_out: bool = False
    module = f"{__package__}.pquant"
    python = ROOT / "build" / "pquant-venv" / "bin" / "python"
    install = "make pquant"

    def refuses(self, structure, make):
        if not isinstance(structure, structures.Unstructured):
            return "of its PDP only the pruning of single weights is compared"
        if make not in ("small_plain", "small_resnet", "resnet20"):
            return "its layers replace Dense and Conv2D here, and no others"
        return None


RIVALS = {"tfmot": Tfmot(), "pquant": PQuant()}
