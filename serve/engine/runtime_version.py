"""Holds the installed runtime to the version that a bundle was published with."""

import logging

from workbench.errors import WorkbenchError
from workbench.registry.manifest import Manifest
from workbench.system.packages import versions

log = logging.getLogger("serve.engine.loader")

ANYWAY = "KRISHI_ANY_RUNTIME"


def check_version(manifest: Manifest, *, anyway: bool) -> None:
    """Raise WorkbenchError where the manifest pins another version than the one installed.

    anyway: log a warning instead, as where the manifest pins none and it was measured with another.
    """
    name, pinned = manifest.runtime.DISTRIBUTION, manifest.runtime.version
    published = pinned or manifest.measured.runtime_version
    installed = versions(name).get(name) if name else None
    if published is None or installed is None or published == installed:
        return
    model = f"{manifest.name} {manifest.version}"
    differs = f"{model} was measured and published with {name} {published}, and {installed} is installed here"
    if pinned is None or anyway:
        log.warning("%s: its golden answers are checked, its speed and accuracy may be others", differs)
        return
    raise WorkbenchError(
        differs, hint=f"`pip install {name}=={published}`, or {ANYWAY}=1 to serve it with the installed one"
    )
