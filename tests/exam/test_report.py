import json
import math

import numpy as np

from engrain.exam import report
from engrain.exam.gate import decide
from engrain.exam.life import LifeRun, summarise_life
from engrain.exam.metrics import ProbeHistory
from engrain.exam.noise import NoiseBand
from engrain.exam.panel import TextLoss
from engrain.exam.probes import ProbeResult
from tests.exam.fakes import exam, panel, results

BEFORE = exam({"new": results(0, 4)}, panel(3.0, reading=(20, 24), capability=(80, 160)))
AFTER = exam({"new": results(3, 4)}, panel(3.03, reading=(18, 24), capability=(80, 160)), "f" * 64)


def test_the_sheets_of_an_exam() -> None:
    lessons, panel_, tasks = report.exam_sheets(AFTER, BEFORE, NoiseBand.assumed())
    assert ("new", "recall", "3 of 4", "75%", "19% to 99%") in lessons.rows
    loss = ("loss", "4", "3.000 nats", "3.030 nats", "3.030 to 3.030", "+1.00%", "±0.0030")
    assert loss in panel_.rows
    assert ("reading", "24", "83%", "75%", "53% to 90%", "-8 points", "±4.2%") in panel_.rows
    assert any("assumed, not measured" in note for note in panel_.notes)
    assert tasks.title == "Capability"


def test_a_decision_as_a_sheet() -> None:
    half = exam({"new": results(2, 4)}, AFTER.panel, "f" * 64)
    sheet = report.decision_sheet(decide(BEFORE, half))
    assert sheet.title == "Gate: quarantined"
    assert sheet.rows[0] == ("recall", "0%", "50%", "80%", "little")
    assert sheet.marks[0] == "fair"
    assert "It recalls 2 of 4 questions about the new facts (needed: 3)." in sheet.notes


def life_run(recipe: str, seed: int, kept: int) -> LifeRun:
    history = ProbeHistory(["one", "two"])
    never = [ProbeResult("n", "abstention", True, "")]
    history.add_day({"one": [*results(0, 4, "a"), *never], "two": results(0, 4, "b")})
    history.add_day({"one": [*results(4, 4, "a"), *never], "two": results(0, 4, "b")})
    fixed = [*results(3, 3, "b"), ProbeResult("b-3", "correction", seed == 0, "")]
    history.add_day({"one": [*results(kept, 4, "a"), *never], "two": fixed}, supersedes=["a-3"])
    return LifeRun(recipe, seed, history, (2.0, 3.0), (100, 300), panel(3.0), panel(3.03))


def test_life_figures_have_the_names_of_the_benchmark() -> None:
    recipes = summarise_life(
        [
            life_run(name, seed, kept)
            for name, kept in (("default", 3), ("naive", 0))
            for seed in (0, 1)
        ]
    )
    found = recipes["default"]
    wanted = (
        "recall_final forgetting worst_drop bwt fwt abstention corrections panel_change_percent"
    )
    for name in (*wanted.split(), "seconds_per_lesson", "peak_memory_bytes", "R"):
        assert name in found
    assert found["recall_final"] == np.mean([7 / 7, 6 / 7])
    assert found["corrections"] == 0.5
    assert found["abstention"] == 1
    assert found["forgetting"] == 0
    assert recipes["naive"]["worst_drop"] == 1
    assert found["panel_change_percent"] == np.float64(3.03 / 3.0 - 1) * 100
    assert found["seconds_per_lesson"] == 2.5
    assert found["cost_ratio_last_first"] == 1.5
    assert found["peak_memory_bytes"] == 300
    assert found["R"] == [[0.0, 0.0], [1.0, 0.0], [1.0, 0.875]]
    assert found["pooled"]["recall_final"]["asked"] == 14
    assert found["summaries"]["recall_final"]["interval"]["low"] is not None
    assert found["panel_parts"]["loss"] == {"before": 3.0, "after": 3.03}
    json.dumps(recipes, allow_nan=False)


def test_life_side_by_side() -> None:
    recipes = summarise_life([life_run("default", 0, 3), life_run("naive-lora", 0, 0)])
    sheet = report.life_sheet(recipes)
    assert sheet.columns == ("", "default", "naive-lora")
    assert ("recall of all facts after the last day", "100.0%", "57.1%") in sheet.rows
    assert any("One seed: no interval." in note for note in sheet.notes)


def test_json_holds_no_nan() -> None:
    broken = panel(3.0)
    broken.texts["t0"] = TextLoss(math.nan, 10)  # type: ignore[index]
    record = {"a": math.nan, "b": np.float64(1.5), "c": (math.inf, {2, 1}), "d": broken}
    found = json.loads(json.dumps(report.json_ready(record), allow_nan=False))
    assert found["a"] is None
    assert found["b"] == 1.5
    assert found["c"] == [None, [1, 2]]
    assert found["d"]["loss"]["value"] is None


def test_numbers() -> None:
    assert report.percent(0.123, 1) == "12.3%"
    assert report.percent(None) == report.percent(math.nan) == report.UNKNOWN
    assert report.number(1.0, 1, sign=True, unit="%") == "+1.0%"
    assert [report.size(n) for n in (5, 1500, 2.5e6, 7e12, None)] == [
        "5 B",
        "2 kB",
        "2.50 MB",
        "7000.00 GB",
        report.UNKNOWN,
    ]
