"""The `runtime` section for LiteRT."""

from typing import Literal

from workbench.backends.edge import EdgeSettings


class LitertRuntime(EdgeSettings):
    """LiteRT, the runtime of Android apps, with its XNNPACK delegate; step `litert` writes its files."""

    backend: Literal["litert"] = "litert"
