"""``engrain eval``: the exam of the weights that are served."""

from __future__ import annotations

from engrain.cli.session import Answer, Session, verb


@verb("eval", examples="engrain eval\nengrain eval --json > exam.json")
def eval_(session: Session) -> Answer:
    """Examine the served weights: probes of all lessons, and the panel.

    The same exam on the same weights gives the same answers, to the bit.
    """
    from engrain.cli.sheets import tables
    from engrain.exam.report import exam_sheets

    home = session.home()
    with session.progress("Examining"):
        exam = home.eval()
    return Answer(
        {**exam.to_dict(), "scores": exam.scores(), "digest": exam.digest},
        tables(*exam_sheets(exam)),
        [exam.digest],
    )
