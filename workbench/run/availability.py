"""Why a variant cannot be tried on this machine or with this model."""

from collections.abc import Mapping

from workbench.backends import backend_of, takes_onnx, takes_program
from workbench.backends.artifact import Artifact
from workbench.errors import plural
from workbench.run.environments import NOTHING, environments_of
from workbench.system.environments import VirtualEnvironment
from workbench.system.machine import usable_cores
from workbench.workspace.recipe import Variant
from workbench.workspace.requirements import unmet


def not_here(
    variant: Variant,
    source_kind: str,
    baseline: Artifact,
    unmade: Mapping[VirtualEnvironment, str] = NOTHING,
) -> str | None:
    """Why this variant cannot be tried on this machine or with this model, or None.

    unmade: environments that could not be made, and why.
    """
    if (reason := ruled_out(variant, source_kind)) is not None:
        return reason
    for environment in environments_of(variant):
        if (reason := unmade.get(environment) or environment.unmade()) is not None:
            return reason
    if source_kind == "onnx":
        have = baseline.info.opset
        if "opset" in variant.export.model_fields_set and variant.export.opset != have:
            return f"the model comes as an ONNX file of opset {have}; it is not exported again"
    if variant.runtime.environment() is not None:
        return None  # the measuring process looks, in that environment
    return backend_of(variant.runtime).unavailable(variant.runtime)


def ruled_out(variant: Variant, source_kind: str) -> str | None:
    """Why no environment, and no network from such a source, would let it be tried here, or None."""
    if (missing := unmet(variant.needs)) is not None:
        return missing
    cores = usable_cores()
    if variant.runtime.intra_threads > cores:
        asked = plural(variant.runtime.intra_threads, "thread")
        return f"it asks for {asked}; this machine has {plural(cores, 'processor')}"
    if source_kind == "onnx" and not takes_onnx(variant.runtime):
        return f"the model comes as an ONNX file, which {variant.runtime.backend} does not run"
    if source_kind == "torchscript" and takes_program(variant.runtime):
        return "the model comes as a TorchScript module, which torch.export cannot read"
    return None
