"""`fleet setup`: krishi-bench on a device that is reached over SSH, in an environment of its own."""

import shlex
import subprocess
from pathlib import Path

from workbench import __version__
from workbench.errors import WorkbenchError
from workbench.fleet.openssh import archive, check_ssh, explain, ssh_command
from workbench.fleet.spec import SETUP_PYTHON, DeviceSettings

TIMEOUT_S = 1800.0
EXTRA, BUILDER_EXTRA = "device", "device,export"
# `python3 -m venv` beside the wheels that were sent; every line must work.
SCRIPT = """set -e
home="$HOME/.krishi-bench"; mkdir -p "$home/wheels"
tar -x -f - -C "$home/wheels"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {{ echo "its Python is too old"; exit 3; }}
[ -x "$home/bin/python" ] || python3 -m venv "$home"
"$home/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade {options} {requirement}
"$home/bin/python" -P -c 'import workbench; print(workbench.__version__)'"""


def set_up(device: DeviceSettings, wheels: Path | None, *, offline: bool) -> str:
    """Install this version there and return what the device says it has.

    wheels: a folder whose wheels are sent along. offline: take nothing from an index. Raises WorkbenchError.
    """
    if device.ssh is None:
        raise WorkbenchError(
            "only devices that are reached over `ssh` are set up", hint="install it there by hand"
        )
    files = sorted(wheels.glob("*.whl")) if wheels is not None else []
    if wheels is not None and not files:
        raise WorkbenchError(f"{wheels} holds no wheels", hint="`pip wheel` or `pip download` fill it")
    check_ssh()
    options = '--find-links "$home/wheels"' + (" --no-index" if offline else "")
    extra = BUILDER_EXTRA if device.builds else EXTRA
    script = SCRIPT.format(options=options, requirement=f"'krishi-bench[{extra}]=={__version__}'")
    try:
        done = subprocess.run(
            ssh_command(device.ssh, f"sh -c {shlex.quote(script)}"),
            input=archive(files),
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise WorkbenchError(
            f"{device.ssh} was not set up: it took longer than {TIMEOUT_S / 60:.0f} min",
            hint="`--wheels` with `--offline` needs no index",
        ) from error
    said = done.stderr.decode(errors="replace") + done.stdout.decode(errors="replace")
    if done.returncode != 0:
        # What pip says is more than what can be foreseen: its last lines are shown.
        cause = (
            explain(said, done.returncode) if done.returncode == 255 else "\n  ".join(said.splitlines()[-5:])
        )
        raise WorkbenchError(f"{device.ssh} was not set up: {cause}")
    if device.python not in (None, SETUP_PYTHON):
        raise WorkbenchError(
            f"{device.ssh} is set up, but fleet.yaml says `python: {device.python}`",
            hint=f"leave `python` out, and {SETUP_PYTHON} is taken",
        )
    return done.stdout.decode().strip()
