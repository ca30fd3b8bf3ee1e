"""Arguments, exit codes, and what is printed where."""

import argparse
import contextlib
import json
import os
import re
import signal
import sys
import threading
import warnings
from fractions import Fraction

from smart_tf import export, methods, structures, targets
from smart_tf.cli import commands, models

_DATA = (
    ".npz file with x_train, y_train, x_test, y_test or x, y; or a folder of images in "
    "one folder for each class (or with such folders in train and test); or tfds:NAME"
)
_DESCRIPTION = """\
Prunes Keras models, and takes the result to files that devices run.

Reports go to the standard output, progress and errors to the standard error.
Exit code: 0 if all went well, 1 if the work failed or its result was refused, 2 if
the arguments or the files were wrong. A file is written whole or not at all.
"""
_EXAMPLES = {
    None: """\
  smart-tf prune model.keras pruned.keras --data digits.npz --sparsity 0.9
  smart-tf report pruned.keras
  smart-tf export pruned.keras int8.tflite --to tflite --quantize int8 --data digits.npz
  smart-tf inspect int8.tflite
  smart-tf prune --help""",
    "prune": """\
  smart-tf prune model.keras pruned.keras --data digits.npz --sparsity 0.9
  smart-tf prune model.keras pruned.keras --data photos/ --rescale 1/255 \\
      --target ethos-u85 --loss logits --epochs 20
  smart-tf prune model.keras slim.keras --data tfds:mnist --sparsity 0.5 \\
      --structure channel --budget macs""",
    "report": """\
  smart-tf report pruned.keras
  smart-tf report pruned.keras --json --plot sparsity.png""",
    "shrink": """\
  smart-tf shrink slim.keras small.keras
  smart-tf shrink slim.keras small.keras --time""",
    "export": """\
  smart-tf export pruned.keras model.tflite --to tflite
  smart-tf export pruned.keras int8.tflite --to tflite --quantize int8 --data digits.npz
  smart-tf export pruned.keras masks.npz --to masks --structure 16x8
  smart-tf export pruned.keras int8.tflite --target ethos-u85 --data digits.npz""",
    "inspect": """\
  smart-tf inspect int8.tflite
  smart-tf inspect --json pruned.keras""",
}


def main(arguments=None):
    """Runs the command `smart-tf`.

    Args:
        arguments: List of strings; those of the process by default.

    Returns:
        0.

    Raises:
        SystemExit: With code 1 or 2 if something is wrong, 0 after `--help`, 130 or
            143 if it is interrupted or terminated.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        # Keras shows its progress on the standard output, which is for the result.
        with (
            contextlib.redirect_stdout(sys.stderr),
            _short_warnings(),
            _terminated_in_peace(),
        ):
            result = options.run(options)
    except KeyboardInterrupt:
        parser.exit(130, "smart-tf: interrupted\n")
    except Exception as error:
        if options.debug:
            raise
        usage = isinstance(error, (ValueError, TypeError, ImportError, OSError))
        message = _as_typed(_one_line(error), options)
        parser.exit(2 if usage else 1, f"smart-tf: error: {message}\n")
    text = json.dumps(result.to_dict(), indent=1) if options.json else str(result)
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Who reads (`head`, say) has enough; exiting would flush, and fail, again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _one_line(error):
    return " ".join(str(error).split()) or type(error).__name__


def _as_typed(message, options):
    """A message of the library, with the names of arguments that the user typed."""
    names = {name: f"--{name.replace('_', '-')}" for name in vars(options)}
    names |= {"model": "MODEL", "representative_data": "--data"}
    names["path"] = "path" if "path" in options else "OUT"  # Of `inspect`, or written.
    places = r"(?<=Argument `)\w+(?=`)|(?<=Received: )\w+(?==)"
    return re.sub(places, lambda found: names.get(found[0], found[0]), message)


@contextlib.contextmanager
def _short_warnings():
    """Warnings as lines for users, without the place in the code."""
    with warnings.catch_warnings():
        for category in (FutureWarning, DeprecationWarning):
            warnings.simplefilter("ignore", category)  # Those are for developers.
        warnings.showwarning = lambda message, *_, **__: print(
            f"smart-tf: warning: {_one_line(message)}", file=sys.stderr
        )
        yield


@contextlib.contextmanager
def _terminated_in_peace():
    """`kill` ends the command as Ctrl-C does: no unfinished files stay behind."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Nobody else may set what a signal does.
        return

    def stop(*_):
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _parser():
    parser = argparse.ArgumentParser(prog="smart-tf", **_help(None, _DESCRIPTION))
    adder = parser.add_subparsers(title="commands", required=True, metavar="command")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print JSON")
    common.add_argument(
        "--debug", action="store_true", help="show where in the code an error arose"
    )

    def add(name, run, text):
        command = adder.add_parser(
            name, help=text, parents=[common], **_help(name, text.capitalize() + ".")
        )
        command.set_defaults(run=run)
        return command

    _add_prune(add("prune", commands.prune, "prune a model and fine-tune it"))
    _add_report(add("report", commands.report, "the zeros of a model, layer by layer"))
    _add_shrink(add("shrink", commands.shrink, "remove the channels that are zero"))
    _add_export(
        add("export", commands.export_model, "convert a model for a runtime or a chip")
    )
    inspect = add("inspect", commands.inspect, "zeros, patterns and bytes in a file")
    inspect.add_argument("path", help="a .tflite or .keras file, of any tool")
    return parser


def _help(name, description):
    return {
        "description": description,
        "epilog": f"examples:\n{_EXAMPLES[name]}",
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    }


def _add_prune(command):
    _add_model(command)
    _add_out(command, "the .keras file to write: the plain model, with exact zeros")
    what = command.add_argument_group("what goes")
    what.add_argument(
        "--sparsity", type=float, help="fraction that goes; may be left out for N:M"
    )
    shape = what.add_mutually_exclusive_group()
    shape.add_argument(
        "--structure",
        type=_checked(structures.get),
        help="unstructured, OxI or OxIxHxW blocks, channel, or N:M of which N stay "
        "(default: 16x8)",
    )
    shape.add_argument(
        "--target", choices=targets.TARGETS, help="a chip, which chooses the structure"
    )
    what.add_argument(
        "--budget",
        choices=("weights", "params", "macs"),
        default="weights",
        help="what sparsity counts (default: %(default)s)",
    )
    what.add_argument(
        "--method",
        type=_checked(methods.get),
        default="smart",
        help="smart, paper, magnitude, pdp, pas, awg or acdc (default: %(default)s)",
    )
    what.add_argument(
        "--filters",
        type=_checked(lambda text: re.compile(text).pattern),
        metavar="REGEX",
        help="prune only layers whose path has this in it",
    )
    _add_training(command.add_argument_group("training"))
    _add_data(command.add_argument_group("data"), required=True)


def _add_training(group):
    group.add_argument(
        "--epochs",
        type=_positive(int),
        default=10,
        help="search and fine-tuning together (default: %(default)s)",
    )
    group.add_argument(
        "--search-epochs",
        type=_positive(float),
        help="how many of them search (default: half)",
    )
    group.add_argument(
        "--learning-rate",
        type=_positive(float),
        default=1e-3,
        help="of AdamW, from which it falls along a cosine, and again from the freeze "
        "on; worth tuning (default: %(default)s)",
    )
    group.add_argument(
        "--loss",
        choices=models.LOSSES,
        help="for classes from logits or from probabilities (labels are integers), or "
        "for numbers (default: what the model was compiled with)",
    )
    group.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    group.add_argument("--quiet", action="store_true", help="show no progress")


def _add_data(group, required=False):
    use = "" if required else "samples, which int8 needs; "
    group.add_argument("--data", required=required, help=use + _DATA)
    group.add_argument(
        "--rescale",
        type=_number(lambda text: float(Fraction(text)), bool, "other than 0"),
        default=1.0,
        metavar="FACTOR",
        help="multiply inputs by this, such as 1/255 (default: 1)",
    )
    if required:
        group.add_argument(
            "--batch-size",
            type=_positive(int),
            default=32,
            help="(default: %(default)s)",
        )
        group.add_argument(
            "--held-out",
            type=_number(float, lambda share: 0 < share < 1, "between 0 and 1"),
            default=0.2,
            metavar="SHARE",
            help="to test on, where the data has no part for that "
            "(default: %(default)s)",
        )


def _add_report(command):
    _add_model(command)
    command.add_argument("--plot", metavar="OUT", help="a picture to write as well")
    command.add_argument("--force", action="store_true", help="replace the picture")


def _add_shrink(command):
    _add_model(command)
    _add_out(command, "the .keras file to write")
    command.add_argument(
        "--time",
        action="store_true",
        help="convert both models to TFLite as well, and time them",
    )


def _add_export(command):
    _add_model(command)
    _add_out(command, "the file to write, or for saved_model the folder")
    goal = command.add_mutually_exclusive_group(required=True)
    goal.add_argument("--to", choices=commands.ROUTES, help="the format")
    goal.add_argument(
        "--target",
        choices=targets.TARGETS,
        help="a chip, which chooses the format and how numbers are stored",
    )
    command.add_argument(
        "--quantize",
        choices=("float16", "dynamic", "int8"),
        help="how numbers are stored (default: float32; int8 for ethos-u)",
    )
    command.add_argument(
        "--sparse", action="store_true", help="tflite: leave out blocks of zeros"
    )
    command.add_argument(
        "--structure", type=_checked(structures.get), help="masks: the blocks"
    )
    command.add_argument(
        "--accelerator",
        choices=export.ACCELERATORS,
        metavar="NAME",
        help=f"ethos-u: {', '.join(export.ACCELERATORS)} (default: ethos-u55-128)",
    )
    _add_data(command)


def _add_model(command):
    command.add_argument(
        "model", metavar="MODEL", help="a .keras or .h5 file of Keras 3 or tf_keras"
    )


def _add_out(command, text):
    command.add_argument("out", metavar="OUT", help=text)
    command.add_argument(
        "--force", action="store_true", help="replace OUT if it is there"
    )


def _checked(read):
    """A type for argparse whose errors are those of the library."""

    def convert(text):
        try:
            return read(text)
        except (ValueError, TypeError, ArithmeticError, re.error) as error:
            raise argparse.ArgumentTypeError(_one_line(error)) from error

    return convert


def _positive(read):
    return _number(read, lambda number: 0 < number < float("inf"), "positive")


def _number(read, holds, what):
    """A type for argparse: what `read` makes of a text, if `holds` is true of it."""

    def convert(text):
        number = read(text)
        if not holds(number):
            raise ValueError(f"must be {what}. Received: {text}")
        return number

    return _checked(convert)
