"""What a gate decides by, and what it decided: thresholds, checks, decisions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

from engrain.data.lessons import canonical_digest
from engrain.errors import ConfigError

if TYPE_CHECKING:
    from engrain.config import GateConfig

Verdict = Literal["accepted", "quarantined", "rejected"]
Severity = Literal["none", "little", "near", "harm"]


@dataclass(frozen=True, slots=True)
class GateThresholds:
    """What a lesson must show; drops are shares of the questions, losses are percent."""

    min_recall: float = 0.8
    max_forgetting: float = 0.05
    max_worst_drop: float = 0.1
    max_panel_loss_percent: float = 1.0
    max_total_panel_loss_percent: float = 2.0
    min_abstention: float = 0.7
    max_abstention_drop: float = 0.1
    max_reading_drop: float = 0.15
    max_arithmetic_drop: float = 0.15
    max_locality_drop: float = 0.15
    max_format_drop: float = 0.2
    max_capability_drop: float = 0.05
    alpha: float = 0.1
    quarantine_margin: float = 0.5

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(
                    f"The gate's {item.name} is {value!r}.",
                    remedy="Give a number that is 0 or more.",
                )

    @property
    def digest(self) -> str:
        """SHA-256 over all values, as hex."""
        return canonical_digest(asdict(self))

    @classmethod
    def from_config(cls, config: GateConfig) -> GateThresholds:
        """The thresholds that a configuration sets: the fields of the same names."""
        return cls(**{item.name: getattr(config, item.name) for item in fields(cls)})


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison: the figure before and after, what was allowed, and a sentence about it."""

    name: str
    before: float
    after: float
    threshold: float
    passed: bool
    words: str
    severity: Severity = "none"
    statistics: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The check as JSON-ready values."""
        record = asdict(self)
        record["statistics"] = {key: _finite(value) for key, value in self.statistics.items()}
        return record | {key: _finite(record[key]) for key in ("before", "after", "threshold")}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Check:
        """The check that :meth:`to_dict` gave."""
        numbers = {
            key: math.nan if record[key] is None else float(record[key])
            for key in ("before", "after", "threshold")
        }
        return cls(**{**record, **numbers})


@dataclass(frozen=True, slots=True)
class Decision:
    """Accepted, quarantined or rejected, with the reasons in words and every check."""

    verdict: Verdict
    reasons: list[str]
    checks: list[Check]
    thresholds: str = ""
    """Digest of the thresholds it was made with."""
    rounds: list[dict[str, Any]] = field(default_factory=list)
    """Rounds of training: texts, steps, the questions then ``missing``, which one was ``kept``."""
    again: dict[str, list[str]] = field(default_factory=dict)
    """Weak facts of earlier lessons that were trained again with this one, by lesson."""
    origin: dict[str, Any] = field(default_factory=dict)
    """Where a lesson from another home came from, and what it tells otherwise; else empty."""

    @property
    def accepted(self) -> bool:
        """Whether the lesson goes live."""
        return self.verdict == "accepted"

    @property
    def recalls(self) -> bool:
        """Whether enough of the new facts is recalled, whatever else was found."""
        return all(check.passed for check in self.checks if check.name == "recall")

    @property
    def kept_round(self) -> int:
        """Which round of training was kept, from 0."""
        return next((place for place, one in enumerate(self.rounds) if one["kept"]), 0)

    def check(self, name: str) -> Check:
        """A check by name."""
        return next(check for check in self.checks if check.name == name)

    def to_dict(self) -> dict[str, Any]:
        """The decision as JSON-ready values."""
        return {
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "checks": [check.to_dict() for check in self.checks],
            "thresholds": self.thresholds,
            "rounds": [dict(one) for one in self.rounds],
            "again": {lesson: list(groups) for lesson, groups in self.again.items()},
            **({"origin": dict(self.origin)} if self.origin else {}),
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Decision:
        """The decision that :meth:`to_dict` gave."""
        return cls(
            record["verdict"],
            list(record["reasons"]),
            [Check.from_dict(check) for check in record["checks"]],
            record.get("thresholds", ""),
            [dict(one) for one in record.get("rounds", ())],
            dict(record.get("again", {})),
            dict(record.get("origin", {})),
        )


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
