"""Exams: probes, the panel, figures of continual learning, the noise band and the gate."""

from engrain.exam.decision import Check, Decision, GateThresholds
from engrain.exam.exam import Exam, run_exam
from engrain.exam.gate import decide
from engrain.exam.metrics import AccuracyMatrix, ProbeHistory
from engrain.exam.noise import NoiseBand, measure_noise
from engrain.exam.panel import Panel, PanelResult, load_panel, run_panel
from engrain.exam.probes import ProbeResult, ask, passes, says_unknown

__all__ = [
    "AccuracyMatrix",
    "Check",
    "Decision",
    "Exam",
    "GateThresholds",
    "NoiseBand",
    "Panel",
    "PanelResult",
    "ProbeHistory",
    "ProbeResult",
    "ask",
    "decide",
    "load_panel",
    "measure_noise",
    "passes",
    "run_exam",
    "run_panel",
    "says_unknown",
]
