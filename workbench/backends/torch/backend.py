"""PyTorch: eager (a `.pt2` program or a TorchScript file), or compiled ahead of time by inductor."""

import io
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from workbench.backends.artifact import Artifact, Format
from workbench.backends.audit import COMPUTED, Audit, Computed, Product, audit_of
from workbench.backends.base import Operators, Session
from workbench.backends.common import for_any_batch, refuse_foreign
from workbench.backends.torch import cuda
from workbench.backends.torch.settings import TorchRuntime
from workbench.errors import WorkbenchError
from workbench.photos.contract import Batch
from workbench.system.packages import missing_package

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    Forward = Callable[[torch.Tensor], torch.Tensor]


NAME = "torch"
FORMATS: frozenset[Format] = frozenset({"torch-export", "torchscript", "torch-aoti"})
PACKAGES: tuple[str, ...] = ("torch",)
OPERATORS: frozenset[Operators] = frozenset()
convert = prepare = None
HALF = {"bf16": "bfloat16", "f16": "float16"}
# By the names of torch's types.
PRECISIONS: dict[str, Computed] = {
    "float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "qint8": "int8", "quint8": "int8",
}  # fmt: skip
BF16_CPUS = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")  # as torch.cpu names what cpuinfo says


def unavailable(runtime: TorchRuntime) -> str | None:
    if runtime.device == "cuda":
        return cuda.unavailable(runtime)
    if (missing := missing_package("torch")) is not None:
        return missing
    import torch

    if runtime.precision == "bf16" and not any(map(torch.cpu.get_capabilities().get, BF16_CPUS)):
        return (
            "this processor has no bf16 instructions (AVX512-BF16, AMX, or ARM's): torch would emulate "
            "bf16, slower than f32"
        )
    return None


@contextmanager
def session(artifact: Artifact, runtime: TorchRuntime) -> Iterator[Session]:
    """Open a torch artifact from its verified bytes, in inference mode. Nothing is compiled.

    Raises WorkbenchError where the file cannot be opened, or was compiled for another machine, precision or
    number of threads.
    """
    import torch

    torch.set_num_threads(runtime.intra_threads)
    open_it, provider = (_compiled, "inductor") if artifact.info.format == "torch-aoti" else (_eager, "eager")
    if runtime.device == "cuda":
        with cuda.tensor_float(runtime.precision == "tf32"):
            yield cuda.open_session(open_it(artifact, runtime), artifact, runtime, provider)
        return
    forward = open_it(artifact, runtime)

    def run(batch: Batch) -> "NDArray[np.float32]":
        # In a thread that never asked, oneDNN starts a helper per processor, whatever was set above.
        torch.get_num_threads()
        with torch.inference_mode():
            logits: NDArray[np.float32] = forward(torch.from_numpy(batch)).float().cpu().numpy()
        return logits

    yield Session(
        for_any_batch(run, artifact.info.input_shape[0]),
        device=runtime.device,
        provider=provider,
        threads=torch.get_num_threads(),
    )


def audit(artifact: Artifact, runtime: TorchRuntime, sample: "NDArray[Any]") -> Audit:
    """Eager: every operator that multiplies, as torch dispatches it. Compiled: the package's precision."""
    if artifact.info.format == "torch-aoti":
        refuse_foreign(artifact, cuda.bound_to() if runtime.device == "cuda" else None)
        return _audit_of_package(artifact, runtime)
    products, casts = _count_products(_eager(artifact, runtime), sample)
    return audit_of(
        products,
        asked=COMPUTED[runtime.computes],
        providers={"eager": len(products)},
        casts=casts,
        unfused_qdq=None,
    )


def _audit_of_package(artifact: Artifact, runtime: TorchRuntime) -> Audit:
    precision = artifact.info.precision if artifact.info.precision in ("bf16", "fp16") else "fp32"
    half = f"{precision} for convolutions and matrix products, fp32 for the rest"
    how = half if precision != "fp32" else "fp32 for all multiplications"
    if runtime.precision == "tf32":
        how += ", which the GPU may round to TF32"
    return Audit(computes=precision, verdict=f"compiled to compute in {how}; the package does not tell more")


def _count_products(forward: "Forward", sample: "NDArray[Any]") -> tuple[list[Product], int]:
    """The operators that multiply in one call, and the number of changes of the float format."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    products: list[Product] = []
    casts: list[str] = []

    class OperatorCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
        """Gets each operator below autocast, with the tensors it really works on."""

        def __torch_dispatch__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            out = func(*args, **(kwargs or {}))
            if func is torch.ops.aten._to_copy.default and out.is_floating_point():
                casts.extend([str(out.dtype)] if out.dtype != args[0].dtype else [])
            elif (flops := flop_registry.get(func.overloadpacket)) is not None:
                macs = flops(*args, **(kwargs or {}), out_val=out) // 2 // len(sample)
                precision = PRECISIONS.get(str(args[0].dtype).removeprefix("torch."), "unknown")
                products.append(Product(precision, macs))
            return out

    # Inference mode would hand over operators whole, before they become those that multiply.
    with torch.no_grad(), OperatorCounter():  # type: ignore[no-untyped-call]
        forward(torch.from_numpy(sample))
    return products, len(casts)


def _eager(artifact: Artifact, runtime: TorchRuntime) -> "Forward":
    import torch

    data = io.BytesIO(artifact.read())
    with warnings.catch_warnings():
        # torch.jit.load is deprecated, and still the only reader of the files that people have.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            if artifact.info.format == "torchscript":
                module = torch.jit.load(data, map_location=runtime.device).eval()  # type: ignore[no-untyped-call]
            else:
                program = torch.export.load(data)
                if runtime.device != "cpu":  # weights, constants, and the tensors that its forward makes
                    from torch.export.passes import move_to_device_pass

                    program = move_to_device_pass(program, runtime.device)
                module = program.module()
        except (RuntimeError, ValueError) as error:
            raise WorkbenchError(f"torch cannot open {artifact.path.name}: {error}") from error
    half = getattr(torch, HALF[runtime.precision]) if runtime.precision in HALF else None
    if half is not None and runtime.device == "cuda":
        cuda.round_weights(module, half)

    def forward(batch: "torch.Tensor") -> "torch.Tensor":
        with torch.autocast(runtime.device, half or torch.bfloat16, enabled=half is not None):
            logits: torch.Tensor = module(batch.to(runtime.device))
        return logits

    return forward


def _compiled(artifact: Artifact, runtime: TorchRuntime) -> "Forward":
    refuse_foreign(artifact, cuda.bound_to() if runtime.device == "cuda" else None)
    forward, facts = open_package(
        artifact.read(), runtime.sessions, artifact.path.name, recorded=runtime.cuda_graph
    )
    for field, wanted in noted(runtime.precision, runtime.device, runtime.intra_threads).items():
        if facts.get(field) != wanted:
            raise WorkbenchError(
                f"{artifact.path.name} was compiled for {field} {facts.get(field)}, not {wanted}",
                hint="build it again with this runtime",
            )
    wanted_shape = artifact.info.input_shape

    def checked(batch: "torch.Tensor") -> "torch.Tensor":
        # The compiled code checks nothing: it would read whatever lies behind a smaller image.
        if tuple(batch.shape) != wanted_shape:
            raise WorkbenchError(
                f"{artifact.path.name} takes a batch of shape {wanted_shape}, not {tuple(batch.shape)}"
            )
        return forward(batch)

    return checked


def noted(precision: str | None, device: str, threads: int) -> dict[str, str]:
    """The facts noted in a package when it is compiled, by which it is checked when it is opened."""
    if device == "cuda":
        return {"device": "cuda", "precision": precision or "f32", "bound_to": cuda.bound_to()}
    return {"precision": precision or "f32", "threads": str(threads)}


def open_package(
    data: bytes, calls_at_once: int, name: str, *, recorded: bool = False
) -> "tuple[Forward, Mapping[str, str]]":
    """A package that inductor compiled, and the facts noted in it (see `torch_exporters.write_package`).

    calls_at_once: more than these wait for each other. recorded: for a CUDA graph, which the package's own
    locks would disturb: the caller must not let calls overlap. Raises WorkbenchError.
    """
    from torch._inductor.package.package import load_package

    try:
        # From a buffer: torch copies it to a file that nobody else can write, and removes it again.
        package = load_package(
            io.BytesIO(data), run_single_threaded=recorded, num_runners=1 if recorded else calls_at_once
        )
        facts = package.get_metadata()
    except (RuntimeError, ValueError) as error:
        raise WorkbenchError(f"torch cannot open {name}: {error}") from error
    loader = package.loader  # calling `package` itself parses its signature at each call: 8 us

    def forward(batch: "torch.Tensor") -> "torch.Tensor":
        logits: torch.Tensor = loader.boxed_run([batch])[0]
        return logits

    return forward, facts
