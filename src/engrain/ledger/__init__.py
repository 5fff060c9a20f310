"""The append-only, content-addressed record of lessons, weight states, exams and decisions."""

from engrain.ledger.blobs import BlobStore
from engrain.ledger.ledger import Ledger
from engrain.ledger.lock import HomeLock
from engrain.ledger.records import (
    Base,
    ConversationEntry,
    Event,
    Job,
    JobStage,
    LessonEntry,
    LessonRecord,
    Plan,
    Problem,
    State,
    Status,
)
from engrain.ledger.replay import Projection, check_chain, replay

__all__ = [
    "Base",
    "BlobStore",
    "ConversationEntry",
    "Event",
    "HomeLock",
    "Job",
    "JobStage",
    "Ledger",
    "LessonEntry",
    "LessonRecord",
    "Plan",
    "Problem",
    "Projection",
    "State",
    "Status",
    "check_chain",
    "replay",
]
