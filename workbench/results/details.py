"""Everything a run knows of one variant, for people and for scripts."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from workbench.measure.per_class import ClassChange, Confusion, class_changes, new_confusions
from workbench.measure.records import BASELINE, told
from workbench.results.folder import RunFolder
from workbench.results.records import RunInfo, TrialResult
from workbench.results.verdict import paired_drop, speed
from workbench.system.files import load_arrays, read_plain

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


SHOWN = 10  # classes and confusions listed


@dataclass(frozen=True, slots=True)
class Details:
    """changes, confusions: against the baseline, on the photos that chose and on all of them."""

    info: RunInfo
    trial: TrialResult
    changes: tuple[ClassChange, ...]
    confusions: tuple[Confusion, ...]
    baseline_ece: float | None = None

    def facts(self) -> dict[str, object]:
        """The keys of `--format json`: the trial as it was recorded, and what follows from it."""
        return {
            "run": self.info.run_id,
            **self.trial.model_dump(mode="json"),
            "class_changes": [asdict(change) for change in self.changes],
            "new_confusions": [asdict(confusion) for confusion in self.confusions],
        }

    def text(self) -> str:
        return "\n".join(
            [self._title(), *self._accuracy(), *self._latency(), *self._cost(), *self._gpu(), *self._audit()]
        )

    def _gpu(self) -> list[str]:
        if (use := self.trial.gpu) is None:
            return []
        lines = []
        if use.device_p50_ns is not None:
            lines.append(f"  p50 without copies {use.device_p50_ns / 1e6:.3f} ms, by {use.device_how}")
        if use.memory_bytes is not None:
            grown = ", as the whole GPU's use grew" if use.whole_gpu else ""
            lines.append(f"  memory {use.memory_bytes / 1e6:.1f} MB{grown}")
        for rate in use.throughput:
            alone = "" if rate.on_device is None else f", {rate.on_device:.1f} without copies"
            lines.append(f"  batch {rate.batch}: {rate.with_copies:.1f} photos/s{alone}")
        if use.joules is not None:
            lines.append(f"  energy {use.joules:.3g} J a photo, of the whole GPU, at the largest batch")
        if (engine := use.engine) is not None:
            built = "kept from before" if engine.build_s is None else f"built in {engine.build_s:.0f} s"
            lines.append(f"  engine {engine.size_bytes / 1e6:.1f} MB, {built}, for {engine.bound_to}")
        if (state := use.state) is not None and state.throttled:
            lines.append(f"  slowed meanwhile by {', '.join(state.throttled)}")
        return ["on the GPU", *lines] if lines else []

    def _audit(self) -> list[str]:
        audit, saturation = self.trial.audit, self.trial.saturation
        lines = [f"what ran: {audit.verdict}"] if audit else []
        lines += [f"  {self.trial.note}"] if self.trial.note else []
        if saturation is not None:
            lines.append(f"  {told(saturation)}")
        return lines

    def _title(self) -> str:
        trial = self.trial
        reason = f": {trial.reason}" if trial.reason else ""
        known = [
            f"{words}{value}"
            for words, value in (
                ("", trial.backend),
                ("", trial.provider),
                ("threads ", trial.threads),
                ("opset ", trial.opset),
                ("weights ", trial.precision),
            )
            if value is not None
        ]
        return f"{trial.variant} of run {self.info.run_id} ended {trial.status}{reason}\n  {', '.join(known)}"

    def _accuracy(self) -> list[str]:
        counts, drop, parity = self.trial.accuracy, paired_drop(self.trial), self.trial.parity
        if counts is None or drop is None or parity is None:
            return []
        top5 = (
            ""
            if counts.correct_top5 is None
            else f", top-5 {100 * counts.correct_top5 / counts.images:.2f} %"
        )
        low, high = drop.interval()
        lines = [
            f"accuracy on the {counts.images} photos that chose",
            f"  top-1 {100 * counts.top1:.2f} %{top5}, macro-F1 {100 * counts.macro_f1:.2f} %",
            f"  drop {100 * drop.drop:.2f} points [{100 * low:.2f}, {100 * high:.2f}]: {drop.losses} photos "
            f"lost, {drop.gains} gained, McNemar p {drop.mcnemar_p():.2f}",
            f"  agrees with the source model on {100 * parity.top1_agreement:.2f} % of {parity.images} "
            f"photos; largest logit difference {parity.max_abs:.3g}; KL {parity.kl:.2g} nats",
        ]
        if counts.ece is not None:
            before = "" if self.baseline_ece is None else f" (baseline {100 * self.baseline_ece:.2f})"
            lines.append(f"  expected calibration error {100 * counts.ece:.2f} points{before}")
        lines += [
            f"  {change.name}: {change.losses} lost, {change.gains} gained of {change.images} "
            f"(p {change.p:.2f}, Holm)"
            for change in self.changes[:SHOWN]
        ]
        lines += [
            f"  new confusion: {confusion.truth} taken for {confusion.taken_for}, {confusion.images}"
            for confusion in self.confusions[:SHOWN]
        ]
        return lines

    def _latency(self) -> list[str]:
        latency, ratio = self.trial.latency, speed(self.trial)
        if latency is None or ratio is None:
            return []

        def ms(value_ns: float | None, upper_ns: float | None = None) -> str:
            if value_ns is None:
                return "of too few samples"
            bound = "" if upper_ns is None else f" (at most {upper_ns / 1e6:.2f})"
            return f"{value_ns / 1e6:.2f}{bound}"

        tails = (
            f"p95 {ms(latency.p95_ns, latency.p95_upper_ns)}, p99 {ms(latency.p99_ns, latency.p99_upper_ns)}"
        )
        sure = "confirmed in fresh rounds" if latency.confirmed else "from the race"
        interval = f" [{ratio.interval[0]:.3f}, {ratio.interval[1]:.3f}]" if ratio.interval else ""
        return [
            f"latency, {sure}: {latency.samples} hot calls in {len(latency.round_log_ratios)} rounds",
            f"  speed-up {ratio.speedup:.3f}{interval}; batch {latency.batch_size}",
            f"  ms: p50 {ms(latency.p50_ns)}, p90 {ms(latency.p90_ns)}, {tails}, "
            f"cold p50 {ms(latency.cold_p50_ns)}",
            *([] if latency.settled else ["  at least one launch never settled in its warm-up"]),
        ]

    def _cost(self) -> list[str]:
        trial = self.trial
        lines = []
        for name, value, scale, unit in (
            ("file", trial.size_bytes, 1e6, "MB"),
            ("load", trial.load_s, 1e-3, "ms"),
            ("cold start", trial.cold_start_s, 1e-3, "ms"),
            ("peak memory", trial.peak_memory_bytes, 1e6, "MB"),
            ("steady memory", trial.steady_memory_bytes, 1e6, "MB"),
            ("all processors", trial.saturated_ips, 1, "photos/s"),
        ):
            if value is not None:
                lines.append(f"  {name} {value / scale:.1f} {unit}")
        for path in trial.whole_path:
            stages = {
                "decode": path.decode_ns,
                "preprocess": path.preprocess_ns,
                "inference": path.infer_ns,
                "rest": path.rest_ns,
            }
            parts = " + ".join(f"{name} {time_ns / 1e6:.2f}" for name, time_ns in stages.items())
            lines.append(f"  photo of {path.photo}: {sum(stages.values()) / 1e6:.2f} ms = {parts}")
        return ["cost", *lines] if lines else []


def details(folder: RunFolder, info: RunInfo, trial: TrialResult) -> Details:
    """What the run recorded of a trial, with the classes it loses on; older runs recorded no labels."""
    labels_path = folder.path / "validation.npz"
    if trial.accuracy is None or not labels_path.exists():
        return Details(info, trial, (), ())
    (labels,) = load_arrays(labels_path, read_plain(labels_path), "labels")
    confusions = new_confusions(
        _logits(folder, trial.variant), _logits(folder, BASELINE), labels.tolist(), info.class_names
    )
    changes = class_changes(trial.accuracy, info.class_names)
    ece = [t.accuracy.ece for t in folder.trials() if t.variant == BASELINE and t.accuracy]
    return Details(info, trial, tuple(changes), tuple(confusions), *ece[:1])


def _logits(folder: RunFolder, variant: str) -> "NDArray[np.float32]":
    path = folder.predictions(variant)
    (logits,) = load_arrays(path, read_plain(path), "logits")
    return logits
