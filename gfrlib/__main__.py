"""python -m gfrlib."""

import sys

from gfrlib.cli import main

sys.exit(main())
