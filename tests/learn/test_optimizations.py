"""What every optimization that moves one parameter at a time promises, whatever its equations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engrain.errors import ConfigError, DivergedError
from engrain.learn import registry
from engrain.learn.recipe import Choice, Recipe
from engrain.learn.technique import Setting, meta_parameter
from engrain.learn.testing import sample_lesson
from engrain.learn.update import GradientRelease, PerParameter

FAMILY: list[tuple[str, dict[str, Any]]] = [
    ("adamw", {}),
    ("adamw-8bit", {}),
    ("adafactor", {}),
    ("lion", {}),
    ("muon", {}),
    ("trion", {"rank": 4}),
    ("apollo", {"rank": 4, "refresh": 3}),
    ("apollo-mini", {"refresh": 3}),
    ("galore", {"rank": 4, "refresh": 3}),
    ("galore", {"rank": 4, "refresh": 3, "projector": "svd", "on_refresh": "reset"}),
    ("galore", {"rank": 4, "refresh": 3, "projector": "power", "on_refresh": "transport"}),
    ("galore", {"rank": 4, "refresh": 3, "projector": "random", "on_refresh": "rotate"}),
    ("galore-8bit", {"rank": 56, "refresh": 3}),
    ("galore-8bit", {"rank": 56, "refresh": 3, "on_refresh": "rotate"}),
    ("fira", {"rank": 4, "refresh": 3}),
    ("fira", {"rank": 4, "refresh": 3, "projector": "dct", "granularity": "tensor"}),
    ("frugal", {"refresh": 3}),
    ("frugal", {"refresh": 3, "choose": "randk", "on_refresh": "keep"}),
    ("frugal", {"refresh": 3, "choose": "blocks", "density": 0.5}),
    ("frugal", {"density": 0.0}),
    ("dct-adamw", {"rank": 4}),
    ("dct-adamw", {"rank": 4, "refresh": 3, "on_refresh": "rotate", "error": "whole"}),
    ("dct-adamw", {"rank": 4, "error": "8-bit", "norm": "l2"}),
    ("ldadamw", {"rank": 4}),
    ("ldadamw", {"rank": 4, "error": False}),
]
IDS = ["-".join((name, *map(str, settings.values()))) for name, settings in FAMILY]
TYPES = [torch.float32, torch.bfloat16]
CLIPLESS = {"clip": 0.0, "warmup": 0.0, "final_fraction": 1.0}
SHAPES = {"up": (96, 56), "down": (56, 96), "square": (24, 24), "bias": (96,), "scale": ()}
STEPS = 8
every = pytest.mark.parametrize(("name", "settings"), FAMILY, ids=IDS)
both = pytest.mark.parametrize("dtype", TYPES, ids=["fp32", "bf16"])


def parameters(dtype: torch.dtype, order: tuple[str, ...] = tuple(SHAPES)) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    values = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    return {name: torch.nn.Parameter((0.1 * values[name]).to(dtype)) for name in order}


def prepared(name: str, settings: dict[str, Any], weights: dict[str, Any]) -> Any:
    rule = registry.build("optimization", name, CLIPLESS | {"rounding": "stochastic"} | settings)
    assert isinstance(rule, PerParameter)
    nothing: Any = None
    rule.prepare(weights, Setting(nothing, sample_lesson(), steps=STEPS, seed=2))
    return rule


def gradient(name: str, step: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(97 * step + sum(map(ord, name)))
    return torch.randn(SHAPES[name], generator=generator)


def go(rule: Any, weights: dict[str, Any], first: int, last: int) -> None:
    for step in range(first, last):
        for name, weight in weights.items():
            weight.grad = gradient(name, step).to(weight.dtype)
        rule.step(step)


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@both
@every
def test_a_resumed_run_is_the_same_to_the_bit(
    name: str, settings: dict[str, Any], dtype: torch.dtype, tmp_path: Path
) -> None:
    """At each step, so before, at and after every refresh; through a file without pickle."""
    whole = parameters(dtype)
    rule = prepared(name, settings, whole)
    for step in range(STEPS):
        go(rule, whole, step, step + 1)
        save_file(rule.state_dict(), tmp_path / f"{step}.state")
        save_file({key: w.detach() for key, w in whole.items()}, tmp_path / f"{step}.weights")
    torch.save(rule.state_dict(), tmp_path / "pickled")
    assert equal(torch.load(tmp_path / "pickled", weights_only=True), rule.state_dict())
    for step in range(STEPS - 1):
        weights = parameters(dtype)
        with torch.no_grad():
            for key, value in load_file(tmp_path / f"{step}.weights").items():
                weights[key].copy_(value)
        resumed = prepared(name, settings, weights)
        resumed.load_state_dict(load_file(tmp_path / f"{step}.state"))
        go(resumed, weights, step + 1, STEPS)
        assert equal(weights, whole), f"resumed after step {step}"
        assert equal(resumed.state_dict(), rule.state_dict())


@both
@every
def test_two_runs_are_equal_in_any_order_of_parameters(
    name: str, settings: dict[str, Any], dtype: torch.dtype
) -> None:
    if settings.get("choose") == "blocks":
        pytest.skip("blocks take turns in the order of the model")
    first, second = parameters(dtype), parameters(dtype, tuple(reversed(SHAPES)))
    for weights in (first, second):
        go(prepared(name, settings, weights), weights, 0, STEPS)
    assert all(torch.equal(first[key], second[key]) for key in SHAPES)
    start = parameters(dtype)
    # One bf16 number may be rounded back to where it was.
    assert all(not torch.equal(first[key], start[key]) for key in SHAPES if key != "scale")


@both
@every
def test_state_has_the_bytes_that_it_says(
    name: str, settings: dict[str, Any], dtype: torch.dtype
) -> None:
    for rounding in ("stochastic", "kahan"):
        weights = parameters(dtype)
        rule = prepared(name, settings | {"rounding": rounding}, weights)
        meta = {key: meta_parameter(*w.shape).to(dtype) for key, w in weights.items()}
        meta = {key: torch.nn.Parameter(w, requires_grad=False) for key, w in meta.items()}
        go(rule, weights, 0, 4)
        held = sum(tensor.nbytes for tensor in rule.state_dict().values())
        if settings.get("choose") == "blocks":
            assert held <= rule.state_bytes(meta)
            held = max(_held(rule, weights, step) for step in range(4, 4 + 3 * 8))
        alive = sum(tensor.nbytes for tensor in rule.state_dict().values())
        assert sum(rule.memory_report().values()) == alive
        assert held == rule.state_bytes(meta) == rule.state_bytes(weights)


def _held(rule: Any, weights: dict[str, Any], step: int) -> int:
    go(rule, weights, step, step + 1)
    return sum(tensor.nbytes for tensor in rule.state_dict().values())


M, N = 96, 160
MATRIX = [
    ("adamw", {}, 8 * M * N + 4),
    ("adamw-8bit", {}, 2 * M * N + 8 * M * N // 256 + 4),
    ("adafactor", {}, 4 * (M + N) + 4),
    ("lion", {}, 4 * M * N),
    ("muon", {}, 4 * M * N),
    ("trion", {"rank": 8}, 4 * M * N),
    ("apollo", {"rank": 8}, 8 * N * 8 + 8),
    ("apollo-mini", {}, 8 * N + 8),
    ("galore", {"rank": 8}, 4 * (M * 8 + 2 * N * 8) + 4),
    ("galore", {"rank": 8, "projector": "dct"}, 4 * (8 + 2 * N * 8) + 4),
    ("galore-8bit", {"rank": 32}, 4 * M * 32 + 2 * N * 32 + 8 * N * 32 // 256 + 4),
    ("fira", {"rank": 8}, 4 * (M * 8 + 2 * N * 8) + 8),
    ("frugal", {}, 8 * M * N // 4 + 4),
    ("frugal", {"choose": "randk"}, 8 * M * N // 4 + 4),
    ("frugal", {"choose": "blocks", "density": 1.0}, 8 * M * N + 8),
    ("frugal", {"density": 0.0}, 0),
    ("dct-adamw", {"rank": 8}, 8 * N * 8 + 4 * 8 + 4),
    ("dct-adamw", {"rank": 8, "error": "whole"}, 8 * N * 8 + 4 * 8 + 4 + 4 * M * N),
    ("dct-adamw", {"rank": 8, "error": "8-bit"}, 8 * N * 8 + 4 * 8 + 4 + M * N + M * N // 64),
    ("ldadamw", {"rank": 8}, 8 * N * 8 + 4 * M * 8 + 4 + 4 * M * N),
    ("ldadamw", {"rank": 8, "error": False}, 8 * N * 8 + 4 * M * 8 + 4),
]


@pytest.mark.parametrize(("name", "settings", "formula"), MATRIX)
@pytest.mark.parametrize("shape", [(M, N), (N, M)])
def test_state_of_a_matrix_is_the_formula(
    name: str, settings: dict[str, Any], formula: int, shape: tuple[int, int]
) -> None:
    rule = prepared(name, settings, {})
    assert rule.state_bytes({"w": meta_parameter(*shape)}) == formula
    # Moments, norms and spaces stay fp32 beside bf16 weights; LDAdamW's error alone does not.
    half = torch.nn.Parameter(meta_parameter(*shape).bfloat16(), requires_grad=False)
    saved = 2 * M * N if name == "ldadamw" and settings.get("error", True) else 0
    assert rule.state_bytes({"w": half}) == formula - saved


@both
@every
def test_a_step_inside_backward_is_the_ordinary_step(
    name: str, settings: dict[str, Any], dtype: torch.dtype
) -> None:
    found = []
    for release in (False, True):
        weights = parameters(dtype)
        rule = prepared(name, settings, weights)
        step = 0
        holder = GradientRelease(rule, weights)
        for step in range(5):
            with holder.hooked(lambda s=step: s) if release else _nothing():
                hidden = torch.tanh(weights["up"] @ weights["down"])
                low = (weights["up"].t() @ hidden + weights["down"] * weights["bias"])[:24, :24]
                loss = (low @ weights["square"] * weights["scale"]).square().mean() * 1e3
                loss.backward()
            assert all((w.grad is None) == release for w in weights.values())
            rule.step(step)
        found.append(weights)
    assert equal(*found)


def _nothing() -> Any:
    from contextlib import nullcontext

    return nullcontext()


@every
def test_what_has_no_gradient_stays_and_costs_nothing(name: str, settings: dict[str, Any]) -> None:
    weights, start = parameters(torch.float32), parameters(torch.float32)
    rule = prepared(name, settings | {"weight_decay": 0.1}, weights)
    for step in range(4):
        for key in ("up", "bias"):
            weights[key].grad = gradient(key, step)
        rule.step(step)
    for key, weight in weights.items():
        assert torch.equal(weight, start[key]) == (key not in ("up", "bias"))
    assert {key.partition(".")[0] for key in rule.state_dict()} <= {"up", "bias"}


@every
def test_nothing_moves_without_gradient_and_none_is_lost_to_what_is_not_finite(
    name: str, settings: dict[str, Any]
) -> None:
    weights, start = parameters(torch.float32), parameters(torch.float32)
    rule = prepared(name, settings, weights)
    for step in range(2):
        for weight in weights.values():
            weight.grad = torch.zeros_like(weight)
        rule.step(step)
    assert all(torch.equal(weights[key], start[key]) for key in SHAPES)
    go(rule, weights, 2, 5)
    assert all(bool(weight.isfinite().all()) for weight in weights.values())
    for bad in (float("nan"), float("inf")):
        before = {key: weight.detach().clone() for key, weight in weights.items()}
        state = {key: tensor.clone() for key, tensor in rule.state_dict().items()}
        weights["up"].grad = gradient("up", 5)
        weights["up"].grad[3, 4] = bad
        with pytest.raises(DivergedError, match="gradient of up"):
            rule.step(5)
        assert equal(before, weights) and equal(state, rule.state_dict())


def test_what_is_not_finite_is_refused_when_all_gradients_are_clipped_together() -> None:
    weights, start = parameters(torch.float32), parameters(torch.float32)
    rule = prepared("adamw", {"clip": 1.0}, weights)
    for key, weight in weights.items():
        weight.grad = gradient(key, 0)
    weights["square"].grad[0, 0] = float("nan")
    with pytest.raises(DivergedError):
        rule.step(0)
    assert equal(weights, start) and rule.state_dict() == {}


@every
def test_what_is_no_matrix_takes_adamws_step(name: str, settings: dict[str, Any]) -> None:
    if name in ("adamw", "adafactor", "lion"):
        pytest.skip("its own rule knows no shapes")
    shapes: dict[str, tuple[int, ...]] = {"bias": (7,), "scale": (), "filter": (3, 2, 4, 4)}
    found = []
    ours = prepared(name, settings | {"learning_rate": 0.01}, {}).config
    same = {key: getattr(ours, key) for key in ("beta1", "beta2", "epsilon")}
    rate = 0.01 * getattr(ours, "others", 1.0)
    for known, chosen in ((name, settings | {"learning_rate": 0.01}), ("adamw", same)):
        weights = {key: torch.nn.Parameter(torch.ones(shape)) for key, shape in shapes.items()}
        rule = prepared(known, chosen if known == name else {"learning_rate": rate} | same, weights)
        for step in range(3):
            for key, weight in weights.items():
                generator = torch.Generator().manual_seed(step)
                weight.grad = torch.randn(shapes[key], generator=generator)
            rule.step(step)
        found.append(weights)
    assert all(torch.allclose(found[0][key], found[1][key], atol=1e-7) for key in shapes)


@every
def test_a_rank_above_the_smaller_side_is_held_to_it(name: str, settings: dict[str, Any]) -> None:
    if "rank" not in settings:
        return
    weights = parameters(torch.float32)
    rule = prepared(name, settings | {"rank": 500}, weights)
    go(rule, weights, 0, 4)
    assert all(bool(weight.isfinite().all()) for weight in weights.values())
    for key, tensor in rule.state_dict().items():
        assert not key.endswith(("basis", "indices")) or len(tensor) == min(
            SHAPES[key.partition(".")[0]]
        )


TOKENS = 16


def copying(name: str, settings: dict[str, Any], rate: float, steps: int = 200) -> float:
    """The last loss of two layers that learn to give their input back."""
    generator = torch.Generator().manual_seed(0)
    layers = {
        "in": torch.nn.Parameter(0.3 * torch.randn(TOKENS, 32, generator=generator)),
        "out": torch.nn.Parameter(0.3 * torch.randn(32, TOKENS, generator=generator)),
        "bias": torch.nn.Parameter(torch.zeros(TOKENS)),
    }
    rule = prepared(name, settings | {"learning_rate": rate}, layers)
    losses = []
    for step in range(steps):
        tokens = torch.randint(0, TOKENS, (32,), generator=generator)
        logits = torch.relu(layers["in"][tokens]) @ layers["out"] + layers["bias"]
        loss = torch.nn.functional.cross_entropy(logits, tokens)
        loss.backward()
        losses.append(float(loss.detach()))
        rule.step(step)
    return sum(losses[-10:]) / 10


@every
def test_it_learns_to_copy(name: str, settings: dict[str, Any]) -> None:
    found = copying(name, settings, 0.05)
    assert found < 0.5, f"{found:.2f} of 2.8 at the start"


def test_mistakes_are_named() -> None:
    for settings in ({"projector": "sdv"}, {"rank": 0}, {"on_refresh": "drop"}, {"refresh": 0}):
        with pytest.raises(ConfigError, match=next(iter(settings))):
            registry.build("optimization", "galore", settings)
    with pytest.raises(ConfigError, match="density"):
        registry.build("optimization", "frugal", {"density": 1.5})
    recipe = Recipe("x", optimization=Choice("dct-adamw", {"rank": 8}))
    assert recipe.with_settings({"optimization.norm": "l2"}).digest != recipe.digest
