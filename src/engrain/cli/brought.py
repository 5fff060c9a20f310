"""``engrain learn`` on many conversations: told first, then worked off a lot after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from engrain.cli.outcomes import REFUSED, sentence
from engrain.cli.session import Answer, Session, count, duration, resumable
from engrain.errors import LearnError, NothingToLearnError, ResumeError, UsageError

if TYPE_CHECKING:
    from engrain.data.sources import Skip
    from engrain.home import Home
    from engrain.lesson.brought import Entry, Lot, Survey
    from engrain.lesson.stages import Outcome
    from engrain.study.lesson import Preview

SHOWN = 20
"""What was left out that is told in words; --json has all."""
TITLE = 48
"""Characters of a title in the summary."""


def many(
    session: Session,
    home: Home,
    found: Survey,
    *,
    edit: bool,
    dry_run: bool,
    **how: Any,
) -> Answer:
    """Tell what many conversations hold and take, and learn them unless it is a dry run."""
    if edit:
        raise UsageError(
            f"--edit opens one lesson; this makes {len(found.lots)}.",
            remedy="Choose a day with --since and --until.",
        )
    seconds: list[float | None] = []
    if found.lots:
        with session.progress("Timing the machine"):
            # The first times the machine, the others follow from it.
            first = home.estimate(found.lots[0], recipe=how["recipe"])
            seconds = home.seconds_of(found.lots, recipe=how["recipe"])
        if not (dry_run or how["force"]):
            first.memory.check()
    total = total_of(found, seconds)
    if dry_run:
        return surveyed(found, seconds, total)
    if not found.lots:
        raise nothing_new(found)
    for text in (*left_out(found), total):
        session.note(text)
    return worked_off(session, home, found, seconds, **how)


def beside(found: Survey, answer: Answer, previews: list[Preview]) -> Answer:
    """An answer about one lesson, with what its source held, gave, and what was left out."""
    own = own_skips(found)
    data = {
        **answer.data,
        "brought": [entry.to_dict() for entry in found.entries],
        "gave": _gave(found.lots[0], previews),
        "source_left_out": [skip.to_dict() for skip in (*found.skips, *own)],
    }
    lines = [answer.text] if isinstance(answer.text, str) else []
    if len(found.entries) > 1:
        lines += map(line, found.entries) if data.get("dry_run") else map(_gave_line, data["gave"])
    if data.get("dry_run"):
        lines += left_out(found, own)
    return Answer(data, "\n".join(lines), answer.brief, answer.code)


def own_skips(found: Survey) -> list[Skip]:
    """What was left out of the conversations that are to be learned."""
    return [skip for lot in found.lots for e in lot.entries for skip in found.brought(e).left]


def surveyed(found: Survey, seconds: list[float | None], total: str) -> Answer:
    """The dry run of many conversations: one line each, what was left out, and the total."""
    data = {
        **found.to_dict(),
        "dry_run": True,
        "estimated_seconds": None if None in seconds else sum(s or 0 for s in seconds),
    }
    for lot, taken in zip(data["lots"], seconds, strict=True):
        lot["estimated_seconds"] = taken
    lines = [line(entry) for entry in found.entries]
    lines += [*left_out(found), "", total]
    return Answer(data, "\n".join(lines), [entry.digest for entry in found.entries])


def line(entry: Entry) -> str:
    """One conversation in a summary."""
    from engrain.data.sources.found import printable
    from engrain.lesson.brought import WORDS, day_of

    day = day_of(entry)
    title = printable(entry.place.title)[:TITLE] or "(without a title)"
    left = f", {count(entry.left, 'thing')} left out" if entry.left else ""
    kind = (
        "example" if entry.example else f"{entry.said} of {count(entry.messages, 'message')} told"
    )
    note = f" ({entry.note})" if entry.note else ""
    state = WORDS[entry.status]
    return f"  {day or 'undated   '}  {title}: {kind}{left}; {state}{note}  {entry.place}"


def left_out(found: Survey, more: Sequence[Skip] = ()) -> list[str]:
    """What of a source was left out, in lines; the same reason in one kind of place once."""
    reasons: dict[str, list[str]] = {}
    for skip in (*found.skips, *more):
        reasons.setdefault(skip.reason, []).append(str(skip.place))
    lines = []
    for reason, places in list(reasons.items())[:SHOWN]:
        others = f" and {len(places) - 1:,} more" if len(places) > 1 else ""
        lines.append(f"  left out  {places[0]}{others}: {reason}")
    if len(reasons) > SHOWN:
        lines.append(f"  left out  and for {len(reasons) - SHOWN:,} other reasons (--json has all)")
    return lines


def total_of(found: Survey, seconds: list[float | None]) -> str:
    """What all lots together hold and will take, in one line."""
    counts = found.counts()
    other = ", ".join(
        f"{number:,} {words}"
        for status, words in _words().items()
        if status != "new" and (number := counts.get(status))
    )
    talks = sum(len(lot.entries) for lot in found.lots)
    days = count(len(found.lots), "lesson")
    head = f"{talks:,} of {count(len(found.entries), 'conversation')} to learn, in {days}"
    head += f" ({other})" if other else ""
    known = [s for s in seconds if s is not None]
    if not known:
        return f"{head}. It was not timed."
    return f"{head}: about {long(sum(known))} in all."


def _words() -> dict[str, str]:
    from engrain.lesson.brought import WORDS

    return dict(WORDS)


def long(seconds: float) -> str:
    """A long time to wait, as a person would say it."""
    return duration(seconds) if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def nothing_new(found: Survey) -> NothingToLearnError:
    """The error of a source in which nothing is left to learn."""
    counts = found.counts()
    told = ", ".join(f"{counts[s]:,} {words}" for s, words in _words().items() if s in counts)
    return NothingToLearnError(
        f"Of {count(len(found.entries), 'conversation')} none is to be learned: {told}.",
        remedy="--again takes what was learned before; --since and --until choose other days.",
    )


def worked_off(
    session: Session, home: Home, found: Survey, seconds: list[float | None], **how: Any
) -> Answer:
    """Learn all lots; what a lot gives is told as it comes, and one that fails stops no other.

    Stopped at any point, the same command goes on: what was learned is known by its digest.
    """
    results: list[dict[str, Any]] = []
    codes: list[int] = []
    for number, (lot, taken) in enumerate(zip(found.lots, seconds, strict=True), 1):
        previews: list[Preview] = []
        left = [s for s in seconds[number - 1 :] if s is not None]
        more = f", about {long(sum(left))} left" if left else ""
        session.note(
            f"{lot.name}: {count(len(lot.entries), 'conversation')} "
            f"({number} of {len(found.lots)}{more})."
        )
        result: dict[str, Any] = {"day": lot.name, "conversations": _gave(lot, [])}
        try:
            with session.progress(lot.name, taken) as on_progress, resumable(home):
                outcome = _lesson(home, lot, previews, on_progress=on_progress, **how)
        except LearnError as error:
            told = f"{lot.name}: {error.message}"
            result |= {"error": error.code, "message": error.message}
            codes.append(0 if isinstance(error, NothingToLearnError) else error.exit_code)
        else:
            told = f"{lot.name}: {sentence(outcome)}"
            result |= outcome.to_dict()
            codes.append(0 if outcome.accepted else REFUSED)
        result["conversations"] = _gave(lot, previews)
        results.append(result)
        session.say("\n".join([told, *map(_gave_line, result["conversations"])]))
    data = {
        "lots": results,
        "counts": found.counts(),
        "left_out": [skip.to_dict() for skip in found.skips],
        "estimated_seconds": None if None in seconds else sum(s or 0 for s in seconds),
    }
    served = [r["lesson"] for r in results if r.get("verdict") == "accepted"]
    last = f"{count(len(served), 'lesson')} of {len(results)} served."
    return Answer(data, last, served, 0 if served or not any(codes) else max(codes))


def _lesson(home: Home, lot: Lot, previews: list[Preview], **how: Any) -> Outcome:
    if lot.job:
        try:
            own = {key: how[key] for key in ("on_progress", "require") if key in how}
            return home.resume(lot.job, **own)
        except ResumeError:
            # Other lessons came in between: the day is learned from its beginning.
            previews.clear()
    return home.learn(lot, on_studied=previews.append, **how)


def _gave(lot: Lot, previews: list[Preview]) -> list[dict[str, Any]]:
    """What each conversation of a lot gave; the facts are unknown where it was studied before."""
    given = []
    talks = [entry for entry in lot.entries if not entry.example]
    for number, entry in enumerate(talks):
        facts = left = None
        if previews:
            facts = [f.value for f in previews[-1].facts if f.conversation == number]
            left = [m for m in previews[-1].messages if m["conversation"] == number]
        given.append(
            {
                "where": str(entry.place),
                "id": entry.place.id,
                "title": entry.place.title,
                "facts": facts,
                "messages_left_out": left,
            }
        )
    return given


def _gave_line(gave: dict[str, Any]) -> str:
    from engrain.data.sources.found import printable

    name = printable(gave["title"])[:TITLE] or gave["where"]
    if gave["facts"] is None:
        return f"  {name}"
    found = ", ".join(gave["facts"]) or "nothing"
    left = gave["messages_left_out"]
    more = f"; {count(len(left), 'message')} left out ({left[0]['reason']})" if left else ""
    return f"  {name}: {found}{more}"
