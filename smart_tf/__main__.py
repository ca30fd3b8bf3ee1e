"""`python -m smart_tf` is the command `smart-tf`."""

import sys

from smart_tf.cli import main

if __name__ == "__main__":
    sys.exit(main())
