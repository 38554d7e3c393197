"""Heat maps of answers: made one at a time, by a thread of low priority that waits while requests do."""

import asyncio
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from serve.engine.model import Model
from serve.engine.predict_job import Classification
from serve.engine.threads import lower_priority
from serve.errors import ApiError
from serve.metrics import Metrics
from workbench.backends.heat_map import class_heat, occlusion_heat, split_maps
from workbench.photos.decode import decode_for
from workbench.photos.heat_picture import heat_png, overlay_png
from workbench.photos.preprocess import batch_of, crop_pixels
from workbench.registry.explanation import HeatMethod

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_WAITING = 4  # explanations, the one that is being made included; each may hold a photo of 10 MB
PAUSE_S = 0.005
HANG_S = 10.0


@dataclass(frozen=True, slots=True)
class HeatPicture:
    """png: the heat map, transparent, to lay over the photo; or both in one picture."""

    method: HeatMethod
    png: bytes


class Explainer:
    """busy: whether requests wait for a thread. deadline_s: from the request for a heat map to the map."""

    def __init__(self, busy: Callable[[], bool], metrics: Metrics, deadline_s: float) -> None:
        self._busy = busy
        self._metrics = metrics
        self._deadline_s = deadline_s
        self._count = 0  # of those that wait or are being made; changed on the event loop
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="explain", initializer=lower_priority)

    async def explain(self, answer: Classification, *, overlay: bool) -> HeatPicture:
        """Show where the model looked for its answer. overlay: on the photo.

        Raises ApiError: 429 where others wait already, 504 where it was not made by the deadline.
        """
        method = method_of(answer.model)
        result = "failed"
        self._count += 1
        try:
            if self._count > MAX_WAITING:
                result = "refused"
                raise _refused(self._deadline_s)
            until = time.perf_counter() + self._deadline_s
            work = partial(self._draw, answer, until, overlay)
            drawing = asyncio.get_running_loop().run_in_executor(self._thread, work)
            # It stops by itself between two calls, unless one hangs: no client waits for that.
            picture = await asyncio.wait_for(drawing, self._deadline_s + HANG_S)
            result = "ok"
            return HeatPicture(method, picture)
        except (_Late, TimeoutError):
            result = "late"
            raise _late() from None
        finally:
            self._count -= 1
            self._metrics.explanations.labels(method, result).inc()

    def close(self) -> None:
        """Finish the one that is being made."""
        self._thread.shutdown(cancel_futures=True)

    def _draw(self, answer: Classification, until: float, overlay: bool) -> bytes:
        started = time.perf_counter()
        wait = partial(self._wait, until)
        wait()
        contract = answer.model.bundle.manifest.preprocess
        photo = decode_for(answer.photo, contract)
        heat = heat_of(answer.model, crop_pixels(photo, contract), answer.class_id, wait)
        picture = (overlay_png if overlay else heat_png)(heat, photo, contract)
        self._metrics.explanation_seconds.labels(method_of(answer.model)).observe(
            time.perf_counter() - started
        )
        return picture

    def _wait(self, until: float) -> None:
        """Let requests go first. Raises _Late after `until`."""
        while self._busy() and time.perf_counter() < until:
            time.sleep(PAUSE_S)
        if time.perf_counter() >= until:
            raise _Late


class _Late(Exception):
    """The deadline has passed."""


def method_of(model: Model) -> HeatMethod:
    explanation = model.bundle.manifest.explanation
    return explanation.method if explanation else "occlusion"


def heat_of(
    model: Model, pixels: "NDArray[np.uint8]", class_id: int, before_call: Callable[[], None]
) -> "NDArray[np.float32]":
    """The heat map of a class. pixels: (height, width, 3) as the network sees them."""
    manifest = model.bundle.manifest
    contract, raw = manifest.preprocess, manifest.artifact.pixels
    if model.maps is None or manifest.explanation is None or (maps := manifest.explanation.maps) is None:
        return occlusion_heat(
            model.session.infer,
            pixels,
            contract,
            class_id,
            raw=raw,
            outputs=manifest.outputs,
            before_call=before_call,
        )
    before_call()
    outputs = model.maps(batch_of(pixels[None], contract, raw=raw))
    return class_heat(split_maps(outputs, manifest.artifact.classes, maps.grid, maps.step)[1][0], class_id)


def _refused(seconds: float) -> ApiError:
    return ApiError(
        429,
        "overloaded",
        f"{MAX_WAITING} heat maps are asked for already; send this request again after the seconds in "
        "Retry-After, or without `explain`",
        headers={"Retry-After": str(max(1, math.ceil(seconds)))},
    )


def _late() -> ApiError:
    message = (
        "the heat map was not made in time, as other requests come first; send it again, or without `explain`"
    )
    return ApiError(504, "deadline-passed", message)
