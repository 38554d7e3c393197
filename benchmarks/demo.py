"""`make demo`: the whole path on the bundled sample, each command as a user would type it.

run, compare, promote, serve, one prediction, and the page for people. It exits with 0 only if every part
succeeded.
"""

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx

from workbench.system.files import cache_folder
from workbench.workspace.sample import sample_folder

READY_TIMEOUT_S = 30.0
# The shipped recipes that show most and build in seconds.
RECIPES = ("fp32", "fp16", "int8-dynamic", "int8-static", "openvino")
LOOK_S = 60
PORT = int(os.environ.get("PORT", "8765"))
URL = f"http://127.0.0.1:{PORT}"


def main() -> None:
    command = [sys.executable, "-m", "workbench"]
    shown("run", *RECIPES)
    checked = subprocess.run([*command, "run", *RECIPES], stdout=subprocess.DEVNULL)
    stop_on_failure(checked)
    for words in (["compare"], ["promote"], ["models"]):
        shown(*words)
        stop_on_failure(subprocess.run([*command, *words]))
    shown("serve", "--port", str(PORT), "&")
    server = subprocess.Popen([*command, "serve", "--port", str(PORT)], stderr=subprocess.DEVNULL)
    try:
        wait_until_ready(server)
        photo = sample_photo()
        print(f"\n$ curl -F file=@{photo.name} {URL}/predict", flush=True)
        form = {"file": (photo.name, photo.read_bytes(), "image/jpeg")}
        answer = httpx.post(f"{URL}/predict", files=form, timeout=30).raise_for_status()
        print(json.dumps(answer.json(), indent=2))
        print(f"(the photo is of class {photo.parent.name})")
        show_page()
    finally:
        server.terminate()
        server.wait(30)


def shown(*words: str) -> None:
    print(f"\n$ krishi-bench {' '.join(words)}", flush=True)


def stop_on_failure(done: subprocess.CompletedProcess[bytes]) -> None:
    if done.returncode:
        sys.exit(done.returncode)


def wait_until_ready(server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline and server.poll() is None:
        with suppress(httpx.TransportError):
            if httpx.get(f"{URL}/readyz").is_success:
                return
        time.sleep(0.1)
    sys.exit(f"the server was not ready within {READY_TIMEOUT_S:g} s; is port {PORT} taken? Set PORT=...")


def show_page() -> None:
    """Keep the server up for a while on an interactive terminal, so that the page can be opened."""
    size = len(httpx.get(URL).raise_for_status().content)
    print(f"\nthe page for people: {URL} ({size / 1e3:.0f} KB; `serve --host 0.0.0.0` lets phones see it)")
    if not sys.stdout.isatty():
        return
    print(f"it is up for {LOOK_S} s now; drop {sample_photo()} on it (Ctrl+C ends it at once)", flush=True)
    with suppress(KeyboardInterrupt):
        time.sleep(LOOK_S)


def sample_photo() -> Path:
    return next((sample_folder(cache_folder()) / "data" / "val" / "Tomato_Early_Blight").glob("*.jpg"))


if __name__ == "__main__":
    main()
