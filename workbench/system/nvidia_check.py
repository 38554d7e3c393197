"""The chain from the NVIDIA driver to the runtimes: which link is the first that does not hold."""

from dataclasses import dataclass
from typing import Literal

from workbench.system.nvidia_links import LINKS, HostProbe, Missing, here

State = Literal["ok", "broken", "not looked at"]


@dataclass(frozen=True, slots=True)
class Link:
    """found: the version, or what is wrong. needed_for: the runtimes that hang on it."""

    name: str
    needed_for: str
    state: State
    found: str | None = None
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class Chain:
    links: tuple[Link, ...]

    @property
    def first_broken(self) -> Link | None:
        return next((link for link in self.links if link.state == "broken"), None)


def chain(look: HostProbe | None = None) -> Chain:
    """Look at every link whose own links hold. Opens libraries in this process, and leaves them open."""
    found: dict[str, Link] = {}
    at = look or here()
    for name, step in LINKS.items():
        link = Link(name, step.needed_for, "not looked at")
        if all(found[before].state == "ok" for before in step.after):
            seen = step.look(at)
            link = (
                Link(name, step.needed_for, "broken", seen.what, seen.remedy)
                if isinstance(seen, Missing)
                else Link(name, step.needed_for, "ok", seen)
            )
        found[name] = link
    return Chain(tuple(found.values()))
