"""An exam on a real (tiny, random) model: equal to the bit, twice and in two processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engrain.data.lessons import Probe, chat
from engrain.exam.exam import Exam, run_exam
from engrain.exam.panel import load_panel
from tests.exam.fakes import FakeEngine, exam, panel, results

PROBES = {
    "zebra": [Probe("1", "recall", chat("What is my motto?"), ("Onward",))],
    "apple": [
        Probe("2", "paraphrase", chat("Any idea what my motto is?"), ("Onward",)),
        Probe("3", "abstention", chat("What is my passcode?")),
    ],
}
SMALL = {
    "loss": 2,
    "capability": 4,
    **dict.fromkeys(("arithmetic", "format", "reading", "locality", "abstention"), 2),
}

ANOTHER_PROCESS = """
import torch; torch.set_num_threads(1)
from tests.exam.test_exam import small_exam
print(small_exam().digest)
"""


def small_exam() -> Exam:
    from engrain.model.engine import Engine
    from engrain.model.testing import tiny_model

    engine = Engine(tiny_model("llama"), state_digest="tiny")
    return run_exam(engine, PROBES, load_panel().smaller(SMALL))


def test_an_exam_is_equal_to_the_bit_twice_and_in_two_processes() -> None:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        first, second = small_exam(), small_exam()
    finally:
        torch.set_num_threads(threads)
    assert first == second
    assert first.digest == second.digest
    assert json.dumps(first.panel.to_dict()) == json.dumps(second.panel.to_dict())
    assert first.panel.loss == second.panel.loss
    root = Path(__file__).parents[2]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join((str(root / "src"), str(root))))
    other = subprocess.run(
        [sys.executable, "-c", ANOTHER_PROCESS],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        cwd=root,
    )
    assert other.stdout.split()[-1] == first.digest


def test_run_exam_files_answers_under_their_lesson() -> None:
    engine = FakeEngine(lambda question: "Onward!" if "motto" in question else "I don't know.")
    found = run_exam(engine, PROBES)
    assert list(found.results) == ["zebra", "apple"]
    assert found.scores() == {"zebra": 1.0, "apple": 1.0}
    assert found.outcomes("apple") == {"2": True, "3": True}
    assert found.outcomes("apple", kinds=["abstention"]) == {"3": True}
    assert found.outcomes("apple", ignore=["2"]) == {"3": True}
    assert found.state_digest == "state"
    assert found.panel is None


def test_json_keeps_the_order_of_lessons_and_the_digest() -> None:
    found = exam({"zebra": results(1, 2), "apple": results(2, 2)}, panel(reading=(1, 2)))
    text = json.dumps(found.to_dict(), sort_keys=True, allow_nan=False)
    again = Exam.from_dict(json.loads(text))
    assert again == found
    assert list(again.results) == ["zebra", "apple"]
    assert again.digest == found.digest


def test_the_digest_leaves_out_the_time_only() -> None:
    one = Exam("s", {"a": tuple(results(1, 1))}, None, seconds=1.0)
    late = Exam("s", {"a": tuple(results(1, 1))}, None, seconds=2.0)
    other = Exam("t", {"a": tuple(results(1, 1))}, None, seconds=1.0)
    assert one.digest == late.digest != other.digest
    assert one == late


def test_a_known_panel_result_is_taken_only_if_it_is_of_this_panel() -> None:
    small = load_panel().smaller({"loss": 1, "capability": 1})
    engine = FakeEngine()
    fresh = run_exam(engine, {}, small)
    assert fresh.panel is not None
    asked = len(engine.asked)
    assert run_exam(engine, {}, small, known_panel=fresh.panel).panel is fresh.panel
    assert len(engine.asked) == asked
    stranger = panel(digest="other")
    assert run_exam(engine, {}, small, known_panel=stranger).panel == fresh.panel


@pytest.mark.parametrize("module", ["exam", "exam.gate", "exam.report", "exam.life"])
def test_importing_exams_brings_no_torch(module: str) -> None:
    code = f"import sys, engrain.{module}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "matplotlib", "rich"} & set(run.stdout.split())
