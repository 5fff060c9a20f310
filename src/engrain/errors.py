"""Every error that engrain raises on purpose, in one tree.

EngrainError                      exit code 1
├── UsageError                    exit code 2: the request itself is wrong
│   ├── ConversationError         unreadable, empty, wrong roles, too large, not UTF-8
│   ├── ConfigError               unknown key, bad value, bad file
│   ├── LessonFileError           a lesson's file is damaged, cut off, packed, or no lesson
│   │   └── OtherBaseError        a lesson's file was learned on another base
│   └── UnknownNameError          no such technique, recipe, lesson, job, command value
├── ModelError                    a model can't be used
│   ├── ModelNotFoundError        neither a folder nor a cached hub id
│   ├── NoChatTemplateError       the tokenizer has no chat template
│   ├── TokenizerMismatchError    tokenizer and weights don't belong together
│   ├── UnsupportedModelError     an architecture lacks what a technique needs
│   ├── CorruptModelError         a file is damaged: digest differs, part missing, cut off
│   ├── ExportError               what is served can't be written in the format asked for
│   └── ModelSourceError          a model can't be had: no network, no pip, no such file
├── HomeError                     the home folder can't be used
│   ├── HomeNotFoundError         not initialised
│   ├── HomeExistsError           initialised already
│   ├── HomeLockedError           in use by another process
│   ├── HomeReadOnlyError         not writable
│   ├── DiskFullError             no space left
│   └── BaseChangedError          the base weights are not those of the home
├── LedgerError                   the record is damaged
│   ├── BlobMissingError          a content-addressed file is gone
│   ├── BlobCorruptError          a file's bytes do not have the digest in its name
│   └── StateMismatchError        a re-derived digest is not the recorded one
├── LearnError                    a lesson could not be learned
│   ├── NothingToLearnError       curation and self-study left no example
│   ├── DoesNotFitError           the lesson needs more memory than is free
│   ├── DivergedError             the loss is not finite
│   ├── NoEffectError             what was learned changes no weight or no answer
│   └── ResumeError               a checkpoint does not belong to this run
└── GateRefused                   exit code 3: the exam refused the lesson

:class:`EngrainWarning` is no error: what was asked is done, in another way than the words say.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, ClassVar


class EngrainWarning(UserWarning):
    """A setting can't be taken as it stands; the nearest that can be is taken instead."""


class EngrainError(Exception):
    """The root of all errors raised on purpose: what happened, why, and how to fix it.

    ``remedy`` is one sentence that tells the person what to do next.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, remedy: str = "", **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.details = details

    @property
    def code(self) -> str:
        """The class name, stable for programs that read ``--json`` output."""
        return type(self).__name__

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()

    def to_dict(self) -> dict[str, Any]:
        """The error as JSON-ready values."""
        return {
            "error": self.code,
            "message": self.message,
            "remedy": self.remedy,
            **{key: str(value) for key, value in self.details.items()},
        }


class UsageError(EngrainError):
    """The request itself is wrong; nothing was tried."""

    exit_code = 2


class ConversationError(UsageError):
    """A conversation file is unreadable, empty, too large, or has wrong roles."""


class ConfigError(UsageError):
    """A configuration file, variable or flag has an unknown key or a bad value."""


class LessonFileError(UsageError):
    """A lesson's file can't be taken: it is damaged, cut off, packed, or holds no lesson."""


class OtherBaseError(LessonFileError):
    """A lesson's file was learned on another base model than the home's."""


class UnknownNameError(UsageError):
    """A name is not known; near names are proposed."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, remedy: str = "") -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(repr(item) for item in near)}?" if near else ""
        listing = f"Known: {', '.join(names)}." if names and not near else ""
        super().__init__(
            f"There is no {kind} named {name!r}.",
            remedy=" ".join(part for part in (hint, listing, remedy) if part),
        )
        self.name = name
        self.suggestions = near


class ModelError(EngrainError):
    """A model can't be used."""


class ModelNotFoundError(ModelError):
    """A model is neither a local folder nor in the hub's local cache."""


class NoChatTemplateError(ModelError):
    """A tokenizer has no chat template, so a conversation can't be rendered."""


class TokenizerMismatchError(ModelError):
    """A tokenizer produces ids that the model has no embedding for."""


class UnsupportedModelError(ModelError):
    """A model's architecture lacks what a technique needs."""


class CorruptModelError(ModelError):
    """A model's file is damaged: its digest differs, a part is missing, or it ends too early."""


class ExportError(ModelError):
    """What is served can't be written in the format that was asked for."""


class ModelSourceError(ModelError):
    """No source gives the model: no network, no pip, or nothing in the folder."""


class HomeError(EngrainError):
    """A home folder can't be used."""


class HomeNotFoundError(HomeError):
    """The folder holds no home yet."""


class HomeExistsError(HomeError):
    """The folder holds a home already."""


class HomeLockedError(HomeError):
    """Another process is changing the home."""


class HomeReadOnlyError(HomeError):
    """The home can't be written."""


class DiskFullError(HomeError):
    """No space is left on the device; nothing was committed."""


class BaseChangedError(HomeError):
    """The base model's weights are not those that the home was made with."""


class LedgerError(EngrainError):
    """The record is damaged."""


class BlobMissingError(LedgerError):
    """A content-addressed file is gone."""


class BlobCorruptError(LedgerError):
    """A file's bytes do not have the digest that its name says; it is never loaded."""


class StateMismatchError(LedgerError):
    """A re-derived weight state does not have the recorded digest."""


class LearnError(EngrainError):
    """A lesson could not be learned; the served weights are unchanged."""


class NothingToLearnError(LearnError):
    """Curation and self-study left no example."""


class DoesNotFitError(LearnError):
    """A lesson needs more memory than is free; nothing was begun."""


class DivergedError(LearnError):
    """The training loss is not finite."""


class NoEffectError(LearnError):
    """A lesson was trained and changes nothing: no weight that is served, or no answer."""


class ResumeError(LearnError):
    """A checkpoint does not belong to this run."""


class GateRefused(EngrainError):
    """The exam refused the lesson: the served weights are unchanged."""

    exit_code = 3
