"""An artifact: a folder holding the model file a variant produced and `artifact.json`."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import NonNegativeInt

from workbench.backends.audit import Delegation
from workbench.errors import WorkbenchError
from workbench.system.files import digest_of, new_folder, read_plain, sha256_bytes
from workbench.system.records import Record, Sha256, read_record, write_record

INFO_NAME = "artifact.json"

Format = Literal["onnx", "openvino", "tflite", "pte", "torch-export", "torchscript", "torch-aoti", "null"]
# torch's readers fall back to unpickling, and a compiled package is code: only files this process chain
# built are opened.
EXECUTABLE_FORMATS: frozenset[Format] = frozenset({"torch-export", "torchscript", "torch-aoti"})
# Published for devices: a server opens them where it is told to follow their alias, and has the runtime.
DEVICE_FORMATS: frozenset[Format] = frozenset({"pte"})
Precision = Literal["fp32", "fp16", "bf16", "int8", "unknown"]


class Companion(Record):
    """A further file without which the model file is of no use, such as OpenVINO's weights."""

    file: str
    sha256: Sha256
    size_bytes: NonNegativeInt


class Merging(Record):
    """Branches of a network that were merged for inference.

    methods: that merged them. before, after: the number of modules. problem: why nothing was merged although
    the network offers it; None where something was.
    """

    methods: tuple[str, ...]
    before: int
    after: int
    problem: str | None = None


class ExportRecord(Record):
    """How a torch network was exported.

    exporter: that wrote the ONNX file; None for torch's formats. passed_over: the exporter that `auto` tried
    before it, and why it failed. merging: None where the network has nothing to merge.
    any_size: the network takes photos of other sizes too, whatever this file takes.
    """

    exporter: str | None = None
    passed_over: str | None = None
    merging: Merging | None = None
    any_size: bool = False

    def sentences(self) -> tuple[str, ...]:
        """What a user should know of it."""
        found = [f"exported by {self.exporter}, because of {self.passed_over}"] if self.passed_over else []
        if (merging := self.merging) is not None and merging.problem is not None:
            found.append(f"no branches were merged for inference: {merging.problem}")
        elif merging is not None:
            what = f"{merging.before} modules became {merging.after}"
            found.append(f"branches were merged for inference, {what}, by {', '.join(merging.methods)}")
        return tuple(found)


class ArtifactInfo(Record):
    """The content of `artifact.json`, read back from the model file.

    sha256, size_bytes: of `file`. companions: in the order the runtime takes them. opset: of the default ONNX
    domain. precision: the narrowest type its weights are stored in. input_shape: (N, C, H, W), 0 where the
    size is free, whatever the layout. classes: logits per image. pixels: it takes (N, H, W, 3) uint8 pixels
    and normalises them itself. bound_to: the one processor it runs on; None for all.
    note: one sentence of the last step that has one. export: None for what was never a torch network.
    delegation: where it is decided when the file is built. built_on: the machine of a fleet that built it for
    another; None where it was built here.
    """

    schema_version: Literal[1] = 1
    format: Format
    file: str
    sha256: str
    size_bytes: NonNegativeInt
    opset: int | None = None
    precision: Precision = "unknown"
    input_shape: tuple[int, int, int, int]
    classes: int
    companions: tuple[Companion, ...] = ()
    pixels: bool = False
    bound_to: str | None = None
    note: str | None = None
    export: ExportRecord | None = None
    delegation: Delegation | None = None
    built_on: str | None = None

    @property
    def files(self) -> tuple[tuple[str, str], ...]:
        """The model file and its companions, each with its sha256."""
        return ((self.file, self.sha256), *((other.file, other.sha256) for other in self.companions))

    @property
    def total_bytes(self) -> int:
        """Of the model file and its companions."""
        return self.size_bytes + sum(other.size_bytes for other in self.companions)


@dataclass(frozen=True, slots=True)
class Artifact:
    """An artifact on disk. digest: of the bytes of the model file and its companions."""

    folder: Path
    info: ArtifactInfo

    @property
    def path(self) -> Path:
        return self.folder / self.info.file

    @property
    def digest(self) -> str:
        if not self.info.companions:
            return self.info.sha256
        return digest_of([self.info.sha256, *[other.sha256 for other in self.info.companions]])

    def read(self) -> bytes:
        """The model file's bytes, checked against the recorded digest.

        Runtimes open these bytes and not the path, so that what was verified is what runs. Raises
        WorkbenchError for a missing or changed file, and for a symbolic link.
        """
        return _verified(self.path, self.info.sha256)

    def read_companions(self) -> tuple[bytes, ...]:
        """The bytes of the companions, as `read` does."""
        return tuple(_verified(self.folder / other.file, other.sha256) for other in self.info.companions)

    def save_info(self) -> None:
        write_record(self.folder / INFO_NAME, self.info)


def _verified(path: Path, sha256: str) -> bytes:
    data = read_plain(path)
    if sha256_bytes(data) != sha256:
        raise WorkbenchError(
            f"{path} is not the file that was recorded: its sha256 differs",
            hint="the file was changed or damaged after it was written; build or publish it again",
        )
    return data


def load_artifact(folder: Path) -> Artifact:
    """Open an artifact folder. Raises WorkbenchError where it is not one."""
    return Artifact(folder, read_record(folder / INFO_NAME, ArtifactInfo, what="artifact"))


class ArtifactCache:
    """Artifacts by the digest of everything that decides their bytes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, key: str) -> Artifact | None:
        """The artifact built for `key`, or None where there is none, or one that was damaged since."""
        folder = self._folder(key)
        try:
            artifact = load_artifact(folder)
            artifact.read()
            artifact.read_companions()
        except WorkbenchError:
            return None
        return artifact

    def holds(self, key: str) -> bool:
        """Whether something is kept for `key`, which is not read: `find` says whether it is whole."""
        return self._folder(key).is_dir()

    def store(self, key: str, build: Callable[[Path], Artifact]) -> Artifact:
        """Keep the folder that `build` fills under `key`, or return the artifact of a faster process."""
        folder = self._folder(key)
        if folder.exists() and self.find(key) is None:
            shutil.rmtree(folder)  # Damaged: a folder that is there is never replaced.
        try:
            with new_folder(folder) as temporary:
                build(temporary).save_info()
        except FileExistsError:
            pass  # Two runs at once in one workspace: both built the same thing.
        return load_artifact(folder)

    def _folder(self, key: str) -> Path:
        return self.root / "artifacts" / key[:2] / key
