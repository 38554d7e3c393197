"""Run torch's exporters: their inputs, output and errors."""

import contextlib
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import Unsuited, WorkbenchError, first_line, summary
from workbench.model.export.settings import Export, failure
from workbench.model.graph.onnx_file import load

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


# The errors that a network's forward, or an exporter that follows it, raises for unsupported networks.
NETWORK_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError, AssertionError)
TWO_LOGITS = (
    "1 output: give the two logits 0 and z, from a factory that wraps the network: "
    "`torch.cat([torch.zeros_like(z), z], dim=1)`"
)
DEPENDENT = "a photo's answer depends on the others in its batch"
DEPENDENT_HINT = (
    "a BatchNorm without running statistics takes the batch's: train it with `track_running_stats=True`; a "
    "branch must look at each photo alone, with torch.where"
)
INTERPRETER = "failed in the TorchScript interpreter"


def _reason(error: BaseException) -> str:
    """What went wrong in a forward: of an error in TorchScript the sentence that its trace leads up to."""
    if INTERPRETER not in str(error):
        return first_line(error)
    lines = str(error).strip().splitlines()
    causes = [line for line in lines if re.match(r"\w*Error: ", line)] or lines
    return causes[-1].partition(": ")[2].split(". ")[0] or causes[-1]


RGB_HINT = (
    "photos go in as 3 channels, RGB: wrap the network in a factory that makes of them what it takes, as "
    "`x.mean(1, keepdim=True)` does"
)


def unable(model: object, shape: tuple[int, ...], error: BaseException) -> WorkbenchError:
    """The error about a network that does not run, with the device or type in the code of TorchScript."""
    import torch

    why = _reason(error)
    if "more than 1 value per channel" in why:
        return WorkbenchError(f"{DEPENDENT}: {why}", hint=DEPENDENT_HINT)
    hint = "check `preprocess.crop` and `model.factory_args` in krishi.yaml"
    if re.search(r"expected input\S* to have \d+ channels, but got 3 ", why):
        hint = RGB_HINT
    if isinstance(model, torch.jit.ScriptModule):
        devices = sorted(set(re.findall(r'"((?:cuda|mps|xpu)(?::\d+)?)"', str(model.inlined_graph))))
        types = "a type of numbers other than float32" if re.search("type|Half|BFloat16", why) else None
        if written := f"the device `{devices[0]}`" if devices else types:
            why = f"{written} is written into its code ({why})"
            hint = "save it again in float32 on the CPU: torch.jit.trace(model.cpu().float().eval(), photos)"
    return WorkbenchError(f"the network cannot run on a batch of shape {shape}: {why}", hint=hint)


def write_onnx(
    model: "torch.nn.Module", export: Export, target: Path, images: "NDArray[np.float32]", *, hint: str | None
) -> None:
    """Trace the network on `images`, (n, C, H, W), and write it with the names `images` and `logits`.

    hint: of the error where the exporter fails for another reason than the opset. Raises WorkbenchError.
    """
    import torch

    names = {"input_names": ["images"], "output_names": ["logits"]}
    shared: dict[str, Any] = {"opset_version": export.opset, "external_data": False, **names}
    arguments = (torch.from_numpy(images),)
    try:
        with chatter_on_stderr(), _plain_attention(), torch.no_grad():
            if export.exporter == "dynamo":
                shapes = ({0: torch.export.Dim("batch")},) if export.dynamic_batch else None
                torch.onnx.export(
                    model, arguments, target, dynamo=True, dynamic_shapes=shapes, verbose=False, **shared
                )
            else:
                axes = {"images": {0: "batch"}, "logits": {0: "batch"}} if export.dynamic_batch else None
                torch.onnx.export(model, arguments, str(target), dynamo=False, dynamic_axes=axes, **shared)
    except Exception as error:  # the exporters, and the network's own code, raise whatever they like
        if (since := re.search(r"added in version (\d+)", str(error))) is not None:
            hint = f"set `export.opset: {since[1]}`, or later"
        raise WorkbenchError(f"{failure(export)}{_root_cause(error)}", hint=hint) from error
    _strip_traces(target)


def _strip_traces(path: Path) -> None:
    """Drop dynamo's stack traces with the paths of this computer, 4 % of a small file; the modules' names
    stay."""
    import onnx

    model = load(path)
    graph = model.graph
    for item in (*graph.node, *graph.value_info, *graph.initializer, *graph.input, *graph.output):
        scopes = [prop for prop in item.metadata_props if prop.key == "pkg.torch.onnx.name_scopes"]
        del item.metadata_props[:]
        item.metadata_props.extend(scopes)
    onnx.save(model, path)


def write_program(
    model: "torch.nn.Module", target: Path, images: "NDArray[np.float32]", *, dynamic_batch: bool = True
) -> None:
    """Write a torch.export program with a free batch size, or that of `images`. Raises WorkbenchError."""
    import torch

    shapes = ({0: torch.export.Dim("batch")},) if dynamic_batch else None
    try:
        program = torch.export.export(model, (torch.from_numpy(images),), dynamic_shapes=shapes)
        with target.open("wb") as file:  # a path would have to end in .pt2
            torch.export.save(program, file)
    except NETWORK_ERRORS as error:
        raise WorkbenchError(
            f"torch.export failed: {_root_cause(error)}",
            hint="measure it with the onnxruntime backend, through `export.exporter: torchscript`",
        ) from error


def write_package(
    model: "torch.nn.Module",
    target: Path,
    images: "NDArray[np.float32]",
    *,
    precision: str,
    threads: int,
    device: str,
) -> None:
    """Compile the network ahead of time with inductor, weights frozen, for batches of the shape of `images`.

    precision: `f32`, `tf32` on a GPU, or `bf16` and `f16`: convolutions and matrix products under autocast,
    logits in float32. threads: fixed in the code; a GPU's has none. device: the model stays on it. All of it
    is noted in the package. Takes 10 to 60 seconds. Raises Unsuited where a compiler is missing,
    WorkbenchError where it fails.
    """
    import torch
    from torch._inductor.utils import fresh_cache

    from workbench.backends.torch.backend import noted

    _find_compilers(device)
    facts = {**noted(precision, device, threads), "batch": str(len(images))}
    settings = inductor_settings(device, threads, facts)
    try:
        with torch.no_grad(), fresh_cache(), target.open("wb") as file:  # a path would have to end in .pt2
            arguments = (torch.from_numpy(images).to(device),)
            program = torch.export.export(_in_precision(model.to(device), precision, device), arguments)
            torch._inductor.aoti_compile_and_package(program, package_path=file, inductor_configs=settings)
    except NETWORK_ERRORS as error:
        raise WorkbenchError(
            f"torch could not compile the network: {_root_cause(error)}",
            hint="the log of this trial has the compiler's words; without `runtime.compile` it runs eagerly",
        ) from error


def inductor_settings(device: str, threads: int, facts: dict[str, str]) -> dict[str, Any]:
    """The settings for inductor. facts: kept in the package."""
    own = {"cpp.threads": threads} if device == "cpu" else {}
    # One compile thread: no pool of processes for one or two files.
    return {"freezing": True, "compile_threads": 1, "aot_inductor.metadata": facts, **own}


def _find_compilers(device: str) -> None:
    """Raise Unsuited where the compilers are missing."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise Unsuited(
            "runtime.compile: torch needs a C++ compiler (g++ or clang++) to compile ahead of time",
            hint="install one, for example `apt install g++`; the variable CXX names another than g++",
        ) from error
    if device != "cuda":
        return
    if find_spec("setuptools") is None:
        raise Unsuited(
            "runtime.compile: torch compiles for a GPU with the package `setuptools`, which is not installed",
            hint="pip install setuptools",
        )
    from torch.utils.cpp_extension import CUDA_HOME

    if CUDA_HOME is None:
        raise Unsuited(
            "runtime.compile: torch needs the headers of the CUDA toolkit to compile ahead of time for a GPU",
            hint="install the toolkit of torch's CUDA version and name its folder in the variable CUDA_HOME",
        )


def _in_precision(model: "torch.nn.Module", precision: str, device: str) -> "torch.nn.Module":
    import torch

    from workbench.backends.torch.backend import HALF

    if precision not in HALF:
        return model
    half: torch.dtype = getattr(torch, HALF[precision])

    class Autocast(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = model

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            with torch.autocast(device, half):
                logits: torch.Tensor = self.network(images)
            return logits.float()

    return Autocast()


def _root_cause(error: BaseException) -> str:
    """The first line of the innermost exception: the exporters wrap it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return summary(error)


@contextmanager
def _plain_attention() -> Iterator[None]:
    """nn.MultiheadAttention without its fused inference path, which the older exporter cannot write."""
    import torch

    enabled: bool = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


@contextmanager
def chatter_on_stderr() -> Iterator[None]:
    """Send the output of the exporters to stderr, also from C++, and drop torch's deprecation warnings."""
    sys.stdout.flush()
    stdout = os.dup(1)
    try:
        os.dup2(2, 1)
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("default")
            # The newer exporter does not write opsets below 18, so the older one stays.
            warnings.simplefilter("ignore", DeprecationWarning)
            # torch 2.13 copying its own tree specs.
            warnings.filterwarnings("ignore", r"`isinstance\(treespec", FutureWarning)
            yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
