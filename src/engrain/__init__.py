"""engrain: version control for what a language model has learned.

Everything public is importable from here; a name is loaded when it is first used, so that
``import engrain`` is cheap and brings no torch::

    import engrain

    home = engrain.Home.open("~/engrain-home")
    home.learn("conversation.json")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engrain.config import Config, resolve
    from engrain.data.lessons import Lesson, Probe, TrainingText
    from engrain.data.messages import Conversation, Message
    from engrain.errors import EngrainError, GateRefused
    from engrain.exam.decision import Decision
    from engrain.exam.exam import Exam, run_exam
    from engrain.exam.metrics import AccuracyMatrix
    from engrain.home import Home
    from engrain.learn.learner import Learner
    from engrain.learn.recipe import Recipe
    from engrain.learn.registry import register
    from engrain.ledger.ledger import Ledger
    from engrain.model.adapter import Adapter
    from engrain.model.engine import Engine
    from engrain.model.loading import load_model

__version__ = "0.1.0"

__all__ = [
    "AccuracyMatrix",
    "Adapter",
    "Config",
    "Conversation",
    "Decision",
    "Engine",
    "EngrainError",
    "Exam",
    "GateRefused",
    "Home",
    "Learner",
    "Ledger",
    "Lesson",
    "Message",
    "Probe",
    "Recipe",
    "TrainingText",
    "__version__",
    "load_model",
    "register",
    "resolve",
    "run_exam",
]

_WHERE = {
    "AccuracyMatrix": "engrain.exam.metrics",
    "Adapter": "engrain.model.adapter",
    "Config": "engrain.config",
    "Conversation": "engrain.data.messages",
    "Decision": "engrain.exam.decision",
    "Engine": "engrain.model.engine",
    "EngrainError": "engrain.errors",
    "Exam": "engrain.exam.exam",
    "GateRefused": "engrain.errors",
    "Home": "engrain.home",
    "Learner": "engrain.learn.learner",
    "Ledger": "engrain.ledger.ledger",
    "Lesson": "engrain.data.lessons",
    "Message": "engrain.data.messages",
    "Probe": "engrain.data.lessons",
    "Recipe": "engrain.learn.recipe",
    "TrainingText": "engrain.data.lessons",
    "load_model": "engrain.model.loading",
    "register": "engrain.learn.registry",
    "resolve": "engrain.config",
    "run_exam": "engrain.exam.exam",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'engrain' has no attribute {name!r}")
    value = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
