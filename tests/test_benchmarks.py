"""The benchmarks of speed: their models, their peers on a tiny model, and their arithmetic."""

from __future__ import annotations

import gzip
import importlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import (
    lesson,
    machine,
    measure,
    optimizer_jobs,
    optimizers,
    peers,
    scaling,
    step,
)
from benchmarks import optimizer_page as page
from benchmarks.measure import Meter, contestant, measured, summary
from benchmarks.shapes import SHAPES, token_ids, write_model
from engrain.errors import UsageError
from engrain.learn import registry


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

    for module in (step, scaling, machine, optimizers):
        monkeypatch.setattr(module, "contestant", run)
    # Where the processor multiplies no bf16, torch does it number by number: minutes for a peak.
    monkeypatch.setattr(machine, "LARGE", 64)
    for module in (step, scaling, optimizers):
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


@pytest.mark.filterwarnings("ignore")
def test_a_quick_page_of_optimizers(
    here: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "optimizers.json"
    words = "".join(f"Line {i} of a book that nobody wrote: {i * i} ducks.\n" for i in range(400))
    (tmp_path / "none.txt.gz").write_bytes(gzip.compress(words.encode()))
    book = ["--books", str(tmp_path), "--book", "none"]
    monkeypatch.setattr(
        sys, "argv", ["optimizers", "--quick", *book, "--threads", "1", "--json", str(target)]
    )
    assert optimizers.main() == 0
    record = json.loads(target.read_text())
    rows = {row["name"]: row for row in record["rows"]}
    assert list(rows) == ["adamw", "hft", "sgd"]
    assert record["state_equals_formula"] is True
    # 8 bytes a number and a step count a parameter, nothing, and half of the matrices.
    assert 8 < rows["adamw"]["memory"]["state_bytes_per_number"] < 8.1
    assert rows["sgd"]["memory"]["state_bytes"] == 0
    assert 2 < rows["hft"]["memory"]["state_bytes_per_number"] < 6
    for row in rows.values():
        assert row["memory"]["gradient_release"] is True
        assert 0 < row["time"]["update_seconds"] < row["time"]["step_seconds"]
        assert row["time"]["step_ratio"] > 0
        assert row["facts"]["seeds"] == row["book"]["seeds"] == [0, 1]
        assert row["facts"]["rate"] in row["facts"]["grid"]
        assert row["facts"]["figures"]["forgetting"]["count"] == 2
    assert rows["adamw"]["book"]["difference"] == {}
    assert rows["adamw"]["book"]["figures"]["loss_change"]["mean"] < 0
    gap = rows["sgd"]["book"]["difference"]["loss"]
    losses = [rows[name]["book"]["figures"]["loss"]["mean"] for name in ("sgd", "adamw")]
    assert gap["mean"] == pytest.approx(losses[0] - losses[1]) and gap["count"] == 2
    assert target.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    # Lessons are made once a seed and split: one for development, two held out.
    lessons = list((tmp_path / "optimizers-lessons").iterdir())
    assert len(lessons) == 3

    def never(*given: Any, **named: Any) -> Any:
        raise AssertionError("a run was made twice")

    processes = len(here)
    for name in ("run_life", "study_life", "Learner"):
        monkeypatch.setattr(optimizer_jobs, name, never)
    assert optimizers.main() == 0
    assert len(here) == processes
    assert json.loads(target.read_text())["rows"] == record["rows"]
    # One more contestant is all that is run; times are taken beside their references again.
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--part", "time", "--only", "sign"])
    assert optimizers.main() == 0
    names = [run["contestant"] for run in json.loads(target.read_text())["time"]["runs"]]
    assert names[processes // 2 :] == ["nothing", "torch-adamw", "adamw", "sign"]
    # Runs of two processes come together; those that both have are taken once.
    whole, empty = json.loads(target.read_text()), tmp_path / "merged.json"
    merge = ["optimizers", "--merge", str(target), "--merge", str(target), "--json", str(empty)]
    argv = sys.argv
    monkeypatch.setattr(sys, "argv", merge)
    assert optimizers.main() == 0
    merged = json.loads(empty.read_text())
    assert all(merged[part]["runs"] == whole[part]["runs"] for part in optimizers.PARTS)
    assert merged["rows"] == whole["rows"]
    # Longer lives take the rates that this page chose; none is chosen, so no development run is.
    monkeypatch.undo()
    longer = ["--part", "facts", "--rates", str(target), "--only", "sgd", "--json", str(empty)]
    monkeypatch.setattr(sys, "argv", ["optimizers", "--quick", *longer])
    with pytest.raises(UsageError, match="other rates"):
        optimizers.main()
    empty.unlink()
    assert optimizers.main() == 0
    lived = json.loads(empty.read_text())["facts"]
    assert lived["rates"] == {"sgd": whole["facts"]["rates"]["sgd"]}
    assert {run["split"] for run in lived["runs"]} == {"held-out"}
    # Other rates stand beside the one that was chosen.
    tradeoff = tmp_path / "tradeoff.png"
    beside = [*longer, "--times", "0.5", "--tradeoff", str(tradeoff), "--only", "adamw"]
    monkeypatch.setattr(sys, "argv", ["optimizers", "--quick", *beside])
    assert optimizers.main() == 0
    for row in json.loads(empty.read_text())["rows"]:
        chosen, (half,) = row["facts"]["rate"], row["facts"]["beside"]
        assert half["rate"] == 0.5 * chosen and half["seeds"] == row["facts"]["seeds"] == [0, 1]
        assert row["facts"]["difference"].keys() == (
            set() if row["name"] == "adamw" else half["difference"].keys()
        )
        assert half["difference"]["forgetting"]["count"] == 2
    assert tradeoff.read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(sys, "argv", ["optimizers", "--quick", *longer, "--only", "lion"])
    with pytest.raises(UsageError, match="no learning rate of lion"):
        optimizers.main()
    # Another setting needs a file of its own.
    monkeypatch.setattr(sys, "argv", [*argv, "--targets", "8"])
    with pytest.raises(UsageError, match="targets"):
        optimizers.main()


def test_a_grid_grows_where_its_end_is_the_best() -> None:
    """From the loss at a few rates to that at one beyond, and no further than the best."""
    assert optimizers.beyond({0.1: (3.0,), 0.3: (2.0,), 1.0: (2.5,)}) == []
    grown = optimizers.beyond({0.1: (3.0,), 0.3: (2.0,), 1.0: (1.0,)})
    assert grown == [pytest.approx(10 / 3, rel=1e-5)]
    assert optimizers.beyond({0.1: (1.0,), 0.2: (1.0,), 0.4: (2.0,)}) == [0.05]
    assert optimizers.beyond({None: (1.0,)}) == optimizers.beyond({0.1: (1.0,)}) == []
    # Where as much is left of what was learned, it is better to have learned more.
    assert optimizers.best({0.1: (-0.5, -0.6), 0.2: (-0.5, -0.9), 0.4: (-0.4, -1.0)}) == 0.2


def test_every_technique_is_on_the_page_of_optimizers() -> None:
    found = optimizers.contestants({"apollo.rank": 2, "hft.ratio": 0.25})
    named = {*registry.names("optimization"), *registry.names("architecture")} - {"full"}
    assert set(found) == named and next(iter(found)) == "adamw"
    assert found["apollo"].recipe.optimization.settings == {"rank": 2}
    assert found["hft"].recipe.rules[0].settings == {"ratio": 0.25}
    for c in found.values():
        assert c.recipe.build()["optimization"][0].name == (
            c.name if c.kind == "optimization" else "adamw"
        )
        short = c.shortened().recipe
        assert short.min_steps == 64 and short.to_dict()["architecture"]["name"] == (
            c.recipe.architecture.name
        )
    # What the published intervals would never let happen in a lesson happens some times.
    assert found["refactor"].shortened().recipe.rules[0].settings == {"interval": 25, "reset": 25}
    assert found["badam"].shortened().recipe.rules[0].settings == {}
    assert found["apollo"].shortened().recipe.to_dict()["optimization"]["refresh"] == 25


def test_a_book_is_left_out_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "page.json"
    words = ["--quick", "--part", "book", "--books", str(tmp_path), "--json", str(target)]
    monkeypatch.setattr(sys, "argv", ["optimizers", *words])
    assert optimizers.main() == 0
    assert "book is left out" in capsys.readouterr().err
    assert "--books" in json.loads(target.read_text())["book"]["skipped"]


def facts_run(
    name: str, seed: int, forgetting: float, recall: float, recipe: str, rate: float = 0.1
) -> dict[str, Any]:
    """A held-out life as the benchmark of optimizers records it."""
    figures = {"forgetting": forgetting, "recall_final": recall, "learning_accuracy": recall}
    run = {"contestant": name, "seed": seed, "split": "held-out", "recipe": recipe, "rate": rate}
    return {**run, "figures": figures}


def facts_page(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Its rows by name, where 0.1 is the rate that was chosen for each."""
    kinds = {name: ("optimization", "full") for name in ("adamw", "hft", "sgd")}
    rates = {name: {"rate": 0.1} for name in kinds}
    return {row["name"]: row for row in page.rows({"facts": {"runs": runs, "rates": rates}}, kinds)}


ADAMW = [facts_run("adamw", s, 0.5 + 0.1 * s, 0.4 + 0.1 * s, "a") for s in range(4)]
HFT = [facts_run("hft", s, 0.4 + 0.1 * s, 0.4 + 0.1 * s + 0.01 * (-1) ** s, "b") for s in range(4)]


def test_differences_of_optimizers_are_taken_seed_by_seed() -> None:
    old = [facts_run("hft", 9, 0.0, 1.0, "an earlier recipe")]
    tuned = [{**facts_run("hft", 7, 0.0, 1.0, "b"), "split": "development"}]
    broken = {**facts_run("sgd", 0, 0, 0, "c"), "diverged": "The loss is inf at step 1."}
    del broken["figures"]
    rows = facts_page([*ADAMW, *old, *HFT, *tuned, broken])
    assert rows["hft"]["facts"]["seeds"] == [0, 1, 2, 3]
    gap = rows["hft"]["facts"]["difference"]["forgetting"]
    assert gap["mean"] == pytest.approx(-0.1) and gap["interval"]["high"] < 0
    assert rows["sgd"]["facts"]["diverged"] == [0] and rows["sgd"]["facts"]["figures"] == {}
    told = page.verdict(list(rows.values()))
    assert told["forget_less_and_recall_no_less"] == ["hft"] and told["recall_less"] == []


def test_other_rates_of_an_optimizer_stand_beside_the_chosen_one() -> None:
    """Each against the baseline at its chosen rate; against the best of its rates stands apart."""
    faster = [{**run, "rate": 0.3} for run in HFT]
    rows = facts_page([*ADAMW, *HFT, *faster])
    (beside,) = rows["hft"]["facts"]["beside"]
    assert beside["rate"] == 0.3 and beside["seeds"] == [0, 1, 2, 3]
    assert beside["difference"] == rows["hft"]["facts"]["difference"]
    # Another rate of the baseline is better: told once it has all seeds.
    better = [facts_run("adamw", s, 0.2 + 0.1 * s, 0.8, "a", rate=0.05) for s in range(4)]
    assert "to_best" not in facts_page([*ADAMW, *HFT, *better[:3]])["hft"]["facts"]
    rows = facts_page([*ADAMW, *HFT, *better])
    assert rows["adamw"]["facts"]["beside"][0]["difference"]["forgetting"]["mean"] < -0.29
    assert rows["hft"]["facts"]["difference"]["forgetting"]["mean"] == pytest.approx(-0.1)
    best = rows["hft"]["facts"]["to_best"]
    assert best["rate"] == 0.05
    assert best["difference"]["forgetting"]["mean"] == pytest.approx(0.2)
    told = page.verdict(list(rows.values()))
    assert told["forget_less_and_recall_no_less"] == ["hft"]
    assert told["forget_less_than_best_and_recall_no_less"] == []


def test_the_stages_of_a_lesson_add_up() -> None:
    watch = lesson.Stopwatch()
    for stage in ("studied", "examined_before", "trained", "trained", "examined_after"):
        watch(stage, 1, 2)
    taken = watch.seconds()
    assert list(taken) == list(lesson.STAGES) and min(taken.values()) >= 0
    whole = max(watch.last.values()) - watch.began
    assert sum(taken.values()) >= whole
    assert measure.MEMORY_SHARE < 1
