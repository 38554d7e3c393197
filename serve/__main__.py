"""`python -m serve`: the server as a container runs it, configured by the environment alone."""

import sys

from serve.server import run
from serve.settings import Settings
from workbench.errors import WorkbenchError


def main() -> int:
    try:
        run(Settings.from_environment())
    except WorkbenchError as error:
        hint = f"\nhint: {error.hint}" if error.hint else ""
        sys.stderr.write(f"error: {error.message}{hint}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
