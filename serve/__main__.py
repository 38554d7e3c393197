"""`python -m serve`: the server as a container runs it, configured by the environment alone."""

import sys

from serve import process


def main() -> int:
    process.handle_end_signals(process.exit_now)  # before the imports that take time
    from serve.server import run
    from serve.settings import Settings
    from workbench.errors import WorkbenchError

    try:
        run(Settings.from_environment())
    except WorkbenchError as error:
        hint = f"\nhint: {error.hint}" if error.hint else ""
        sys.stderr.write(f"error: {error.message}{hint}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
