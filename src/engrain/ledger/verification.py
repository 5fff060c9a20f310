"""Deriving again everything that the ledger says, and naming what does not come out the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from engrain.data.lessons import canonical_digest
from engrain.errors import EngrainError
from engrain.ledger.blobs import BlobStore
from engrain.ledger.database import Database
from engrain.ledger.records import Problem, lesson_from_content
from engrain.ledger.replay import Projection, check_chain, replay
from engrain.ledger.tables import read_conversation, read_events, read_projection

FoldDigest = Callable[[Sequence[str]], str]
"""From the digests of adapters, in order, to the digest of the weights that they fold into."""

_RESTORE = "Restore the ledger from a backup."


def verify(database: Database, blobs: BlobStore, fold_digest: FoldDigest) -> list[Problem]:
    """Everything that is wrong with a ledger and its blobs; empty if nothing is.

    In order: the database's own check, the chain of events, tables against the replay of the
    events, every message and conversation, every blob, every lesson's content and recipe, and
    every state's weights. Works on one consistent view while others write.
    """
    broken = database.integrity_problem()
    if broken:
        return [Problem("LedgerError", database.where, f"The file is damaged: {broken}.", _RESTORE)]
    problems: list[Problem] = []
    try:
        with database.reading() as session:
            events = read_events(session)
            problems += check_chain(events)
            tables = read_projection(session)
            for conversation in tables.conversations.values():
                try:
                    read_conversation(session, conversation)
                except EngrainError as error:
                    problems.append(_problem(f"conversation {conversation.digest[:12]}", error))
    except EngrainError as error:
        return [*problems, _problem(database.where, error)]
    truth = tables
    try:
        truth = replay(events)
    except EngrainError as error:
        problems.append(_problem("events", error))
    else:
        problems += [
            Problem(
                "LedgerError",
                name,
                f"The tables do not say of {name} what the events say.",
                "The events are the record: Ledger.rebuild() makes the tables anew.",
            )
            for name in truth.differences(tables)
        ]
    problems += _check_blobs(truth, blobs)
    problems += _check_lessons(truth, blobs)
    problems += _check_states(truth, fold_digest)
    return problems


def _check_blobs(truth: Projection, blobs: BlobStore) -> list[Problem]:
    # Blobs that nothing refers to are read as well: a kill can leave some, but never damaged.
    return blobs.verify({*truth.blobs(), *blobs.digests()})


def _check_lessons(truth: Projection, blobs: BlobStore) -> list[Problem]:
    problems = []
    for entry in truth.lessons.values():
        where = f"lesson {entry.id}"
        if canonical_digest(dict(entry.recipe)) != entry.recipe_digest:
            message = "The recipe does not give back its digest."
            problems.append(Problem("LedgerError", where, message, _RESTORE))
        if truth.base is not None and entry.base_digest != truth.base.digest:
            message = "The lesson was learned on another base model."
            problems.append(Problem("BaseChangedError", where, message, _RESTORE))
        try:
            lesson_from_content(entry, blobs.get(entry.content))
        except EngrainError as error:
            if not _named_by_blobs(error):
                problems.append(_problem(where, error))
    return problems


def _check_states(truth: Projection, fold_digest: FoldDigest) -> list[Problem]:
    problems = []
    folded: dict[tuple[str, ...], str] = {}
    for state in truth.states:
        where = f"state of event {state.event}"
        try:
            if state.adapters not in folded:
                folded[state.adapters] = fold_digest(state.adapters)
        except EngrainError as error:
            problems.append(_problem(where, error))
            continue
        if folded[state.adapters] != state.digest:
            problems.append(
                Problem(
                    "StateMismatchError",
                    where,
                    f"The weights fold into {folded[state.adapters][:12]}, but "
                    f"{state.digest[:12]} is recorded.",
                    "Check that the base model and the version of engrain are those of the home.",
                )
            )
    return problems


def _named_by_blobs(error: EngrainError) -> bool:
    return "digest" in error.details


def _problem(where: str, error: EngrainError) -> Problem:
    return Problem(error.code, where, error.message, error.remedy)
