"""An ONNX file that somebody brings: its weights in other files, and operators that fit one machine alone."""

from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import WorkbenchError, plural, some
from workbench.model.graph.onnx_file import OnnxFacts, describe, open_model
from workbench.system.files import refuse_lfs_pointer, sha256_file

if TYPE_CHECKING:
    import onnx


ONE_FILE = 2**31 - 2**20  # bytes: protobuf's limit, with room for the graph
# Of `com.microsoft`, whose others run everywhere: an engine of one provider, and layouts of one processor.
PRIVATE_OPERATORS = frozenset({"EPContext", "NhwcConv", "NhwcFusedConv", "NhwcMaxPool"})
LAYOUT = "channels_last"  # set on operators that were rewritten for a layout
PRIVATE_DOMAINS = ("com.microsoft.", "com.ms.")  # how they begin: blocked layouts, providers' own


def describe_source(path: Path) -> OnnxFacts:
    """`describe`, of a file that may keep its weights in others.

    Raises WorkbenchError for files that are missing, or outside the folder, or too large together, and for a
    graph that a runtime rewrote for one processor or GPU: nothing in it says which.
    """
    model, files = open_model(path), companions(path)
    if private := [node for node in nodes_of(model.graph) if _private(node, model)]:
        node = private[0]
        raise WorkbenchError(
            f"{path} was optimised by a runtime for one machine: `{node.op_type}` of "
            f"{node.domain or 'ai.onnx'} runs on its kind of processor alone",
            hint="give the file as it was exported; recipes optimise it for each machine (`use: optimize`)",
        )
    if (total := sum(file.stat().st_size for file in (path, *files))) > ONE_FILE and files:
        raise WorkbenchError(
            f"{path} and its weights in {plural(len(files), 'other file')} take {total / 1e9:.1f} GB; "
            "one ONNX file holds at most 2 GB (protobuf)",
            hint="models are kept in one file so that they can be verified: choose a smaller network",
        )
    return describe(path, load_source(path) if files else None)


def load_source(path: Path) -> "onnx.ModelProto":
    """The model with its weights in it. Raises WorkbenchError as `companions` does."""
    import onnx

    model = open_model(path)
    if companions(path):
        try:
            onnx.load_external_data_for_model(model, str(path.parent))
        except (OSError, ValueError, onnx.checker.ValidationError) as error:
            raise WorkbenchError(f"{path}: its weights in other files cannot be read: {error}") from error
    return model


def mend(model: "onnx.ModelProto") -> bool:
    """Write as ONNX wants it what onnxruntime alone reads, nodes out of order and -1 for a size that is free;
    whether there was any. What is computed stays."""
    sizes = [
        size
        for value in (*model.graph.input, *model.graph.output, *model.graph.value_info)
        for size in value.type.tensor_type.shape.dim
        if size.dim_value < 0
    ]
    for number, size in enumerate(sizes):
        size.dim_param = f"free{number}"
    return _sort_nodes(model) or bool(sizes)


def _sort_nodes(model: "onnx.ModelProto") -> bool:
    """Put every node behind those that it reads from; whether that changed anything.

    Some converters (onnxruntime's to FP16) leave them in another order, which onnxruntime alone reads.
    """
    graph = model.graph
    makers = {name: at for at, node in enumerate(graph.node) for name in node.output if name}
    before = {
        at: {makers[name] for name in _read_by(node) if name in makers} for at, node in enumerate(graph.node)
    }
    if all(at > max(others, default=-1) for at, others in before.items()):
        return False
    try:
        nodes = [graph.node[at] for at in TopologicalSorter(before).static_order()]
    except CycleError:  # the checker names the node
        return False
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    return True


def _read_by(node: "onnx.NodeProto") -> "Iterator[str]":
    """The values that a node reads, in its branches and loops too."""
    yield from node.input
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield from (name for inner in nodes_of(attribute.g) for name in inner.input)


def companions(path: Path) -> list[Path]:
    """The files beside an ONNX file that hold its weights, in the order of the graph.

    Raises WorkbenchError where one is missing, shorter than the graph says, or outside the file's folder.
    """
    if b"location" not in path.read_bytes():  # the key of every such reference; onnx takes time to load
        return []
    found: dict[Path, int] = {}
    for tensor in external(open_model(path)):
        stated = {entry.key: entry.value for entry in tensor.external_data}
        name = stated.get("location", "")
        file = path.parent / name
        if not name or Path(name).is_absolute() or ".." in Path(name).parts:
            raise WorkbenchError(
                f"{path} keeps `{tensor.name}` in {name or 'a file without a name'}, outside its own folder",
                hint="such a path is not followed: save the model as one file where it was made, "
                f"`onnx.save(onnx.load('{path.name}'), 'whole.onnx')`",
            )
        end = int(stated.get("offset") or 0) + int(stated.get("length") or 0)
        found[file] = max(end, found.get(file, 0))
    if missing := [file for file in found if not file.is_file()]:
        names = some([str(file.relative_to(path.parent)) for file in missing])
        are, them = ("is", "it") if len(missing) == 1 else ("are", "them")
        raise WorkbenchError(
            f"{path} keeps weights in {names}, which {are} not in {path.parent}",
            hint=f"copy {them} there from where the model was exported to",
        )
    for file, end in found.items():
        refuse_lfs_pointer(file, "model.checkpoint")
        if (size := file.stat().st_size) < end:
            raise WorkbenchError(
                f"{file} has {size} bytes, and {path.name} takes weights up to byte {end} of it",
                hint="it is of another export, or was not copied whole: copy both files again",
            )
    return list(found)


def digest_parts(path: Path) -> str | list[str]:
    """sha256 of the file, and of those that hold its weights where there are any."""
    own, others = sha256_file(path), companions(path)
    return [own, *map(sha256_file, others)] if others else own


def external(model: "onnx.ModelProto") -> "Iterator[onnx.TensorProto]":
    """The stored tensors whose values are in other files."""
    import onnx

    for graph in graphs_of(model.graph):
        tensors = [*graph.initializer]
        tensors += [a.t for node in graph.node for a in node.attribute if a.HasField("t")]
        yield from (t for t in tensors if t.data_location == onnx.TensorProto.EXTERNAL)


def graphs_of(graph: "onnx.GraphProto") -> "Iterator[onnx.GraphProto]":
    """The graph, and the bodies of its branches and loops."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from graphs_of(attribute.g)


def nodes_of(graph: "onnx.GraphProto") -> "Iterator[onnx.NodeProto]":
    """The nodes, those in branches and loops among them."""
    return (node for each in graphs_of(graph) for node in each.node)


def _private(node: "onnx.NodeProto", model: "onnx.ModelProto") -> bool:
    """Whether only the machine that a runtime rewrote the graph for runs this node."""
    functions = {(function.domain, function.name) for function in model.functions}
    if (node.domain, node.op_type) in functions:
        return False
    if node.domain == "com.microsoft":
        rewritten = any(attribute.name == LAYOUT and attribute.i for attribute in node.attribute)
        return rewritten or node.op_type in PRIVATE_OPERATORS
    return str(node.domain).startswith(PRIVATE_DOMAINS)
