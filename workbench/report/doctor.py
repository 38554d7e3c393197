"""What `doctor` found out about the machine, in words and as JSON: the keys of `--format json`."""

from dataclasses import asdict

from workbench.errors import plural
from workbench.measure.latency import Plan
from workbench.report.power import sentence
from workbench.run.doctor import Clock, Diagnosis
from workbench.system.machine import FEATURES
from workbench.system.nvidia_check import Chain


def answer(found: Diagnosis) -> dict[str, object]:
    broken = found.nvidia.first_broken
    return {
        "machine": found.machine.model_dump(mode="json"),
        "fingerprint": found.machine.fingerprint,
        "features": {name: name in found.machine.features for name in FEATURES},
        "conditions": found.conditions.model_dump(mode="json"),
        "usable_cores": found.usable_cores,
        "runtimes": found.runtimes,
        "nvidia": {
            "first_broken": broken.name if broken else None,
            "links": [asdict(link) for link in found.nvidia.links],
        },
        "clock": asdict(found.clock),
        "photos": found.photos,
        "power": found.power and asdict(found.power),
    }


def text(found: Diagnosis) -> str:
    machine, here, clock = found.machine, found.conditions, found.clock
    quota = "none" if here.quota is None else f"{here.quota:g} processor{'s' * (here.quota != 1)}"
    lines = [
        f"machine   {machine.cpu} ({machine.architecture}), {machine.memory_bytes / 2**30:.0f} GiB, "
        f"{machine.system}; fingerprint {machine.fingerprint}",
        f"cores     {found.usable_cores} usable (affinity {len(here.affinity)}, container quota {quota}); "
        f"governor {here.governor}, turbo {here.turbo}",
        f"gpus      {', '.join(machine.gpus) or 'none that NVML can see'}",
        "features  " + ", ".join(f"{name} ({FEATURES[name]})" for name in machine.features),
        "without   " + ", ".join(name for name in FEATURES if name not in machine.features),
        "runtimes",
        *(f"  {name:<24} {_why(found.nvidia, why)}" for name, why in found.runtimes.items()),
        *_nvidia(found.nvidia),
        f"clock     {clock_quality(clock)}",
    ]
    if clock.disturbed:
        count = len(clock.disturbed)
        again = " (repeats counted)" if clock.tries > clock.rounds else ""
        lines.append(
            f"          {count} of {plural(clock.tries, 'round')}{again} were disturbed: {clock.disturbed[0]}"
        )
    lines += [f"photos    {field}: {what}" for field, what in found.photos.items()]
    if found.power is not None:
        lines.append(f"          {sentence(found.power)}")
    return "\n".join(lines)


def clock_quality(clock: Clock) -> str:
    """How small a difference the clock can show."""
    if clock.noise_floor is None or clock.detectable is None:
        return f"{plural(clock.rounds, 'round')} in the time there was: too few to say how good it is"
    return (
        f"two copies of the same thing differ by up to {100 * clock.noise_floor:.1f} % "
        f"({plural(clock.rounds, 'round')}); {plural(Plan().rounds, 'round')} would find differences from "
        f"{100 * clock.detectable:.1f} % up"
    )


def _why(chain: Chain, why: str | None) -> str:
    """What the chain says below is not said for each runtime as well."""
    broken = {str(link) for link in chain.links if link.state == "broken"}
    return "no: see `nvidia` below" if why in broken else why or "runs here"


def _nvidia(chain: Chain) -> list[str]:
    """The first broken link in one line; then each link, unless there is no driver to begin with."""
    if (broken := chain.first_broken) is None:
        head = "every link holds"
    else:
        head = f"first broken link: {broken.name} ({broken.needed_for}): {broken}"
    links = [] if broken is not None and broken is chain.links[0] else chain.links
    return [f"nvidia    {head}", *(f"  {link.name:<24} {link}" for link in links)]
