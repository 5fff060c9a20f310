"""The benchmarks of speed: their models, their peers on a tiny model, and their arithmetic."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import lesson, machine, measure, peers, scaling, step
from benchmarks.measure import Meter, contestant, measured, summary
from benchmarks.shapes import SHAPES, token_ids, write_model


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Contestants run in this process; gives the modules that were asked for."""
    asked: list[str] = []

    def run(module: str, request: Mapping[str, Any], **options: Any) -> dict[str, Any]:
        asked.append(module)
        work = importlib.import_module(module.split()[0]).work
        return measured(work, {**request, "memory_bytes": 0})

    def folder(shape: str, place: Path, **options: Any) -> Path:
        target = place / shape
        return target if target.exists() else write_model(shape, target)

    for module in (step, scaling, machine):
        monkeypatch.setattr(module, "contestant", run)
    for module in (step, scaling):
        monkeypatch.setattr(module, "model_folder", folder)
    return asked


@pytest.mark.parametrize(
    ("name", "millions"),
    [("smollm2-135m", 134.5), ("qwen3-0.6b", 596.0), ("tinyllama-1.1b", 1100.0)],
)
def test_shapes_have_the_published_size(name: str, millions: float) -> None:
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(SHAPES[name].config())
    count = sum(parameter.numel() for parameter in model.parameters())
    matrices = sum(p.numel() for p in model.parameters() if p.ndim > 1)
    assert SHAPES[name].parameters == matrices
    assert count / 1e6 == pytest.approx(millions, rel=2e-3)


@pytest.mark.parametrize(("context", "targets"), [(64, 4), (200, 16), (521, 33), (2048, 64)])
def test_a_conversation_has_the_length_that_was_asked_for(context: int, targets: int) -> None:
    ids = token_ids(context, targets)
    assert len(ids) == context + targets
    assert ids == token_ids(context, targets) != token_ids(context, targets, seed=1)


def test_logits_for_the_learned_tokens_alone_give_the_same_gradients(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(
        write_model("tiny", tmp_path), dtype=torch.float32
    )
    rows = peers._rows({"ids": token_ids(100, 8), "targets": 8, "steps": 1})
    gradients = []
    for batch in (
        {key: torch.tensor([rows[0][key]]) for key in ("input_ids", "labels")},
        peers._few_logits(rows),
    ):
        model.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        gradients.append([loss.detach(), *(p.grad.clone() for p in model.parameters())])
    for whole, few in zip(*gradients, strict=True):
        torch.testing.assert_close(whole, few)


def test_operations_of_a_step_are_six_for_each_weight_and_token() -> None:
    shape = SHAPES["tiny"]
    for head_trained, head in ((True, 6), (False, 4)):
        found = machine.step_products(shape, torch.float32, 16, head_trained, 0.0)
        assert found["step_flops"] == 16 * (6 * shape.linear + head * shape.head)
        assert found["step_hot_gflops"] > 0


def test_medians_leave_the_first_step_apart() -> None:
    common = {"weights_bytes": 100, "resident_before_bytes": 50, "resident_loaded_bytes": 200}
    records = [
        {
            **common,
            "first_step_seconds": 9.0,
            "step_seconds": [seconds, seconds, 7.0],
            "peak_bytes": 230,
        }
        for seconds in (1.0, 2.0, 6.0)
    ]
    found = summary(records)
    assert found["step_seconds"] == 2.0 and found["step_seconds_range"] == [1.0, 6.0]
    assert found["first_step_seconds"] == 9.0 and found["repeats"] == 3
    assert found["peak_extra_over_weights"] == pytest.approx(0.3)
    assert found["peak_extra_with_loading"] == pytest.approx(0.8)
    assert summary([{"unavailable": "why"}]) == {"unavailable": "why"}


def test_figures_are_null_where_a_contestant_is_missing() -> None:
    found: dict[str, dict[str, Any]] = {
        "ours-cached": {
            "step_seconds": 0.5,
            "prefill_seconds": 4.0,
            "steady_extra_over_weights": 0.4,
            "peak_extra_over_weights": 0.6,
            "peak_extra_with_loading": 1.0,
        },
        "trainer-default": {"step_seconds": 20.0},
        "trainer-best": {"step_seconds": 12.0},
        "trainer-best-few-logits": {"step_seconds": 10.0},
        "trl-lora": {"unavailable": "not installed: trl"},
    }
    got = step.figures(found, {"float32": {"step_hot_seconds": 0.25}}, "float32")
    assert got["speedup_vs_trainer_default"] == 40 and got["speedup_vs_trainer_best"] == 20
    assert got["speedup_vs_trainer_best_arguments"] == 24
    assert got["speedup_8_lessons_vs_trainer_default"] == 20
    assert got["matmul_peak_fraction"] == 0.5 and got["peak_extra_over_weights"] == 0.4
    assert got["speedup_vs_trl_lora"] is None and got["speedup_recomputed_vs_trainer_best"] is None
    assert got["matmul_peak_fraction_streamed"] is None


def test_what_is_missing_is_told() -> None:
    def lacks(request: Mapping[str, Any], meter: Meter) -> dict[str, Any]:
        import a_package_that_nobody_has  # type: ignore[import-not-found]

        return {"never": a_package_that_nobody_has}

    def too_large(request: Mapping[str, Any], meter: Meter) -> dict[str, Any]:
        return {"never": torch.empty(1 << 60)}

    assert measured(lacks, {}) == {"unavailable": "not installed: a_package_that_nobody_has"}
    assert "more than the 2.0 GB" in measured(too_large, {"memory_bytes": 2 * 10**9})["unavailable"]


def test_a_contestant_runs_in_a_process_of_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    request = {"kind": "trainer", "model": "/nowhere", "dtype": "float32"}
    found = contestant("benchmarks.peers", request, threads=1)
    assert found["failed"] and found["unavailable"].startswith("exit 1")
    assert "/nowhere" in capfd.readouterr().err


@pytest.mark.filterwarnings("ignore")
def test_a_quick_step(here: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "step.json"
    monkeypatch.setattr(sys, "argv", ["step", "--quick", "--json", str(target)])
    assert step.main() == 0
    record = json.loads(target.read_text())
    assert set(here) == {"benchmarks.machine --serve", "benchmarks.ours", "benchmarks.peers"}
    rows = record["contestants"]
    assert set(rows) >= {"trainer-default", "trainer-best", "ours-recomputed", "ours-cached"}
    for name in ("trainer-default", "trainer-best", "ours-recomputed"):
        assert rows[name]["step_seconds"] > 0 and rows[name]["peak_bytes"] > 0
    assert record["speedup_recomputed_vs_trainer_default"] > 0
    assert record["machine_peaks"]["float32"]["large_gflops"] > 0
    # Peers and ours were given the same tokens, and Trainer trained every weight.
    raw = record["raw"]["rounds"]
    assert raw["trainer-default"][0]["trained"] > raw["ours-recomputed"][0]["trained"]
    assert {"commit", "machine", "versions", "compute"} <= set(record)


@pytest.mark.filterwarnings("ignore")
def test_a_quick_look_at_scaling(
    here: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "scaling.json"
    words = ["scaling", "--quick", "--peer-repeats", "0", "--json", str(target)]
    monkeypatch.setattr(sys, "argv", words)
    assert scaling.main() == 0
    record = json.loads(target.read_text())
    assert [row["at"] for row in record["context"]] == [128, 256]
    assert [row["shape"] for row in record["size"]] == ["tiny"]
    assert [row["at"] for row in record["adapters"]] == [0, 2]
    for row in record["adapters"]:
        assert row["fold_seconds"] > 0 and row["mean_step_seconds"] > 0
    assert target.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_the_stages_of_a_lesson_add_up() -> None:
    watch = lesson.Stopwatch()
    for stage in ("studied", "examined_before", "trained", "trained", "examined_after"):
        watch(stage, 1, 2)
    taken = watch.seconds()
    assert list(taken) == list(lesson.STAGES) and min(taken.values()) >= 0
    whole = max(watch.last.values()) - watch.began
    assert sum(taken.values()) >= whole
    assert measure.MEMORY_SHARE < 1
