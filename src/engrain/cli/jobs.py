"""``engrain jobs``: list what is under way or was interrupted, and continue it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from engrain.cli.outcomes import learned
from engrain.cli.session import Answer, DryRun, Session, resumable, verb
from engrain.errors import UsageError

if TYPE_CHECKING:
    from engrain.home import Home
    from engrain.ledger.records import Job


@verb("list", examples="engrain jobs list\nengrain jobs list --json")
def list_(session: Session) -> Answer:
    """List all jobs with the stage that each has reached."""
    jobs = session.home().jobs()
    data = {"jobs": [_data(job) for job in jobs]}
    if not jobs:
        return Answer(data, "No job yet.")
    return Answer(data, _table(jobs), [job.id for job in jobs])


def _data(job: Job) -> dict[str, Any]:
    return {
        "job": job.id,
        "kind": job.kind,
        "status": job.status,
        "stage": job.stage,
        "at": job.at,
        "lesson": job.payload.get("lesson"),
        "recipe": job.payload.get("recipe", {}).get("name"),
        "pid": job.pid,
    }


def _table(jobs: list[Job]) -> Any:
    from engrain.cli.sheets import table
    from engrain.exam.report import Sheet

    marks = {"committed": "good", "interrupted": "fair", "failed": "bad"}
    sheet = Sheet(
        "",
        ("job", "kind", "status", "stage", "begun (UTC)", "lesson"),
        tuple(
            (
                job.id,
                job.kind,
                job.status,
                job.stage or "-",
                job.at[:16].replace("T", " "),
                str(job.payload.get("lesson", "-")),
            )
            for job in jobs
        ),
        (),
        tuple(marks.get(job.status, "") for job in jobs),
    )
    return table(sheet, words=True)


@verb("resume", examples="engrain jobs resume\nengrain jobs resume 0kq3")
def resume(
    session: Session,
    job: Annotated[
        str,
        typer.Argument(
            metavar="JOB", help="An id, the beginning of one, or 'last': the newest interrupted."
        ),
    ] = "last",
    require: Annotated[
        bool, typer.Option("--require", help="Report a refusal of the gate as an error.")
    ] = False,
    dry_run: DryRun = False,
) -> Answer:
    """Continue an interrupted lesson, to the bit as if it had not been interrupted.

    It is not the verb for learning more: that is `engrain learn`.
    """
    home = session.home()
    found = _find(home, job)
    if dry_run:
        words = f"Would resume job {found.id} after its stage {found.stage or 'none'}."
        return Answer({**_data(found), "dry_run": True}, words, [found.id])
    estimate = found.payload.get("estimate")
    with session.progress("Learning") as on_progress, resumable(home):
        outcome = home.resume(found.id, on_progress=on_progress, require=require)
    return learned(outcome, estimate)


def _find(home: Home, name: str) -> Job:
    if name.strip().lower() != "last":
        return home.ledger.get_job(name)
    waiting = [job for job in home.jobs() if job.status == "interrupted"]
    if not waiting:
        raise UsageError("No job was interrupted.", remedy="See them all: engrain jobs list.")
    return waiting[-1]
