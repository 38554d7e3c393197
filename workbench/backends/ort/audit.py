"""What an onnxruntime session really runs: on which provider, and in which precision."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from workbench.backends.artifact import Artifact
from workbench.backends.audit import Audit, Computed, Product, audit_of
from workbench.backends.common import profiled_nodes, translated_ort_errors
from workbench.backends.mac_count import MULTIPLYING, in_order, macs_of, macs_of_call, multiplying
from workbench.errors import WorkbenchError, plural
from workbench.system.nvidia_check import CUDA_PROVIDER, ORT, missing_link

if TYPE_CHECKING:
    import onnx
    import onnxruntime
    from numpy.typing import NDArray


# The option with which a session keeps which provider got which node.
RECORD = "session.record_ep_graph_assignment_info"
BYTES = frozenset({"int8", "uint8"})
FLOATS: dict[str, Computed] = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16"}
QUANTISES = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
# Casts between these are bookkeeping of shapes and masks, not a change of the precision computed in.
BOOKKEEPING = frozenset({"int64", "bool"})
BLOCKED = "_nchwc"  # how onnxruntime ends the name of a convolution in its blocked layout
# Other providers compile parts of the graph into kernels that hide their nodes and types.
OWN_NODES = frozenset({"CPUExecutionProvider", CUDA_PROVIDER})


def open_session(
    artifact: Artifact, options: "onnxruntime.SessionOptions", providers: Mapping[str, dict[str, str]]
) -> "onnxruntime.InferenceSession":
    """Open the file from its verified bytes. providers: by preference, with the options of each.

    options: changed for CUDA, so that the session records which provider got which node. Raises
    WorkbenchError where it cannot be opened, or the first provider took nothing of it.
    """
    import onnxruntime

    data, wanted = artifact.read(), next(iter(providers))
    on_gpu = wanted == CUDA_PROVIDER
    if on_gpu:
        options.add_session_config_entry(RECORD, "1")
    try:
        with translated_ort_errors(f"open {artifact.path.name}", RuntimeError, ValueError):
            # Its fallback would open the file once more on the CPU, at opening or at a failed call.
            session = onnxruntime.InferenceSession(
                data, options, providers=list(providers.items()), enable_fallback=False
            )
    except WorkbenchError as error:
        if on_gpu and (missing := missing_link(ORT)) is not None:
            raise WorkbenchError(f"onnxruntime cannot open {artifact.path.name}: {missing}") from error
        raise
    refuse_other(session.get_providers()[0], wanted, lambda: missing_link(ORT) if on_gpu else None)
    if on_gpu:
        refuse_idle(assigned(session), wanted)
    return session


def assigned(session: "onnxruntime.InferenceSession") -> dict[str, int]:
    """Nodes of the graph per provider, as the session was split, before a provider fuses what it took.

    The session must have been opened with RECORD, by onnxruntime 1.24 or newer.
    """
    parts = session.get_provider_graph_assignment_info()
    return dict(Counter(part.ep_name for part in parts for _ in part.get_nodes()))


def refuse_other(taken: str, wanted: str, missing: Callable[[], str | None]) -> None:
    """Raise WorkbenchError where the session as a whole fell back: its first provider is another.

    missing: names the library that the provider lacks, and what to install.
    """
    if taken != wanted:
        reason = missing()
        raise WorkbenchError(
            f"asked for {wanted}, onnxruntime took {taken}" + (f": {reason}" if reason else ""),
            hint=None if reason else "the log of this trial has what onnxruntime printed",
        )


def refuse_idle(nodes: Mapping[str, int], wanted: str) -> None:
    """Raise WorkbenchError where the provider that was asked for took no node: it would only seem slow."""
    if not nodes.get(wanted):
        others = " and ".join(sorted(name for name, count in nodes.items() if count)) or "nothing"
        raise WorkbenchError(
            f"{wanted} took none of the {plural(sum(nodes.values()), 'node')}; all ran on {others}",
            hint="the provider has no kernels for this graph (opset, number format): "
            "try another variant, or `graph_level: basic`",
        )


@dataclass(frozen=True, slots=True)
class Call:
    """A node of the executed graph, from the profile. inputs, outputs: types and shapes."""

    name: str
    op_type: str
    provider: str
    inputs: tuple[tuple[str, tuple[int, ...]], ...]
    outputs: tuple[tuple[str, tuple[int, ...]], ...]


def audit_onnx(
    artifact: Artifact,
    options: "onnxruntime.SessionOptions",
    providers: Mapping[str, dict[str, str]],
    sample: "NDArray[Any]",
) -> Audit:
    """Open the artifact as the real session does, run `sample` through it once, and read what ran.

    options: fresh ones with the real session's settings; they are changed. sample: one batch as the session
    takes it. CUDA's nodes are counted as they were assigned, before it fused them. Raises WorkbenchError as
    `open_session` does, and where onnxruntime cannot run the file.
    """
    import onnx

    with TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        rewritten = Path(folder) / "rewritten.onnx"
        if own := set(providers) <= OWN_NODES:
            options.optimized_model_filepath = str(rewritten)
        session = _run_once(artifact, options, providers, sample)
        calls = [_call(event["name"], event["args"]) for event in profiled_nodes(session)]
        unfused = unfused_qdq(onnx.load(rewritten).graph) if own else None
    on_gpu = CUDA_PROVIDER in providers
    nodes = assigned(session) if on_gpu else Counter(call.provider for call in calls)
    source = onnx.load_from_string(artifact.read())
    counted = macs_of(source)
    whole = len(counted) == len(multiplying(source))
    return audit_of(
        products_of(calls, batch=len(sample), blocked=macs_by_tensor(source, counted)),
        asked=artifact.info.precision,
        providers=nodes,
        casts=sum(map(_casts, calls)),
        unfused_qdq=unfused,
        macs=sum(counted.values()) if whole else None,
    )


def products_of(calls: Iterable[Call], *, batch: int, blocked: Mapping[str, int]) -> list[Product]:
    """The calls that multiply, with their precision and their multiply-accumulates for one photo.

    blocked: the MACs by tensor in the stored graph (see `macs_by_tensor`), for convolutions in the blocked
    layout: it pads channels, which their shapes would count, but names its nodes after a tensor.
    """
    products = []
    for call in calls:
        if call.op_type in MULTIPLYING:
            shapes = [shape for _, shape in call.inputs]
            macs = macs_of_call(call.op_type, shapes, call.outputs[0][1] if call.outputs else None)
            per_photo = None if macs is None else macs // batch
            tensor = call.name.removesuffix(BLOCKED).removeprefix("InsertedPrecisionFreeCast_")
            if call.name.endswith(BLOCKED):
                per_photo = blocked.get(tensor, per_photo)
            products.append(Product(_precision(call), per_photo))
    return products


def macs_by_tensor(graph: "onnx.ModelProto", counted: Mapping[str, int]) -> dict[str, int]:
    """The MACs of the one product that each tensor comes from. counted: those of `macs_of`."""
    stored = {weight.name for weight in graph.graph.initializer}
    maker: dict[str, str] = {}
    names = {node.output[0]: name for name, node in multiplying(graph)}
    for node in in_order(graph.graph):
        makers = {maker.get(given) for given in node.input if given and given not in stored}
        if (name := names.get(node.output[0], "")) in counted:
            maker[node.output[0]] = name
        elif len(makers) == 1 and (only := makers.pop()) is not None:
            maker.update(dict.fromkeys(node.output, only))
    return {tensor: counted[name] for tensor, name in maker.items()}


def _precision(call: Call) -> Computed:
    # With bytes on one side, the other is quantised inside.
    data, weight = MULTIPLYING[call.op_type]
    kinds = [call.inputs[i][0] for i in (data, weight) if i < len(call.inputs)]
    if BYTES & set(kinds):
        return "int8"
    return FLOATS.get(kinds[0], "unknown") if kinds else "unknown"


def _casts(call: Call) -> bool:
    kinds = {kind for kind, _ in (*call.inputs, *call.outputs)}
    return call.op_type == "Cast" and len(kinds) > 1 and not kinds & BOOKKEEPING


def unfused_qdq(graph: "onnx.GraphProto") -> int:
    """Nodes that (de)quantise on their own between two multiplications, or at a weight, in an executed graph.

    Those before the first multiplication and after the last are in any INT8 network.
    """
    stored = {weight.name for weight in graph.initializer}
    products = [node for node in graph.node if node.op_type in MULTIPLYING]
    after: set[str] = {name for node in products for name in node.output}
    for node in graph.node:  # each comes after what it reads
        if after & set(node.input):
            after.update(node.output)
    before: set[str] = {name for node in products for name in node.input}
    for node in reversed(graph.node):
        if before & set(node.output):
            before.update(node.input)
    return sum(
        node.op_type in QUANTISES
        and before.intersection(node.output) != set()
        and (node.input[0] in after or node.input[0] in stored)
        for node in graph.node
    )


def _run_once(
    artifact: Artifact,
    options: "onnxruntime.SessionOptions",
    providers: Mapping[str, dict[str, str]],
    sample: "NDArray[Any]",
) -> "onnxruntime.InferenceSession":
    """A session with its profile running, after one call."""
    options.enable_profiling = True
    # The profile loses the shapes of weights that are packed ahead; nodes and types stay the same.
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.log_severity_level = 3
    session = open_session(artifact, options, providers)
    with translated_ort_errors(f"run {artifact.path.name}", RuntimeError, ValueError):
        session.run(None, {session.get_inputs()[0].name: sample})
    return session


def _call(name: str, args: dict[str, Any]) -> Call:
    return Call(
        name,
        args["op_name"],
        args["provider"],
        _tensors(args.get("input_type_shape", [])),
        _tensors(args.get("output_type_shape", [])),
    )


def _tensors(listed: list[dict[str, list[int]]]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((kind, tuple(shape)) for each in listed for kind, shape in each.items())
