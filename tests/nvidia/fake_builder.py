"""The half of a pretended TensorRT that builds: parser, network, configuration, timing cache, builder."""

import json
from typing import Any

import onnx

from tests.nvidia.fake_world import MAGIC, Dims, Fake, HostMemory, Logger, bound, shape_of


class Tensor(Fake):
    api = "ITensor"

    def __init__(self, value: Any) -> None:
        self._value = value

    @property
    def name(self) -> str:
        return str(self._value.name)

    @property
    def shape(self) -> Dims:
        return Dims(shape_of(self._value))


class Network(Fake):
    api = "INetworkDefinition"

    def __init__(self, flags: int) -> None:
        self._flags = flags
        self._model: Any = None
        self._onnx = b""

    @property
    def num_inputs(self) -> int:
        return len(self._model.graph.input)

    @property
    def num_outputs(self) -> int:
        return len(self._model.graph.output)

    def get_input(self, index: int) -> Tensor:
        return bound(Tensor, self._world)(self._model.graph.input[index])


class ParserError(Fake):
    api = "ParserError"

    def __init__(self, node: str, operator: str, reason: str) -> None:
        self._told = (node, operator, reason)

    def node_name(self) -> str:
        return self._told[0]

    def node_operator(self) -> str:
        return self._told[1]

    def desc(self) -> str:
        return self._told[2]


class Parser(Fake):
    api = "OnnxParser"

    def __init__(self, network: Network, logger: Logger) -> None:
        assert logger.ready
        self._network = network

    @property
    def num_errors(self) -> int:
        return len(self._world.refuse)

    def get_error(self, index: int) -> ParserError:
        return bound(ParserError, self._world)(*self._world.refuse[index])

    def parse(self, model: bytes, path: str | None = None) -> bool:
        if self._world.refuse:
            return False
        assert path is None, "weights in other files are nobody's to read"
        self._network._model, self._network._onnx = onnx.load_from_string(model), model
        return True


class Profile(Fake):
    api = "IOptimizationProfile"

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        assert input
        assert tuple(min) <= tuple(opt) <= tuple(max)
        self._shapes = [list(min), list(opt), list(max)]


class TimingCache(Fake):
    api = "ITimingCache"

    def __init__(self, data: bytes) -> None:
        self._data = data

    def serialize(self) -> HostMemory:
        return bound(HostMemory, self._world)(self._data)


class Config(Fake):
    api = "IBuilderConfig"

    def __init__(self) -> None:
        self._flags = {"TF32"}
        self._profiles: list[Any] = []
        self._pools: dict[str, int] = {}
        self._cache: TimingCache | None = None
        self.builder_optimization_level = 3
        self.profiling_verbosity: Any = None
        self.hardware_compatibility_level: Any = None

    def set_flag(self, flag: Any) -> None:
        self._flags.add(flag.name)

    def clear_flag(self, flag: Any) -> None:
        self._flags.discard(flag.name)

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self._pools[pool.name] = pool_size

    def add_optimization_profile(self, profile: Profile) -> int:
        self._profiles.append(profile._shapes)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> TimingCache | None:
        if serialized_timing_cache.startswith(b"damaged"):
            return None
        return bound(TimingCache, self._world)(serialized_timing_cache)

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        ours = f"timings of {self._world.device}".encode()
        if cache._data and cache._data != ours and not ignore_mismatch:
            return False
        self._cache = cache
        return True


class Builder(Fake):
    api = "Builder"

    def __init__(self, logger: Logger) -> None:
        assert logger.ready
        self._logger = logger

    def create_network(self, flags: int = 0) -> Network:
        return bound(Network, self._world)(flags)

    def create_builder_config(self) -> Config:
        return bound(Config, self._world)()

    def create_optimization_profile(self) -> Profile:
        return bound(Profile, self._world)()

    def build_serialized_network(self, network: Network, config: Config) -> HostMemory | None:
        world = self._world
        typed = world.enums["NetworkDefinitionCreationFlag"]["STRONGLY_TYPED"]
        free = -1 in shape_of(network._model.graph.input[0])
        assert bool(config._profiles) == free, "profiles are for free sizes"
        assert config._cache is not None
        settings: dict[str, Any] = {
            "version": world.surface.version,
            "number": len(world.built),
            "typed": bool(network._flags >> typed & 1),
            "flags": sorted(config._flags),
            "profiles": config._profiles,
            "pools": config._pools,
            "level": config.builder_optimization_level,
            "detailed": config.profiling_verbosity == world.enums["ProfilingVerbosity"]["DETAILED"],
            "hardware": getattr(config.hardware_compatibility_level, "name", None),
            "timings": config._cache._data.decode(),
        }
        world.built.append(settings)
        if world.complaint is not None:
            self._logger.log(world.enums["ILogger.Severity"]["ERROR"], world.complaint)
            return None
        config._cache._data = f"timings of {world.device}".encode()
        header = json.dumps(settings).encode() + b"\n"
        return bound(HostMemory, world)(MAGIC + header + network._onnx)
