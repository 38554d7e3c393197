"""What `package` says: the folder for an app, and the phones that it was timed on."""

from typing import Any

from workbench.errors import plural
from workbench.registry.android.package import Packaged
from workbench.registry.android.phones import PhonesFile, PhoneTiming


def packaged_answer(done: Packaged, timings: PhonesFile) -> dict[str, Any]:
    return {
        "folder": str(done.folder),
        "name": done.name,
        "version": done.version,
        "golden_images": done.golden,
        "whole_photos": done.photos,
        "missing": done.missing,
        **timings.model_dump(mode="json", exclude={"schema_version"}),
    }


def packaged(done: Packaged, timings: PhonesFile) -> str:
    whole = f"and {plural(done.photos, 'whole photo')}" if done.photos else "and no whole photos"
    lines = [
        f"{done.folder}: {done.name} {done.version} for Android, with "
        f"{plural(done.golden, 'golden photo')} {whole}",
        *([f"  no whole photos: {done.missing}"] if done.missing else []),
        f"  check it: python {done.folder / 'reference.py'}",
        *([f"phones: skipped: {timings.skipped}"] if timings.skipped else map(_phone, timings.phones)),
    ]
    return "\n".join(lines)


def _phone(phone: PhoneTiming) -> str:
    named = " ".join(filter(None, [phone.model or phone.serial, phone.chip]))
    if phone.reason is not None or phone.mean_us is None:
        return f"{named}: skipped: {phone.reason}"
    middle = f"median {phone.median_us / 1e3:.2f} ms, " if phone.median_us is not None else ""
    calls = f"{plural(phone.calls, 'call')}, {plural(phone.threads, 'thread')}"
    return f"{named}: {middle}mean {phone.mean_us / 1e3:.2f} ms ({calls}, XNNPACK)"
