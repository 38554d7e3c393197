"""The half of a pretended TensorRT that runs: runtime, engine, execution context, inspector."""

import ctypes
import json
from typing import Any

import numpy as np
import onnx
import onnxruntime

from tests.nvidia.fake_world import MAGIC, Dims, Fake, Logger, bound, shape_of

SCRATCH = 4096
DTYPES = {onnx.TensorProto.FLOAT: "FLOAT", onnx.TensorProto.UINT8: "UINT8"}


class Runtime(Fake):
    api = "Runtime"

    def __init__(self, logger: Logger) -> None:
        assert logger.ready
        self._logger = logger
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> "Engine | None":
        self._world.deserialized += 1
        magic, _, rest = serialized_engine.partition(b"\n")
        header, _, model = rest.partition(b"\n")
        settings = json.loads(header) if magic + b"\n" == MAGIC else {}
        host_code = "VERSION_COMPATIBLE" in settings.get("flags", [])
        if (
            settings.get("version") != self._world.surface.version
            or host_code > self.engine_host_code_allowed
        ):
            self._logger.log(self._world.enums["ILogger.Severity"]["ERROR"], "not our engine")
            return None
        return bound(Engine, self._world)(settings, model)


class Engine(Fake):
    api = "ICudaEngine"

    def __init__(self, settings: dict[str, Any], model: bytes) -> None:
        self._settings, self._model = settings, onnx.load_from_string(model)
        self._ports = [*self._model.graph.input, *self._model.graph.output]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._contexts = 0

    @property
    def num_io_tensors(self) -> int:
        return len(self._ports)

    @property
    def num_optimization_profiles(self) -> int:
        return max(1, len(self._settings["profiles"]))

    @property
    def device_memory_size_v2(self) -> int:
        return SCRATCH

    def get_tensor_name(self, index: int) -> str:
        return str(self._ports[index].name)

    def _port(self, name: str) -> Any:
        return next(port for port in self._ports if port.name == name)

    def get_tensor_mode(self, name: str) -> Any:
        given = self._port(name) is self._ports[0]
        return self._world.enums["TensorIOMode"]["INPUT" if given else "OUTPUT"]

    def get_tensor_dtype(self, name: str) -> Any:
        kind = DTYPES[self._port(name).type.tensor_type.elem_type]
        return self._world.enums["DataType"][kind]

    def get_tensor_shape(self, name: str) -> Dims:
        return Dims(shape_of(self._port(name)))

    def create_execution_context(self, strategy: Any) -> "Context":
        assert strategy.name == "USER_MANAGED"
        self._contexts += 1
        # Only the first context of an engine has a profile without asking.
        return bound(Context, self._world)(self, 0 if self._contexts == 1 else -1)

    def create_engine_inspector(self) -> "Inspector":
        return bound(Inspector, self._world)(self)


class Inspector(Fake):
    api = "EngineInspector"

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def get_engine_information(self, format: Any) -> str:
        assert format.name == "JSON"
        assert self._engine._settings["detailed"]
        return self._world.told if self._world.told is not None else '{"Layers": []}'


class Context(Fake):
    api = "IExecutionContext"

    def __init__(self, engine: Engine, profile: int) -> None:
        self._engine, self._profile = engine, profile
        self._shape: tuple[int, ...] | None = None
        fixed = shape_of(engine._ports[0])
        if -1 not in fixed:
            self._shape = fixed
        self._addresses: dict[str, int] = {}
        self._memory: tuple[int, int] | None = None
        self._prepared: tuple[int, ...] | None = None

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        if not 0 <= profile_index < self._engine.num_optimization_profiles:
            return False
        assert stream_handle in self._world.cuda.handles
        if profile_index != self._profile:
            self._profile, self._prepared = profile_index, None
        return True

    def set_device_memory(self, memory: int, size: int) -> None:
        assert memory % 256 == 0
        assert size >= SCRATCH
        self._world.cuda.span(memory, size, self._world.cuda.device)
        self._memory = (memory, size)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if self._profile < 0 or name != self._engine._ports[0].name:
            return False
        least, _, most = self._engine._settings["profiles"][self._profile]
        pairs = zip(least, shape, most, strict=True)
        if not all(low <= size <= high for low, size, high in pairs):
            return False
        if shape != self._shape:
            self._shape, self._prepared = tuple(shape), None
        return True

    def _state(self) -> tuple[object, ...]:
        return (self._profile, self._shape, tuple(sorted(self._addresses.items())), self._memory)

    def execute_async_v3(self, stream_handle: int) -> bool:
        world, stream = self._world, self._world.cuda.handles[stream_handle]
        if self._profile < 0 or self._shape is None or self._memory is None or len(self._addresses) != 2:
            return False
        if stream.recording is not None and (world.unrecordable or self._prepared != self._shape):
            stream.broken = True
            return False
        self._prepared, state = self._shape, self._state()

        def compute() -> None:
            assert self._state() == state, "a context that was changed behind its graph"
            self._compute()

        world.cuda.put(stream_handle, compute)
        return True

    def _compute(self) -> None:
        cuda, (given, logits) = self._world.cuda, self._engine._ports
        kind = np.uint8 if given.type.tensor_type.elem_type == onnx.TensorProto.UINT8 else np.float32
        assert self._shape is not None
        size = int(np.prod(self._shape)) * np.dtype(kind).itemsize
        source, target = self._addresses[given.name], self._addresses[logits.name]
        cuda.span(source, size, cuda.device)
        batch = np.frombuffer(ctypes.string_at(source, size), kind).reshape(self._shape)
        found = self._engine._session.run(None, {given.name: batch})[0]
        cuda.span(target, found.nbytes, cuda.device)
        ctypes.memmove(target, found.tobytes(), found.nbytes)
        cuda.kernel()
