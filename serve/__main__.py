"""`python -m serve`: the server as a container runs it, configured by the environment alone."""

import os
import sys

from serve.app import serve
from serve.settings import Settings, port_number
from workbench.errors import WorkbenchError


def main() -> int:
    try:
        host = os.environ.get("KRISHI_HOST") or "127.0.0.1"
        serve(Settings.from_environment(), host, port_number(os.environ, "KRISHI_PORT", 8000))
    except WorkbenchError as error:
        hint = f"\nhint: {error.hint}" if error.hint else ""
        sys.stderr.write(f"error: {error.message}{hint}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
