"""`python -m serve.worker FOLDER DESCRIPTOR SLOT`: one of several processes behind a port (`workers.py`)."""

import os
import pickle
import signal
import socket
import sys
import threading
from pathlib import Path

from serve.metrics import share_files
from serve.settings import Settings


def main(folder: str, descriptor: str, slot: str) -> int:
    settings: Settings = pickle.load(sys.stdin.buffer)
    share_files(Path(folder), int(slot))
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()

    # After the metrics know their files: an app creates them.
    from serve.server import run_on

    with socket.socket(fileno=int(descriptor)) as listener:
        run_on(settings, listener)
    return 0


def _end_with_parent() -> None:
    """Send this process SIGTERM when the pipe from its parent closes, however the parent ended."""
    # Not through sys.stdin: Python aborts where a thread still holds that at its end.
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
