"""The command line: `python -m smart_tf inspect model.tflite`."""

import argparse
import json
import sys

import smart_tf


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m smart_tf")
    commands = parser.add_subparsers(title="commands", required=True, metavar="command")

    inspect = commands.add_parser("inspect", help="zeros, patterns and bytes in a file")
    inspect.add_argument("path", help="a .tflite or .keras file, of any tool")
    inspect.add_argument("--json", action="store_true", help="print JSON")
    inspect.set_defaults(run=_inspect)

    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except ValueError as error:
        parser.error(str(error))


def _inspect(options):
    report = smart_tf.inspect_file(options.path)
    print(json.dumps(report.to_dict(), indent=1) if options.json else report)


if __name__ == "__main__":
    sys.exit(main())
