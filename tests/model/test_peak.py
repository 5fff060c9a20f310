"""Measured figures of the machine: kept, read again, and what they warn of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engrain.model import peak
from engrain.model.peak import Peak, load_peak, measure_peak, peak_path, store_peak

FIGURES = Peak(
    2,
    "float32",
    {"float32": 100.0, "bfloat16": 30.0},
    {"float32": 120.0, "bfloat16": 30.0},
    20.0,
    {"1": 60.0, "2": 100.0},
    "2026-01-01T00:00:00Z",
    1.0,
)


def test_measures_both_types_and_leaves_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak, "WIDTH", 256)
    monkeypatch.setattr(peak, "READ_BYTES", 1 << 22)
    monkeypatch.setattr(peak, "SECONDS", 0.005)
    before = torch.get_num_threads()
    found = measure_peak("float32", threads=1)
    assert torch.get_num_threads() == before
    assert found.threads == 1 and "1" in found.by_threads
    assert set(found.step_gflops) == set(found.large_gflops) == {"float32", "bfloat16"}
    assert min([*found.step_gflops.values(), found.bandwidth_gbs, *found.by_threads.values()]) > 0
    assert found.seconds < 4


def test_is_kept_by_machine_and_threads(tmp_path: Path) -> None:
    path = peak_path(tmp_path, 2, "float32")
    assert load_peak(path) is None
    store_peak(path, FIGURES)
    assert load_peak(path) == FIGURES
    assert load_peak(peak_path(tmp_path, 1, "float32")) is None
    path.write_text('{"threads": 2}')
    assert load_peak(path) is None


def test_says_which_type_is_clearly_faster() -> None:
    assert FIGURES.faster == "float32"
    assert replace(FIGURES, step_gflops={"float32": 10.0, "bfloat16": 30.0}).faster == "bfloat16"
    assert replace(FIGURES, step_gflops={"float32": 28.0, "bfloat16": 30.0}).faster is None


def test_says_which_number_of_threads_is_clearly_faster() -> None:
    assert FIGURES.better_threads(2) is None
    assert FIGURES.better_threads(1) == 2
    assert replace(FIGURES, by_threads={"1": 95.0, "2": 100.0}).better_threads(1) is None
    assert FIGURES.better_threads(7) is None


def test_numbers_of_threads_that_are_tried() -> None:
    assert peak._counts(1) == [1]
    assert peak._counts(4) == [1, 2, 3, 4]
    assert peak._counts(12) == [1, 2, 4, 8, 12]
    assert peak._counts(16) == [1, 2, 4, 8, 16]


def test_a_product_that_takes_too_long_is_measured_on_a_piece(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows: list[int] = []
    monkeypatch.setattr(peak, "TOO_LONG", 0.0)
    monkeypatch.setattr(peak, "_best", lambda work: rows.append(len(work())) or 1.0)
    assert peak._product("float32", 64) == 2 * peak.FEW_ROWS * peak.WIDTH**2 / 1e9
    assert rows == [peak.FEW_ROWS]
