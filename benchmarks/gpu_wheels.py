"""Carry the wheels that benchmarks/gpu.sh needs to a machine without a network, in pieces below 60 MB.

    python benchmarks/gpu_wheels.py pack FOLDER [--python 3.12]    # with a network, in a checkout
    python benchmarks/gpu_wheels.py unpack FOLDER SITE             # on the GPU machine

pack: what pyproject.toml's extras `gpu` and `tensorrt` and the tests need, for Linux on x86-64, but for torch
and the CUDA libraries that come with it. unpack: join the pieces, and install into SITE what this Python has
not, or has older; its own environment stays as it is. Both name what they leave out, with the reason.
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections import Counter
from collections.abc import Iterator
from email import message_from_bytes
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

try:
    from packaging.requirements import Requirement
    from packaging.tags import sys_tags
    from packaging.utils import canonicalize_name, parse_wheel_filename
except ImportError:  # before it is installed from the very wheels
    from pip._vendor.packaging.requirements import Requirement
    from pip._vendor.packaging.tags import sys_tags
    from pip._vendor.packaging.utils import (
        canonicalize_name,
        parse_wheel_filename,
    )

ROOT = Path(__file__).parents[1]
PIECE = 55 * 10**6  # bytes
INDEX = "wheels.json"
# On the GPU machine already, with torch.
PROVIDED = re.compile(r"torch|triton|nvidia-(?!ml-py)|cuda-toolkit$")
# Its own package is a stub without a wheel; these come from NVIDIA's index (PIP_EXTRA_INDEX_URL).
TENSORRT = "tensorrt-cu13>=10.3,<12"
TESTS = ("pytest>=8", "hypothesis>=6.100")
GLIBC = (17, 24, 26, 27, 28, 31, 34, 35)


def roots() -> list[Requirement]:
    """What the extras `gpu` and `tensorrt` ask for, and the tests."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names, wanted = ["gpu", "tensorrt"], [*project["dependencies"], *TESTS]
    for name in names:
        for requirement in map(Requirement, project["optional-dependencies"][name]):
            if requirement.name == project["name"]:
                names.extend(sorted(requirement.extras))
            else:
                wanted.append(TENSORRT if requirement.name == "tensorrt" else str(requirement))
    return [Requirement(text) for text in wanted]


def pack(folder: Path, python: str) -> int:
    """Download everything, split what is large, and write the index. 0 where nothing was left out."""
    folder.mkdir(parents=True, exist_ok=True)
    queue, done, failed = roots(), set[str](), 0
    with tempfile.TemporaryDirectory() as scratch:
        while queue:
            requirement = queue.pop(0)
            name = canonicalize_name(requirement.name)
            if name in done or PROVIDED.match(name):
                continue
            done.add(name)
            wheel = download(requirement, python, Path(scratch) / name)
            if isinstance(wheel, str):
                print(f"left out  {requirement}: {wheel}")
                failed += 1
                continue
            queue.extend(needs(wheel, requirement.extras, python))
            split(wheel, folder)
            print(f"packed    {wheel.name}")
    print(f"{len(done) - failed} wheels in {folder}, {failed} left out")
    return min(failed, 1)


def download(requirement: Requirement, python: str, folder: Path) -> Path | str:
    """The wheel, or pip's reason why there is none."""
    text = f"{requirement.name}{requirement.specifier}"
    tags = [f"--platform=manylinux_2_{minor}_x86_64" for minor in GLIBC]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", python, "--implementation=cp", "--platform=manylinux2014_x86_64", *tags]
    command += ["-c", str(ROOT / "constraints.txt"), "-d", str(folder), text]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    return next(folder.glob("*.whl"))


def needs(wheel: Path, extras: set[str], python: str) -> Iterator[Requirement]:
    """What a wheel requires with these extras, on Linux and x86-64."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", n))
        metadata = message_from_bytes(archive.read(name))
    there = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    there |= {"platform_machine": "x86_64", "platform_system": "Linux"}
    for requirement in map(Requirement, metadata.get_all("Requires-Dist", [])):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({**there, "extra": extra}) for extra in ("", *extras)):
            yield requirement


def split(wheel: Path, folder: Path) -> None:
    """Write a wheel in pieces of at most PIECE bytes, and its digest into the index."""
    data = wheel.read_bytes()
    pieces = [data[start : start + PIECE] for start in range(0, len(data), PIECE)]
    names = [wheel.name] if len(pieces) == 1 else [f"{wheel.name}.{n:02}" for n in range(len(pieces))]
    for name, piece in zip(names, pieces, strict=True):
        (folder / name).write_bytes(piece)
    index = read_index(folder) | {wheel.name: {"sha256": hashlib.sha256(data).hexdigest(), "pieces": names}}
    (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n")


def read_index(folder: Path) -> dict[str, dict[str, str | list[str]]]:
    path = folder / INDEX
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def join(folder: Path, wheel: str, target: Path) -> None:
    """Put a wheel together in `target`. Raises OSError where a piece is missing, ValueError where damaged."""
    entry = read_index(folder)[wheel]
    data = b"".join((folder / name).read_bytes() for name in entry["pieces"])
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise ValueError(f"its pieces in {folder} are damaged")
    (target / wheel).write_bytes(data)


def unwanted(wheel: str) -> str | None:
    """Why this Python has no use for a wheel, or None."""
    name, carried, _, tags = parse_wheel_filename(wheel)
    if not tags & set(sys_tags()):
        return "it is not for this Python"
    try:
        here = version(name)
    except PackageNotFoundError:
        return None
    return f"{here} is here" if type(carried)(here) >= carried else None


def unpack(folder: Path, site: Path) -> int:
    """Install into `site` what this Python lacks. 1 where a wheel is damaged or pip fails."""
    code, counts = 0, Counter[str]()
    with tempfile.TemporaryDirectory() as scratch:
        for wheel in read_index(folder):
            state, reason = "left out", unwanted(wheel)
            if reason is None:
                try:
                    join(folder, wheel, Path(scratch))
                    state, reason = "installed", "absent or older here"
                except OSError as error:
                    reason = f"{error.filename} is not here"
                except ValueError as error:
                    state, reason, code = "failed", str(error), 1
            counts[state] += 1
            print(f"{state:<10} {wheel}: {reason}")
        if wheels := sorted(map(str, Path(scratch).glob("*.whl"))):
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
            command += ["--no-compile", "--disable-pip-version-check", "--upgrade", "--target", str(site)]
            code |= min(subprocess.run([*command, *wheels], check=False).returncode, 1)
    print(", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "no wheels there")
    return code


def main() -> int:
    parser = argparse.ArgumentParser(description="Carry wheels to a GPU machine without a network.")
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack")
    packing.add_argument("folder", type=Path)
    packing.add_argument("--python", default="3.12", help="version of the GPU machine's Python")
    unpacking = commands.add_parser("unpack")
    unpacking.add_argument("folder", type=Path)
    unpacking.add_argument("site", type=Path)
    options = parser.parse_args()
    if options.command == "pack":
        return pack(options.folder, options.python)
    return unpack(options.folder, options.site)


if __name__ == "__main__":
    sys.exit(main())
