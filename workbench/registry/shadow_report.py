"""How a version did in the shadow of another, read from a running server's `/metrics`."""

import http.client
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from workbench.errors import WorkbenchError
from workbench.measure.stats import wilson
from workbench.registry.shadow_record import ShadowResult
from workbench.system.packages import missing_extra

if TYPE_CHECKING:
    from prometheus_client.samples import Sample


TIMEOUT_S = 10.0
LARGEST = 32_000_000  # bytes; a server's metrics are a few KB

PairKey = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """One version in the shadow of another, since the server started.

    version: the one that answered; digest: of the shadow's manifest, None where it is not loaded any more.
    agree, disagree: requests both predicted; failed: the shadow raised; shed: skipped, the server was busy.
    served_s, shadow_s: mean inference time of both on the same requests in seconds, None where not measured.
    """

    name: str | None
    version: str
    shadow_version: str
    digest: str | None
    agree: int
    disagree: int
    failed: int
    shed: int
    served_s: float | None
    shadow_s: float | None

    @property
    def compared(self) -> int:
        return self.agree + self.disagree

    @property
    def agreement(self) -> tuple[float, float, float] | None:
        """The fraction that agrees and the ends of its 95 % Wilson interval; None without a request."""
        if not self.compared:
            return None
        return self.agree / self.compared, *wilson(self.agree, self.compared)

    @property
    def ratio(self) -> float | None:
        """The shadow's mean inference time over that of the version that answered."""
        return self.shadow_s / self.served_s if self.shadow_s is not None and self.served_s else None


@dataclass(frozen=True, slots=True)
class ShadowReport:
    """What a server says of its shadow. url: where it was asked; running: whether a shadow is loaded."""

    url: str
    at: datetime
    running: bool
    pairs: tuple[Pair, ...]

    def results(self) -> list[ShadowResult]:
        """What `promote --require-shadow` is shown: of the shadow that is loaded, once it was compared."""
        return [
            ShadowResult(
                name=pair.name,
                version=pair.version,
                shadow_version=pair.shadow_version,
                shadow_digest=pair.digest,
                # Where it raised it agreed with nothing: it would have answered nobody.
                requests=pair.compared + pair.failed,
                agree=pair.agree,
                at=self.at,
            )
            for pair in self.pairs
            if pair.name is not None and pair.digest is not None and pair.compared + pair.failed
        ]


def report_of(url: str) -> ShadowReport:
    """Ask the server at `url`, such as http://127.0.0.1:8000.

    Raises WorkbenchError where nothing answers, or something other than a krishi-bench server does.
    """
    samples = _parsed(url, _fetched(url))
    infos = [sample.labels for sample in samples if sample.name == "model_info" and sample.value > 0]
    if not any(sample.name.startswith("inference_latency_seconds") for sample in samples):
        raise WorkbenchError(
            f"{url} is no krishi-bench server: its metrics have no inference_latency_seconds"
        )
    loaded = {labels["version"]: labels for labels in infos if labels.get("role") == "shadow"}
    primary = [labels["version"] for labels in infos if labels.get("role") == "primary"]
    counts = _summed(samples, "shadow_requests_total", ("version", "shadow_version", "result"))
    sums = _summed(samples, "shadow_inference_seconds_sum", ("version", "shadow_version", "model"))
    times = _summed(samples, "shadow_inference_seconds_count", ("version", "shadow_version", "model"))
    known = {(served, shadow) for served, shadow, _ in counts} | {(p, s) for p in primary for s in loaded}
    pairs = [
        _pair(served, shadow, loaded.get(shadow), counts, sums, times)
        for served, shadow in sorted(known, key=lambda pair: (pair[1] not in loaded, pair))
    ]
    return ShadowReport(url, datetime.now(UTC), bool(loaded), tuple(pairs))


def _pair(
    served: str,
    shadow: str,
    info: Mapping[str, str] | None,
    counts: Mapping[PairKey, float],
    sums: Mapping[PairKey, float],
    times: Mapping[PairKey, float],
) -> Pair:
    def count(result: str) -> int:
        return round(counts.get((served, shadow, result), 0.0))

    def mean(model: str) -> float | None:
        n = times.get((served, shadow, model), 0.0)
        return sums.get((served, shadow, model), 0.0) / n if n else None

    return Pair(
        name=info.get("name") if info else None,
        version=served,
        shadow_version=shadow,
        digest=info.get("digest") if info else None,
        agree=count("agree"),
        disagree=count("disagree"),
        failed=count("failed"),
        shed=count("shed"),
        served_s=mean("primary"),
        shadow_s=mean("shadow"),
    )


def _summed(samples: Iterable["Sample"], name: str, labels: PairKey) -> dict[PairKey, float]:
    """By the values of the labels; several processes' samples are added up."""
    found: dict[PairKey, float] = {}
    for sample in samples:
        if sample.name == name:
            key = tuple(sample.labels.get(label, "") for label in labels)
            found[key] = found.get(key, 0.0) + sample.value
    return found


def _fetched(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise WorkbenchError(f"`{url}` is not a server's address", hint="try --url http://127.0.0.1:8000")
    target = url.rstrip("/") + "/metrics"
    try:
        with urllib.request.urlopen(target, timeout=TIMEOUT_S) as answer:
            data: bytes = answer.read(LARGEST)
    except urllib.error.HTTPError as error:
        with error:
            raise WorkbenchError(
                f"{target} answers {error.code}", hint="is it a krishi-bench server?"
            ) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise WorkbenchError(
            f"{target} cannot be read: {getattr(reason, 'strerror', None) or reason}",
            hint="start one with `krishi-bench serve --shadow X.Y.Z`, or name it with --url",
        ) from error
    return data.decode("utf-8", errors="replace")


def _parsed(url: str, text: str) -> list["Sample"]:
    try:
        from prometheus_client.parser import text_string_to_metric_families
    except ModuleNotFoundError as error:
        raise missing_extra(error) or error from error
    try:
        return [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    except (ValueError, IndexError, KeyError) as error:
        raise WorkbenchError(f"{url}/metrics is not in Prometheus' text format: {error}") from error
