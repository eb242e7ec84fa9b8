"""python -m gfrlib."""

import sys

if __name__ == "__main__":
    try:
        from gfrlib.cli import main
    except KeyboardInterrupt:  # while Python reads the modules
        sys.exit(130)
    sys.exit(main())
