"""An artifact: a folder holding the model file a variant produced and `artifact.json`."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError

from workbench.errors import WorkbenchError
from workbench.files import sha256_bytes, write_atomic

INFO_NAME = "artifact.json"

Format = Literal["onnx", "torch-export", "torchscript", "null"]
# torch's readers fall back to unpickling, which runs code: only files this process chain built are opened.
EXECUTABLE_FORMATS: frozenset[Format] = frozenset({"torch-export", "torchscript"})
Precision = Literal["fp32", "fp16", "int8", "unknown"]


class ArtifactInfo(BaseModel):
    """What `artifact.json` holds. Everything here was read back from the model file, not assumed.

    file: the model's file name inside the folder. sha256, size_bytes: of that file.
    opset: of the default ONNX domain; None where the format has none.
    precision: the narrowest type its weights are stored in.
    input_shape: (N, C, H, W), 0 where the size is free. classes: logits per image.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    format: Format
    file: str
    sha256: str
    size_bytes: NonNegativeInt
    opset: int | None = None
    precision: Precision = "unknown"
    input_shape: tuple[int, int, int, int]
    classes: int


@dataclass(frozen=True, slots=True)
class Artifact:
    """An artifact on disk. Its digest is the digest of the model's bytes."""

    folder: Path
    info: ArtifactInfo

    @property
    def path(self) -> Path:
        return self.folder / self.info.file

    @property
    def digest(self) -> str:
        return self.info.sha256

    def read(self) -> bytes:
        """The model's bytes, read once and checked against the recorded digest.

        Runtimes open these bytes and never the path again, so that what was verified is what runs.
        Symbolic links are not followed. Raises WorkbenchError where the file is gone or not the one recorded.
        """
        try:
            handle = os.open(self.path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        except OSError as error:
            raise WorkbenchError(f"{self.path} cannot be opened: {os.strerror(error.errno or 0)}") from error
        with os.fdopen(handle, "rb") as file:
            data = file.read()
        if sha256_bytes(data) != self.info.sha256:
            raise WorkbenchError(
                f"{self.path} is not the file that was recorded: its sha256 differs",
                hint="the file was changed or damaged after it was written; build or publish it again",
            )
        return data

    def save_info(self) -> None:
        write_atomic(self.folder / INFO_NAME, self.info.model_dump_json(indent=2).encode() + b"\n")


def load_artifact(folder: Path) -> Artifact:
    """Open an artifact folder. Raises WorkbenchError where it is not one."""
    try:
        info = ArtifactInfo.model_validate_json((folder / INFO_NAME).read_bytes())
    except (OSError, ValidationError) as error:
        raise WorkbenchError(f"{folder} is not an artifact: {error}") from error
    return Artifact(folder, info)
