"""`python -m workbench.cli`: the command line."""

import sys

from workbench.cli import main

sys.exit(main())
