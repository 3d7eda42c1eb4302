"""`python -m pyro_ebm`: the same as the command `pyro-ebm`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
