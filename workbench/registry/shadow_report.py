"""Read from a running server's `/metrics` how a version performs in the shadow of another."""

import http.client
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from workbench.errors import WorkbenchError
from workbench.measure.stats import wilson
from workbench.registry.shadow_record import ShadowResult

if TYPE_CHECKING:
    from prometheus_client.samples import Sample


TIMEOUT_S = 10.0
LARGEST = 32_000_000  # bytes; a server's metrics are a few KB
_Totals = defaultdict[tuple[str, str, str, str], float]  # by name, version, shadow version, result or model


@dataclass(frozen=True, slots=True)
class Pair:
    """One version in the shadow of another, since the server started.

    version: the one that answered. name, digest: the shadow's model and manifest, None where it is unloaded.
    agree, disagree: requests that both predicted; failed: the shadow raised; shed: the server was busy.
    served_s, shadow_s: mean inference time of both on the same requests in seconds.
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
        n = self.compared
        return (self.agree / n, *wilson(self.agree, n)) if n else None

    @property
    def ratio(self) -> float | None:
        """The shadow's mean inference time over that of the version that answered."""
        return self.shadow_s / self.served_s if self.shadow_s is not None and self.served_s else None


@dataclass(frozen=True, slots=True)
class ShadowReport:
    """The pairs of a server. url: its address. running: whether a shadow is loaded."""

    url: str
    at: datetime
    running: bool
    pairs: tuple[Pair, ...]

    def results(self) -> list[ShadowResult]:
        """The results of the loaded shadow, for `promote --require-shadow`."""
        return [
            ShadowResult(
                name=pair.name,
                version=pair.version,
                shadow_version=pair.shadow_version,
                shadow_digest=pair.digest,
                # A request on which the shadow raised counts as one without agreement.
                requests=pair.compared + pair.failed,
                agree=pair.agree,
                at=self.at,
            )
            for pair in self.pairs
            if pair.name is not None and pair.digest is not None and pair.compared + pair.failed
        ]


def report_of(url: str) -> ShadowReport:
    """Read the metrics of the server at `url`. Raises WorkbenchError where none of krishi-bench answers."""
    samples = _parse(url, _fetch(url))
    infos = [sample.labels for sample in samples if sample.name == "model_info" and sample.value > 0]
    if not any(sample.name.startswith("inference_latency_seconds") for sample in samples):
        missing = "its metrics have no inference_latency_seconds"
        raise WorkbenchError(f"{url} is no krishi-bench server: {missing}")
    loaded = {labels["version"]: labels for labels in infos if labels.get("role") == "shadow"}
    primary = [labels["version"] for labels in infos if labels.get("role") == "primary"]
    totals = _totals(samples)
    known = {(served, shadow) for name, served, shadow, _ in totals if name == "shadow_requests_total"}
    known |= {(served, shadow) for served in primary for shadow in loaded}
    pairs = [
        _pair(served, shadow, loaded.get(shadow, {}), totals)
        for served, shadow in sorted(known, key=lambda pair: (pair[1] not in loaded, pair))
    ]
    return ShadowReport(url, datetime.now(UTC), bool(loaded), tuple(pairs))


def _pair(served: str, shadow: str, info: Mapping[str, str], totals: _Totals) -> Pair:
    def count(result: str) -> int:
        return round(totals["shadow_requests_total", served, shadow, result])

    def mean(model: str) -> float | None:
        n = totals["shadow_inference_seconds_count", served, shadow, model]
        return totals["shadow_inference_seconds_sum", served, shadow, model] / n if n else None

    return Pair(
        name=info.get("name"),
        version=served,
        shadow_version=shadow,
        digest=info.get("digest"),
        agree=count("agree"),
        disagree=count("disagree"),
        failed=count("failed"),
        shed=count("shed"),
        served_s=mean("primary"),
        shadow_s=mean("shadow"),
    )


def _totals(samples: Iterable["Sample"]) -> _Totals:
    """The sums of the shadow's metrics over the processes of a server."""
    totals: _Totals = defaultdict(float)
    for sample in samples:
        if sample.name.startswith("shadow_"):
            label = defaultdict(str, sample.labels)
            kind = label["result"] or label["model"]
            totals[sample.name, label["version"], label["shadow_version"], kind] += sample.value
    return totals


def _fetch(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise WorkbenchError(f"`{url}` is not a server's address", hint="try --url http://127.0.0.1:8000")
    target = url.rstrip("/") + "/metrics"
    try:
        with urllib.request.urlopen(target, timeout=TIMEOUT_S) as answer:
            data: bytes = answer.read(LARGEST)
    except urllib.error.HTTPError as error:
        error.close()
        raise WorkbenchError(f"{target} answers {error.code}", hint="is it a krishi-bench server?") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        hint = "start one with `krishi-bench serve --shadow X.Y.Z`, or name it with --url"
        why = getattr(reason, "strerror", None) or reason
        raise WorkbenchError(f"{target} cannot be read: {why}", hint=hint) from error
    return data.decode("utf-8", errors="replace")


def _parse(url: str, text: str) -> list["Sample"]:
    from prometheus_client.parser import text_string_to_metric_families

    try:
        return [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    except (ValueError, IndexError, KeyError) as error:
        raise WorkbenchError(f"{url}/metrics is not in Prometheus' text format: {error}") from error
