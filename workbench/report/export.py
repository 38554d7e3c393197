"""What `export` wrote, in words."""

from workbench.run.export_checkpoint import Exported


def text(done: Exported) -> str:
    random = "random inputs, there being no workspace with photos"
    probes = "photos of the workspace" if done.photos else random
    remarks = "".join(f"\n{sentence}" for sentence in done.record.sentences())
    return (
        f"{done.output}: opset {done.report.opset} by exporter `{done.report.exporter}`, "
        f"{done.size_bytes / 1e6:.2f} MB, {done.report.classes} classes\n"
        f"its logits differ from torch's by at most {done.report.max_abs:.2g}, "
        f"{done.report.max_rel:.2g} of the largest (on {probes}){remarks}"
    )
