"""The `runtime` section for ExecuTorch."""

from typing import Literal

from workbench.backends.edge import EdgeSettings


class ExecutorchRuntime(EdgeSettings):
    """ExecuTorch with its XNNPACK delegate; step `executorch` writes its programs. No server opens them."""

    backend: Literal["executorch"] = "executorch"
