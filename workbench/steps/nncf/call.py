"""Calls of NNCF: photos in its form, the validation function that it needs, its log in ours."""

import io
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any

from workbench.backends.common import cpu_options, open_cpu
from workbench.backends.openvino import without_telemetry
from workbench.backends.softmax import log_softmax
from workbench.errors import WorkbenchError, summary
from workbench.photos.dataset import Images
from workbench.steps.base import Photos
from workbench.steps.nncf.settings import AccuracyControl, NncfInt8

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


log = logging.getLogger(__name__)

RANKED = 300  # photos by which accuracy control finds the layers that distort most, as NNCF does


@dataclass(frozen=True, slots=True)
class PhotoBatches:
    """Batches for NNCF, which goes through them several times.

    labelled: these rows alone, one photo at a time and with its label.
    """

    images: Images
    count: int
    size: int
    labelled: tuple[int, ...] = ()

    def __len__(self) -> int:
        return max(1, self.count // self.size)

    def __iter__(self) -> Iterator[Any]:
        if not self.labelled:
            return self.images.spread(len(self) * self.size, self.size)
        rows = [self.labelled[index * len(self.labelled) // self.count] for index in range(self.count)]
        return zip(self.images.rows(rows), (self.images.labels[row] for row in rows), strict=True)


def quantized(
    step: NncfInt8,
    model: Any,
    ignored: list[str],
    photos: PhotoBatches,
    selection: PhotoBatches | None,
    as_input: Callable[[Any], Any],
) -> Any:
    """NNCF's result for an onnx.ModelProto or an openvino.Model. as_input: a batch as that model takes it.

    selection: for accuracy control, see `selection_of`.
    """
    without_telemetry()
    control = step.accuracy_control
    with _nncf():
        import nncf
        import onnx

        calibration = nncf.Dataset(photos, as_input)
        settings = _settings(step, len(photos), ignored)
        # Of the two runtimes, openvino alone takes activations with a range for each channel.
        advanced = _advanced(step, per_channel=False if isinstance(model, onnx.ModelProto) else None)
        if control is None or selection is None:
            return nncf.quantize(model, calibration, **settings, advanced_parameters=advanced)
        # By default the number of workers depends on the clock, and with it the order of layers.
        restorer = nncf.AdvancedAccuracyRestorerParameters(
            num_ranking_workers=1, ranking_subset_size=min(len(selection), RANKED)
        )
        return nncf.quantize_with_accuracy_control(
            model,
            calibration,
            nncf.Dataset(selection, lambda item: as_input(item[0])),
            _validator(control.minutes),
            max_drop=control.max_drop,
            **settings,
            advanced_quantization_parameters=advanced,
            advanced_accuracy_restorer_parameters=restorer,
        )


def _settings(step: NncfInt8, photos: int, ignored: list[str]) -> dict[str, Any]:
    """The arguments that both of NNCF's functions take. photos: how many it calibrates on."""
    import nncf

    return {
        "preset": nncf.QuantizationPreset[step.preset.upper()],
        "target_device": nncf.TargetDevice.CPU,
        "subset_size": photos,
        "fast_bias_correction": step.fast_bias_correction,
        "model_type": nncf.ModelType.TRANSFORMER if step.model_type else None,
        # Not validated by NNCF: what its preprocessing removed needs no ignoring, and the names are checked.
        "ignored_scope": nncf.IgnoredScope(names=ignored, validate=False) if ignored else None,
    }


def _advanced(step: NncfInt8, *, per_channel: bool | None) -> Any:
    """per_channel: whether each channel of the activations has a range; None leaves it to NNCF."""
    import nncf
    from nncf.quantization.advanced_parameters import QuantizationParameters
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    parameters = nncf.AdvancedQuantizationParameters(
        overflow_fix=nncf.OverflowFix[step.overflow_fix.upper()],
        disable_channel_alignment=not step.channel_alignment,
        activations_quantization_params=QuantizationParameters(per_channel=per_channel),
    )
    if step.range_estimator is not None:
        estimator = getattr(RangeEstimatorParametersSet, step.range_estimator.upper())
        parameters.activations_range_estimator_params = estimator
    return parameters


def selection_of(control: AccuracyControl | None, photos: Photos, size: int) -> PhotoBatches | None:
    """The photos for accuracy control, which must not be among those that certify; None without it.

    size: photos that the model takes at a time.
    """
    if control is None:
        return None
    if (validation := photos.validation) is None:
        raise WorkbenchError(
            "nncf_int8.accuracy_control needs labelled photos to choose by",
            hint="name a folder of them as `data.validation` in krishi.yaml",
        )
    if size != 1:
        raise WorkbenchError(
            f"nncf_int8.accuracy_control takes photos one by one, the model {size} at a time",
            hint="put `fixed_batch` after `nncf_int8`, or export with a free batch size",
        )
    rows = tuple(range(len(validation)) if photos.choosing is None else photos.choosing)
    return PhotoBatches(validation, min(control.images or len(rows), len(rows)), 1, labelled=rows)


def _validator(minutes: float | None) -> Callable[[Any, Iterable[Any]], tuple[float, list[Any]]]:
    """Top-1, and what NNCF ranks layers by: the logits of each photo, or, of ONNX models, whose logits it
    cannot compare, the log-probability of the right class."""
    deadline = time.monotonic() + 60 * minutes if minutes else inf

    def validate(model: Any, items: Iterable[Any]) -> tuple[float, list[Any]]:
        import onnx

        run = _runner(model)
        pairs = [(run(batch), label) for batch, label in items]
        right = sum(int(logits.argmax()) == label for logits, label in pairs)
        if time.monotonic() > deadline:
            # The one way to make NNCF stop and still return its result: report that all is well.
            log.info("nncf_int8.accuracy_control: the minutes are over; the last network is taken")
            right = len(pairs)
        top1 = right / max(1, len(pairs))
        if isinstance(model, onnx.ModelProto):
            return top1, [float(log_softmax(logits)[0, label]) for logits, label in pairs]
        return top1, [[logits] for logits, _ in pairs]

    return validate


def _runner(model: Any) -> "Callable[[Any], NDArray[np.float32]]":
    """(1, classes) logits of a batch of one. model: openvino.CompiledModel or onnx.ModelProto."""
    import onnx

    if not isinstance(model, onnx.ModelProto):
        request = model.create_infer_request()
        return lambda batch: request.infer([batch])[0].copy()
    session = open_cpu(model, cpu_options("ORT_ENABLE_ALL", threads=0))
    name = session.get_inputs()[0].name
    return lambda batch: session.run(None, {name: batch})[0]


@contextmanager
def _nncf() -> Iterator[None]:
    """NNCF draws progress bars and logs on stdout, which is for data: its messages go to our log instead.
    Raises WorkbenchError where it refuses the network."""
    with redirect_stdout(io.StringIO()):
        import nncf
        from nncf.common.logging import nncf_logger

        refused = (
            *(nncf.ValidationError, nncf.InternalError, nncf.ParameterNotSupportedError),
            *(nncf.UnsupportedModelError, RuntimeError, ValueError),
            *(AttributeError, IndexError, KeyError, TypeError),  # where it does not know a form of a node
        )
        before = nncf_logger.handlers, nncf_logger.propagate
        nncf_logger.handlers, nncf_logger.propagate = [], True
        try:
            yield
        except refused as error:
            raise WorkbenchError(
                f"nncf_int8: NNCF cannot quantise this network: {summary(error)}",
                hint="`static_int8` is another way to INT8",
            ) from error
        finally:
            nncf_logger.handlers, nncf_logger.propagate = before
