"""What a lesson would take, a machine that is too small for it, and what `doctor` measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engrain.lesson import fit
from engrain.model import hardware, peak
from tests.cli.conftest import OPEN_GATE, QUICK, Run


@pytest.fixture
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which nothing more is free than what the process holds."""
    monkeypatch.setattr(fit, "free_bytes", lambda: 0)


def test_estimate_tells_both_and_learns_nothing(run: Run, home: Path, examples: Path) -> None:
    told = run("estimate", str(examples), *QUICK, "--json").json
    assert told["recipe"] == "naive-lora"
    assert told["estimated_seconds"] == pytest.approx(sum(told["seconds"].values()), abs=0.01)
    assert set(told["seconds"]) == {"self_study", "exams", "training"}
    memory = told["memory"]
    assert memory["fits"] and memory["peak_bytes"] < memory["free_bytes"]
    assert memory["phases"]["training"]["optimizer"] > 0
    assert memory["peak_bytes"] == sum(memory["phases"][memory["phase"]].values())
    said = run("estimate", str(examples), *QUICK)
    assert said.code == 0
    for words in ("training", "memory in exams", "optimizer", "are free"):
        assert words in said.out
    assert run("lessons", "list", "--json").json["lessons"] == []
    assert run("jobs", "list", "--json").json["jobs"] == []


def test_estimate_of_a_conversation_counts_self_study(
    run: Run, home: Path, conversation: Path
) -> None:
    told = run("estimate", str(conversation), *QUICK, "--json").json
    assert told["seconds"]["self_study"] > 0
    assert "self_study" in told["memory"]["phases"]
    assert told["writer"] == "self" and told["writer_why"]
    assert "asked by the model itself" in run("estimate", str(conversation), *QUICK).out


def test_a_second_model_is_told_before_it_writes(
    run: Run, home: Path, conversation: Path, examples: Path, tmp_path: Path
) -> None:
    from engrain.model.testing import save_tiny, tiny_model

    other = save_tiny(tiny_model("qwen3"), tmp_path / "other")
    setting = ("--set", f"study.writer={other}")
    told = run("estimate", str(conversation), *QUICK, *setting, "--json").json
    assert told["writer"] == str(other)
    assert told["memory"]["phases"]["self_study"]["writer"] > 0
    assert f"asked by {other}" in run("estimate", str(conversation), *QUICK, *setting).out
    assert run("estimate", str(examples), *QUICK, *setting, "--json").json["writer"] == ""
    missing = ("--set", "study.writer=qwen2.5-coder-1.5b")
    refused = run("learn", str(conversation), *QUICK, *missing, "--json")
    assert (refused.code, refused.json["error"]) == (1, "ModelNotFoundError")
    assert "engrain models get qwen2.5-coder-1.5b" in refused.json["remedy"]
    assert run("jobs", "list", "--json").json["jobs"] == []


def test_learn_says_what_it_will_take(run: Run, home: Path, examples: Path) -> None:
    done = run("learn", str(examples), *QUICK, *OPEN_GATE)
    assert done.code == 0
    assert done.err.startswith("About ") and "of memory at most" in done.err
    assert "of memory" not in run("learn", str(examples), *QUICK, *OPEN_GATE, "--quiet").err


def test_what_does_not_fit_is_refused_before_it_begins(
    run: Run, home: Path, examples: Path, small_machine: None
) -> None:
    done = run("learn", str(examples), *QUICK, *OPEN_GATE)
    assert done.code == 1
    assert "DoesNotFitError" in done.err and "--force" in done.err
    refused = run("learn", str(examples), *QUICK, *OPEN_GATE, "--json")
    assert (refused.code, refused.json["error"]) == (1, "DoesNotFitError")
    assert int(refused.json["peak_bytes"]) > int(refused.json["free_bytes"])
    assert run("jobs", "list", "--json").json["jobs"] == []


def test_what_does_not_fit_is_not_timed(
    run: Run, home: Path, examples: Path, small_machine: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engrain.lesson import cost

    def never(*_: Any) -> None:
        raise AssertionError("a piece of what does not fit was run")

    monkeypatch.setattr(cost, "calibrate", never)
    settings = (*QUICK, "--set", "batch_size=3")
    told = run("estimate", str(examples), *settings)
    assert told.code == 0
    assert "not timed" in told.out and "does not fit" in told.out
    assert run("estimate", str(examples), *settings, "--json").json["estimated_seconds"] is None


def test_force_goes_on(run: Run, home: Path, examples: Path, small_machine: None) -> None:
    done = run("learn", str(examples), *QUICK, *OPEN_GATE, "--force")
    assert done.code == 0
    assert done.out.startswith("Accepted")


# ---------------------------------------------------------------------------- doctor


def findings(run: Run, *words: str) -> dict[str, Any]:
    return {item["name"]: item for item in run("doctor", "--json", *words).json["findings"]}


def test_doctor_measures_once(run: Run, home: Path) -> None:
    first = findings(run)["speed"]["figures"]
    assert set(first["step_gflops"]) == {"float32", "bfloat16"} and first["bandwidth_gbs"] > 0
    assert findings(run)["speed"]["figures"] == first
    assert findings(run, "--measure")["speed"]["figures"] != first
    assert len(list((home / "machine").glob("*.json"))) == 1


def test_doctor_without_a_home_keeps_nothing(
    run: Run, model: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGRAIN_MODEL__SOURCE", str(model))
    assert findings(run)["speed"]["status"] == "ok"
    assert not own_home.exists()


def test_compute_is_shown_with_its_origin_and_reaches_the_learner(
    run: Run, home: Path, examples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = "float32" if hardware.default_compute() == "bfloat16" else "bfloat16"
    before = set((home / "speed").glob("*.json"))
    assert findings(run)["compute"]["figures"]["compute"] == hardware.default_compute()
    monkeypatch.setenv("ENGRAIN_MODEL__COMPUTE", other)
    try:
        found = findings(run)["compute"]
        assert found["figures"]["compute"] == other
        assert "ENGRAIN_MODEL__COMPUTE" in found["words"]
        assert run("learn", str(examples), *QUICK, *OPEN_GATE).code == 0
        assert hardware.overridden_compute() == other
        # What was timed in the other type has keys of its own.
        after = set((home / "speed").glob("*.json"))
        assert before < after and len(after) == 2 * len(before)
        assert run("config", "show", "--set", "model.compute=float16").code == 2
    finally:
        hardware.set_compute()


def test_doctor_measures_the_noise_of_the_panel_when_asked(run: Run, home: Path) -> None:
    assert "noise" not in findings(run) and not (home / "noise").exists()
    figures = findings(run, "--noise")["noise"]["figures"]
    assert figures["copies"] >= 2 and figures["figures"]["loss"]["band"] >= 0
    (kept,) = (home / "noise").glob("*.json")
    kept.touch()
    assert findings(run, "--noise")["noise"]["figures"] == figures, "it was measured twice"


def test_doctor_warns_of_what_was_measured_faster(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = peak.measure_peak

    def faster(*given: Any, **named: Any) -> Any:
        speeds = dict.fromkeys(hardware.COMPUTE_TYPES, 1.0)
        other = next(kind for kind in speeds if kind != hardware.default_compute())
        threads = {"1": 1.0, "64": 2.0}
        return replace(
            measure(*given, **named), step_gflops={**speeds, other: 2.0}, by_threads=threads
        )

    monkeypatch.setattr(peak, "measure_peak", faster)
    found = findings(run, "--measure")
    assert found["compute"]["status"] == "warn" and "model.compute" in found["compute"]["remedy"]
    assert found["threads"]["status"] == "warn" and "64" in found["threads"]["remedy"]
