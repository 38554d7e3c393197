"""`python -m serve.engine.load_trial REGISTRY NAME VERSION DIGEST`: load a bundle once.

Exits with 1, and the reason on stderr, where it cannot be loaded.
"""

import os
import sys
from contextlib import suppress
from pathlib import Path

from serve.engine.model import load_model
from workbench.errors import WorkbenchError
from workbench.registry.store import Registry


def main(registry: str, name: str, version: str, digest: str) -> int:
    os.nice(10)
    # Should memory run out, this process is the one to end, not the server.
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    try:
        bundle = Registry(Path(registry)).bundle(name, version)
        if bundle.digest != digest:
            raise WorkbenchError(f"{name} {version} was changed since it was looked up")
        load_model(bundle).close()
        return 0
    except WorkbenchError as error:
        sys.stderr.write("; ".join(line.strip() for line in error.message.splitlines()) + "\n")
    except MemoryError:
        sys.stderr.write(f"{name} {version} does not fit into memory\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
