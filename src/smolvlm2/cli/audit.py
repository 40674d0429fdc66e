"""What ``smolvlm2 audit`` prints."""

from pathlib import Path

from smolvlm2.training.audit import audit_run


def print_audit(run: Path, data: str | None) -> int:
    """Audit a run and say what was found.

    Args:
        run: Its folder.
        data: Data root; None: the run's.

    Returns:
        Exit status: 1 where the run differs from its plan, or steps could not be checked.
    """
    report = audit_run(run, data_root=data)
    print(
        f"{run}: {report.checked:,} of {report.steps:,} steps compared with the plan; "
        f"{report.samples:,} samples, {report.skipped:,} more skipped on record"
    )
    for text in report.unplanned:
        print(f"not checked: {text}")
    for text in report.problems:
        print(f"problem: {text}")
    if not report.problems and not report.unplanned:
        print("every step trained on what was planned")
    return 1 if report.problems or report.unplanned else 0
