"""The `runtime` section for LiteRT."""

from typing import ClassVar, Literal

from workbench.backends.edge import EdgeSettings


class LitertRuntime(EdgeSettings):
    """LiteRT, the runtime of Android apps, with its XNNPACK delegate; step `litert` writes its files."""

    TARGETS: ClassVar = frozenset({"server", "android"})
    DISTRIBUTION: ClassVar = "ai-edge-litert"
    FORKABLE: ClassVar = ("ai_edge_litert.interpreter",)
    ALONGSIDE: ClassVar = (
        "backports-strenum==1.2.8",
        "flatbuffers==25.12.19",
        "ml-dtypes==0.6.0",
        "protobuf==7.36.2",
        "tqdm==4.70.1",
    )

    backend: Literal["litert"] = "litert"
