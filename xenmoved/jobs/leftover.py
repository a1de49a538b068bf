"""What a job that did not succeed leaves on the other host, and what trying again costs."""

from __future__ import annotations

from xenmoved.jobs.report import JobKind, JobReport, JobState


def leftover(report: JobReport) -> str:
    """Say what became of the copies of a job that failed or was aborted; "" where it did not.

    As the source knows it: what the target has not confirmed is not told as if it had.
    """
    if report.kind is JobKind.RECEIVE or report.state not in (JobState.FAILED, JobState.ABORTED):
        return ""
    peer = report.peer
    if not report.volumes:
        return f"nothing was copied to {peer}"
    if report.kind is JobKind.SYNC or report.keep_partial:
        return f"what was copied stays on {peer}: another try sends the rest"
    made = [volume.target for volume in report.volumes if volume.fresh]
    kept = [volume.target for volume in report.volumes if not volume.fresh]
    said = []
    if made and report.confirmed:
        said.append(f"{peer} has removed {', '.join(made)}: another try sends all of it again")
    elif made:
        said.append(
            f"{peer} removes {', '.join(made)} when it learns of the end, which it has not "
            "confirmed; then another try sends all of it again"
        )
    if kept:
        said.append(f"{', '.join(kept)} stays there: another try sends what differs")
    return "; ".join(said)
