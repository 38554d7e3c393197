"""What `export` wrote, in words."""

from workbench.errors import plural
from workbench.run.export_checkpoint import Exported


def text(done: Exported) -> str:
    probes = f"random inputs: {done.no_photos}" if done.no_photos else "photos of the workspace"
    weights = "".join(f"{sentence}\n" for sentence in done.weights)
    remarks = "".join(f"\n{sentence}" for sentence in done.record.sentences())
    return weights + (
        f"{done.output}: opset {done.report.opset} by exporter `{done.report.exporter}`, "
        f"{done.size_bytes / 1e6:.2f} MB, {plural(done.report.classes, 'class')}\n"
        f"its logits differ from torch's by at most {done.report.max_abs:.2g}, "
        f"{done.report.max_rel:.2g} of the largest (on {probes}){remarks}"
    )
