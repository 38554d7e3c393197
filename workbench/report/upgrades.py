"""What another version of a runtime costs, in words."""

from workbench.measure.pairs import differences
from workbench.report.words import in_percent
from workbench.results.records import RunInfo


def upgrades(info: RunInfo) -> list[str]:
    """A sentence a version: `upgrading onnxruntime from 1.26.0 to 1.32.0 costs 8.0 % [6.1, 9.9]`.

    The intervals are adjusted for all of them together.
    """
    found = {(each.faster, each.slower): each for each in differences([up.pair for up in info.upgrades])}
    floor = info.noise_floor or 0.0
    lines = []
    for up in info.upgrades:
        one, other = up.pair.one, up.pair.other
        if (difference := found.get((one, other)) or found.get((other, one))) is None:
            continue
        amount = in_percent(difference.ratio, difference.interval)
        seen = difference.p is not None and difference.p < 0.05 and difference.ratio - 1 > floor
        if not seen:
            lines.append(f"{up.backend} {up.older} and {up.newer}: no difference beyond the noise ({amount})")
        elif difference.slower == one:
            lines.append(f"upgrading {up.backend} from {up.older} to {up.newer} costs {amount}")
        else:
            lines.append(f"{up.backend} {up.older} takes {amount} longer than {up.newer}: upgrading pays")
    return lines
