"""The `runtime` section for LiteRT."""

from typing import ClassVar, Literal

from workbench.backends.edge import EdgeSettings


class LitertRuntime(EdgeSettings):
    """LiteRT, the runtime of Android apps, with its XNNPACK delegate; step `litert` writes its files."""

    TARGETS: ClassVar = frozenset({"server", "android"})
    DISTRIBUTION: ClassVar = "ai-edge-litert"
    FORKABLE: ClassVar = ("ai_edge_litert.interpreter",)
    ALONGSIDE: ClassVar = ("backports-strenum", "flatbuffers", "ml-dtypes", "protobuf", "tqdm")

    backend: Literal["litert"] = "litert"
