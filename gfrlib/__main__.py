"""python -m gfrlib."""

import sys

if __name__ == "__main__":
    try:
        from gfrlib.cli import main
    except KeyboardInterrupt:  # while Python reads the modules
        print("gfrlib: stopped.", file=sys.stderr)
        sys.exit(130)
    sys.exit(main())
