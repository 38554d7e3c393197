"""A gate as JUnit XML, which CI systems show: a test case a condition and candidate."""

from workbench.report.gate import sentence_of, text
from workbench.results.gate import GateReport


def render(report: GateReport) -> bytes:
    """What fails is a failure, what is ambiguous or skipped is skipped, what could not be built an error."""
    from xml.etree.ElementTree import Element, SubElement, indent, tostring

    failed = sum(report.fails(finding) for finding in report.findings)
    unsure = sum(f.outcome == "AMBIGUOUS" and not report.fails(f) for f in report.findings)
    skipped = sum(absence.status == "skipped" for absence in report.absent)
    counts = {
        "tests": str(len(report.findings) + len(report.absent)),
        "failures": str(failed),
        "errors": str(len(report.absent) - skipped),
        "skipped": str(unsure + skipped),
    }
    root = Element("testsuites", counts)
    made = {"name": f"krishi-bench gate {report.name}", "timestamp": report.created_at.isoformat()}
    suite = SubElement(root, "testsuite", made | counts)
    for finding in report.findings:
        names = {"classname": finding.candidate, "name": finding.condition.text}
        case, message = SubElement(suite, "testcase", names), sentence_of(finding)
        if report.fails(finding):
            SubElement(case, "failure", {"type": finding.outcome, "message": message})
        elif finding.outcome == "AMBIGUOUS":
            SubElement(case, "skipped", {"message": f"AMBIGUOUS: {message}"})
        else:
            SubElement(case, "system-out").text = message
    for absence in report.absent:
        case = SubElement(suite, "testcase", {"classname": absence.candidate, "name": "measured"})
        kind = "skipped" if absence.status == "skipped" else "error"
        SubElement(case, kind, {"message": absence.reason})
    SubElement(suite, "system-out").text = text(report)
    indent(root)
    return bytes(tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"
