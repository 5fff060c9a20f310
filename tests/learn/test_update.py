"""Parameters that move one by one: the step inside backward is the ordinary step."""

import itertools
import math
from typing import Any

import pytest
import torch

from engrain.data.lessons import Lesson
from engrain.errors import ConfigError
from engrain.learn import registry
from engrain.learn.learner import Learner
from engrain.learn.optimization.apollo import Apollo
from engrain.learn.recipe import Choice, Recipe
from engrain.learn.technique import Setting
from engrain.learn.testing import sample_lesson
from engrain.learn.update import GradientRelease, PerParameter
from engrain.model.digest import tensor_digest
from engrain.model.testing import tiny_model

RULES = [
    ("adamw", {"clip": 0.0}),
    ("adamw", {"clip": 0.5, "clip_scope": "each"}),
    ("sgd", {"clip": 0.0, "momentum": 0.5}),
    ("sign", {"weight_decay": 0.1}),
    ("apollo", {"rank": 4}),
    ("apollo", {"rank": 1, "granularity": "tensor"}),
]


def run(release: bool, name: str, settings: dict, dtype: torch.dtype = torch.float32) -> Any:
    loaded = tiny_model("llama")
    loaded.model.to(dtype)
    recipe = Recipe(
        "release",
        architecture=Choice("full", {"embeddings": True}),
        optimization=Choice(name, settings),
        batch_size=2,
        min_steps=5,
        max_steps=5,
        gradient_release=release,
    )
    return Learner(recipe).run(loaded, sample_lesson())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "settings"), RULES)
def test_step_inside_backward_is_the_ordinary_step(
    name: str, settings: dict, dtype: torch.dtype
) -> None:
    ordinary, released = run(False, name, settings, dtype), run(True, name, settings, dtype)
    assert ordinary.losses == released.losses
    assert len(set(ordinary.losses)) == 5
    first, second = dict(ordinary.adapter.tensors), dict(released.adapter.tensors)
    assert tensor_digest(first) == tensor_digest(second)
    assert all(bool(delta.abs().sum() > 0) for n, delta in first.items() if "embed" not in n)


def test_one_gradient_is_alive_at_a_time() -> None:
    loaded = tiny_model("llama", layers=6)
    model = loaded.model
    names = [n for n, _ in model.named_parameters() if "layers" in n]
    parameters = {n: p.requires_grad_(True) for n, p in model.named_parameters() if n in names}
    sgd = registry.build("optimization", "sgd", {"clip": 0.0})
    assert isinstance(sgd, PerParameter)
    sgd.prepare(parameters, Setting(loaded, Lesson("x", "", ())))
    alive: list[int] = []
    update = sgd.update

    def watched(name: str, step: int) -> None:
        alive.append(sum(p.grad is not None for p in parameters.values()))
        update(name, step)

    sgd.update = watched  # type: ignore[method-assign]
    with GradientRelease(sgd, parameters).hooked(lambda: 0):
        model(torch.arange(8)[None], use_cache=False).logits.square().mean().backward()
    assert alive == [1] * len(names)
    assert all(p.grad is None for p in parameters.values())


def test_what_couples_parameters_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"optimization\.clip needs the norm of all") as caught:
        run(True, "adamw", {})
    assert "clip_scope" in caught.value.remedy


@pytest.mark.parametrize("mode", ["nearest", "stochastic", "kahan"])
def test_bf16_weights_follow_fp32_ones(mode: str) -> None:
    """A tenth of a bf16 step at a time: nearest stands still, the others keep up."""
    loaded = tiny_model("llama")
    sgd = registry.build(
        "optimization",
        "sgd",
        {"clip": 0.0, "rounding": mode, "learning_rate": 1.0, "warmup": 0, "final_fraction": 1},
    )
    assert isinstance(sgd, PerParameter)
    weight = torch.nn.Parameter(torch.ones(64, 64, dtype=torch.bfloat16))
    sgd.prepare({"w": weight}, Setting(loaded, Lesson("x", "", ()), steps=100))
    for step in range(100):
        weight.grad = torch.full_like(weight, 2**-11)
        sgd.step(step)
    moved = 1 - float(weight.detach().float().mean())
    expected = 0.0 if mode == "nearest" else 100 * 2**-11
    assert moved == pytest.approx(expected, abs=2e-3)
    state = sum(t.nbytes for t in sgd.state_dict().values())
    assert state == sgd.state_bytes({"w": weight}) == (weight.nbytes if mode == "kahan" else 0)


@pytest.mark.parametrize(("name", "settings"), RULES)
def test_state_has_the_bytes_that_it_says(name: str, settings: dict) -> None:
    loaded = tiny_model("llama")
    rule = registry.build("optimization", name, settings)
    assert isinstance(rule, PerParameter)
    parameters = dict(loaded.model.named_parameters())
    rule.prepare(parameters, Setting(loaded, Lesson("x", "", ())))
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    rule.step(0)
    assert sum(t.nbytes for t in rule.state_dict().values()) == rule.state_bytes(parameters)


def test_adamw_is_torchs() -> None:
    torch.manual_seed(0)
    start = torch.randn(8, 5)
    ours = torch.nn.Parameter(start.clone())
    theirs = torch.nn.Parameter(start.clone())
    settings = {"clip": 0.0, "weight_decay": 0.1, "warmup": 0.0, "final_fraction": 1.0}
    rule = registry.build("optimization", "adamw", settings)
    assert isinstance(rule, PerParameter)
    rule.prepare({"w": ours}, Setting(tiny_model("llama"), Lesson("x", "", ()), steps=50))
    reference = torch.optim.AdamW([theirs], lr=2e-3, betas=(0.9, 0.99), weight_decay=0.1)
    for step in range(50):
        gradient = torch.randn(8, 5)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        rule.step(step)
        reference.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


# APOLLO (arXiv 2412.05270)


def apollo(shape: tuple[int, int], **settings: Any) -> tuple[Apollo, torch.nn.Parameter]:
    defaults = {"warmup": 0.0, "final_fraction": 1.0, "learning_rate": 1.0, "limiter": 0.0}
    rule = registry.build("optimization", "apollo", defaults | settings)
    assert isinstance(rule, Apollo)
    weight = torch.nn.Parameter(torch.zeros(shape))
    rule.prepare({"w": weight}, Setting(tiny_model("llama"), Lesson("x", "", ()), steps=500))
    return rule, weight


def moved(rule: Apollo, weight: torch.nn.Parameter, gradient: torch.Tensor, step: int) -> Any:
    before = weight.detach().clone()
    weight.grad = gradient.clone()
    rule.step(step)
    return before - weight.detach()


def test_apollo_follows_its_equations() -> None:
    """Against a plain loop in fp64, over two draws of the projection."""
    torch.manual_seed(0)
    m, n, rank, refresh = 6, 10, 3, 4
    rule, weight = apollo((m, n), rank=rank, refresh=refresh, limiter=1.01, scale=2.0)
    first, second = torch.zeros(rank, n).double(), torch.zeros(rank, n).double()
    last = None
    for step in range(10):
        gradient = torch.randn(m, n)
        change = moved(rule, weight, gradient, step)
        projection = rule.projection("w", rank, m, step // refresh).double()
        projected = projection @ gradient.double()
        first = 0.9 * first + 0.1 * projected
        second = 0.999 * second + 0.001 * projected**2
        adapted = first / (second.sqrt() + 1e-6)
        scaled = gradient.double() * adapted.norm(dim=0) / (projected.norm(dim=0) + 1e-8)
        norm = scaled.norm()
        if last is not None and norm > 1.01 * last:
            scaled, norm = scaled * 1.01 * last / norm, 1.01 * last
        last = norm
        correction = math.sqrt(1 - 0.999 ** (step + 1)) / (1 - 0.9 ** (step + 1))
        assert torch.allclose(change.double(), correction * math.sqrt(2) * scaled, rtol=1e-3)


def test_apollo_channel_is_parallel_to_the_gradient_and_tensor_is_one_factor() -> None:
    gradient = torch.randn(6, 10)
    change = moved(*apollo((6, 10), rank=2), gradient, 0)
    cosine = torch.nn.functional.cosine_similarity(change, gradient, dim=0)
    assert torch.allclose(cosine, torch.ones(10), atol=1e-5)
    whole = moved(*apollo((6, 10), rank=1, granularity="tensor"), gradient, 0)
    ratio = whole / gradient
    assert torch.allclose(ratio, ratio[0, 0].expand(6, 10), rtol=1e-4)


def test_apollo_on_the_transposed_problem_is_the_transposed_step() -> None:
    gradient = torch.randn(6, 10)
    change = moved(*apollo((6, 10), rank=2), gradient, 0)
    turned = moved(*apollo((10, 6), rank=2), gradient.t(), 0)
    assert torch.allclose(change, turned.t(), atol=1e-6)


def test_apollo_projection_shrinks_factors_as_the_scale_says() -> None:
    """sqrt(rank / m), equation 9: the mean factor of a projected gradient against the true one."""
    torch.manual_seed(0)
    m, n, rank = 128, 256, 32
    small, full = apollo((m, n), rank=rank, scale=1.0), apollo((m, n), rank=m, scale=1.0)
    for step in range(20):
        gradient = torch.randn(m, n)
        one, other = moved(*small, gradient, step), moved(*full, gradient, step)
    ratio = float((one.norm(dim=0) / other.norm(dim=0)).mean())
    assert ratio == pytest.approx(math.sqrt(rank / m), rel=0.05)


def test_apollo_limits_growth_and_stands_still_without_gradient() -> None:
    rule, weight = apollo((6, 10), rank=2, limiter=1.01, scale=1.0)
    norms = []
    for step in range(6):
        moved(rule, weight, torch.randn(6, 10) * 10**step, step)
        norms.append(float(rule.state_dict()["w.norm"]))
    assert all(b <= 1.0101 * a for a, b in itertools.pairwise(norms))
    rule, weight = apollo((6, 10), rank=2)
    assert not bool(moved(rule, weight, torch.zeros(6, 10), 0).any())
