"""State that is dropped in part or turned, and low-rank factors that are balanced anew."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from engrain.errors import ConfigError
from engrain.learn import registry
from engrain.learn.learner import Learner
from engrain.learn.optimization.refactor import Refactor
from engrain.learn.recipe import Choice, Recipe
from engrain.learn.restarts import decomposed, ease, refactored
from engrain.learn.technique import Setting
from engrain.learn.testing import sample_lesson
from engrain.learn.update import by_vector, vectors_of
from engrain.model.hardware import set_compute
from engrain.model.testing import tiny_model
from tests.learn.toys import PLAIN, Adam, resumes


def prepared(parameters: dict[str, nn.Parameter], name: str = "adamw", **settings: Any) -> Any:
    optimization: Any = registry.build("optimization", name, PLAIN | settings)
    optimization.prepare(parameters, Setting(tiny_model("llama"), sample_lesson(), steps=100))
    return optimization


def gradients(count: int, *shape: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(*shape, generator=generator) for _ in range(count)]


# ---------------------------------------------------------------------------- vectors, one by one


@pytest.mark.parametrize("dim", [0, 1])
def test_vectors_are_as_parameters_of_their_own_that_begin_anew(dim: int) -> None:
    """Against torch's AdamW on each vector, made afresh where the vector is forgotten."""
    start = torch.randn(4, 6)
    weight = by_vector(nn.Parameter(start.clone()), dim)
    ours = prepared({"w": weight}, weight_decay=0.1)

    def fresh(vector: torch.Tensor) -> tuple[nn.Parameter, torch.optim.Optimizer]:
        own = nn.Parameter(vector.clone())
        return own, torch.optim.AdamW([own], lr=0.02, betas=(0.9, 0.99), weight_decay=0.1)

    theirs = [fresh(vector) for vector in start.unbind(dim)]
    for step, gradient in enumerate(gradients(30, 4, 6)):
        weight.grad = gradient.clone()
        ours.step(step)
        for (own, optimizer), part in zip(theirs, gradient.unbind(dim), strict=True):
            own.grad = part.clone()
            optimizer.step()
        assert torch.allclose(weight, torch.stack([own for own, _ in theirs], dim), atol=1e-5)
        if step % 7 == 3:
            for place in (1, step % 4):
                ours.forget("w", [place])
                theirs[place] = fresh(theirs[place][0].detach())
    assert ours.state_dict()["w.step"].unique().numel() > 1


def test_step_counts_by_vector_are_the_fused_step() -> None:
    one, other = nn.Parameter(torch.ones(4, 6)), by_vector(nn.Parameter(torch.ones(4, 6)), 0)
    fused, counted = (
        prepared({"w": one}, weight_decay=0.1),
        prepared({"w": other}, weight_decay=0.1),
    )
    for step, gradient in enumerate(gradients(50, 4, 6)):
        one.grad, other.grad = gradient.clone(), gradient.clone()
        fused.step(step)
        counted.step(step)
    assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "settings", "parted"),
    [
        ("adamw", {}, True),
        ("adamw", {"rounding": "kahan"}, True),
        ("sgd", {"momentum": 0.9}, True),
        ("sgd", {}, True),
        ("sign", {"momentum": 0.9}, True),
        ("apollo", {"rank": 4, "limiter": 1.01}, False),
    ],
)
def test_what_holds_all_vectors_together_is_dropped_whole(
    name: str, settings: dict[str, Any], parted: bool
) -> None:
    dtype = torch.bfloat16 if "rounding" in settings else torch.float32
    weight = by_vector(nn.Parameter(torch.ones(4, 6, dtype=dtype)), 1)
    optimization = prepared({"w": weight}, name, **settings)
    for step, gradient in enumerate(gradients(3, 4, 6)):
        weight.grad = gradient.to(dtype)
        optimization.step(step)
    said = optimization.state_bytes({"w": weight})
    before = {key: tensor.clone() for key, tensor in optimization.state_dict().items()}
    assert sum(tensor.nbytes for tensor in before.values()) == said
    optimization.forget("w", [0, 5])
    after = optimization.state_dict()
    assert set(after) == (set(before) if parted else set())
    for key, tensor in after.items():
        assert not bool(tensor[:, [0, 5]].any()), key
        assert torch.equal(tensor[:, 1:5], before[key][:, 1:5])
    assert vectors_of(weight) == 1 and vectors_of(nn.Parameter(torch.ones(2))) is None
    optimization.forget("w")
    assert optimization.state_dict() == {}


def test_moments_are_turned_with_the_coordinates() -> None:
    basis = torch.randn(4, 4)
    for dim, shape in ((0, (4, 6)), (1, (6, 4))):
        weight, turned = nn.Parameter(torch.ones(shape)), nn.Parameter(torch.ones(shape))
        optimization = prepared({"w": weight, "t": turned})
        for step, gradient in enumerate(gradients(5, *shape)):
            weight.grad = gradient.clone()
            turned.grad = basis @ gradient if dim == 0 else gradient @ basis.t()
            optimization.step(step)
        optimization.turn("w", basis, dim)
        state = optimization.state_dict()
        assert torch.allclose(state["w.exp_avg"], state["t.exp_avg"], atol=1e-5)
        assert float(state["w.exp_avg_sq"].min()) >= 0
        assert int(state["w.step"]) == 5
        # Signs and places change no square.
        before = state["w.exp_avg_sq"].clone()
        swap = torch.tensor([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 0, -1], [0, 0, 1, 0]])
        optimization.turn("w", swap, dim)
        assert torch.equal(
            state["w.exp_avg_sq"].movedim(dim, 0)[[1, 0, 3, 2]].movedim(0, dim), before
        )
    weight = nn.Parameter(torch.ones(4, 6))
    apollo = prepared({"w": weight}, "apollo", rank=4)
    weight.grad = torch.ones(4, 6)
    apollo.step(0)
    apollo.turn("w", basis, 0)
    assert apollo.state_dict() == {}


def test_steps_are_eased_in() -> None:
    parts = []
    for taken in range(4):
        weight = torch.full((3,), 8.0)
        ease(torch.zeros(3), weight, taken, 3)
        parts.append(float(weight[0]) / 8)
    assert parts == [0.25, 0.5, 0.75, 1.0]


# ---------------------------------------------------------------------------- factors


@pytest.mark.parametrize(
    ("m", "rank", "n"), [(12, 4, 20), (20, 4, 12), (6, 6, 6), (3, 5, 9), (9, 5, 3)]
)
def test_factors_are_balanced_and_their_product_stays(m: int, rank: int, n: int) -> None:
    b, a = gradients(1, m, rank)[0], 30 * gradients(1, rank, n)[0]
    new, product = refactored(b, a, 1e-6), b @ a
    assert float((new.b @ new.a - product).norm() / product.norm()) < 1e-6
    values = torch.linalg.svdvals(product)[: min(m, n, rank)]
    assert torch.allclose(new.values[: len(values)], values, rtol=1e-5)
    assert torch.allclose(new.b.t() @ new.b, new.values.diag(), atol=1e-4 * float(values[0]))
    count = len(values)
    gram = (new.a @ new.a.t())[:count, :count]
    assert torch.allclose(gram, values.diag(), atol=1e-4 * float(values[0]))
    # As small as factors of this product can be, and as a decomposition of it gives them.
    squares = float(new.b.square().sum() + new.a[:count].square().sum())
    assert squares == pytest.approx(2 * float(values.sum()), rel=1e-5)
    u, s, v = decomposed(product)
    assert torch.allclose(new.b[:, :count], (u * s.sqrt())[:, :count], atol=1e-4)
    assert torch.allclose(new.a[:count], (s.sqrt()[:, None] * v)[:count], atol=1e-4)
    # They come from the old ones as the bases say, and a second time nothing is left to do.
    assert torch.allclose(b @ new.into, new.b, atol=1e-4)
    assert torch.allclose((new.onto @ a)[:count], new.a[:count], atol=1e-4)
    again = refactored(new.b, new.a, 1e-6)
    assert torch.allclose(again.b, new.b, atol=1e-4)
    assert torch.allclose(again.a[:count], new.a[:count], atol=1e-4)


def test_dead_directions_keep_a_row_that_can_wake() -> None:
    b, a = gradients(1, 12, 5)[0], gradients(1, 5, 20)[0]
    for dead in (2, 5):
        b[:, 5 - dead :] = 0
        new = refactored(b, a, 1e-6)
        assert torch.allclose(new.b @ new.a, b @ a, atol=1e-5)
        alive = new.values > 0
        assert int(alive.sum()) == 5 - dead
        assert not bool(new.b[:, ~alive].any())
        rows = new.a[~alive]
        expected = (a.norm() / 5**0.5).expand(dead)
        assert torch.allclose(rows.norm(dim=1), expected, rtol=1e-5)
        assert torch.allclose(rows @ new.a[alive].t(), torch.zeros(dead, 5 - dead), atol=1e-4)
        assert all(bool(torch.isfinite(t).all()) for t in (new.b, new.a, new.into, new.onto))


def pair(rule: dict[str, Any], **settings: Any) -> tuple[Any, Refactor, dict[str, nn.Parameter]]:
    generator = torch.Generator().manual_seed(3)
    parameters = {
        "x.lora_A.default.weight": nn.Parameter(torch.randn(3, 10, generator=generator)),
        "x.lora_B.default.weight": nn.Parameter(torch.randn(6, 3, generator=generator)),
    }
    optimization = prepared(parameters, **settings)
    refactor: Any = registry.build("optimization", "refactor", rule)
    optimization.follow([refactor], Setting(tiny_model("llama"), sample_lesson()))
    return optimization, refactor, parameters


def step_pair(optimization: Any, parameters: dict[str, nn.Parameter], step: int) -> torch.Tensor:
    """One step down a fixed quadratic of the product; gives its gradient."""
    a, b = parameters.values()
    target = torch.randn(6, 10, generator=torch.Generator().manual_seed(step))
    gradient = (b @ a).detach() - target
    a.grad, b.grad = b.detach().t() @ gradient, gradient @ a.detach().t()
    optimization.begin(step)
    optimization.step(step)
    return gradient


def test_refactor_and_reset_follow_a_plain_loop() -> None:
    """Refactored by an SVD of the product and reset, in fp64, over two restarts of either."""
    optimization, _, parameters = pair({"interval": 4, "reset": 4, "warmup": 1})
    a, b = (parameter.detach().double() for parameter in parameters.values())
    adams = [Adam(a), Adam(b)]
    for step in range(12):
        target = torch.randn(6, 10, generator=torch.Generator().manual_seed(step)).double()
        gradient = b @ a - target
        part = 0.5 if step in (4, 8) else 1.0
        a, b = (
            a + part * adams[0].change(b.t() @ gradient),
            b + part * adams[1].change(gradient @ a.t()),
        )
        step_pair(optimization, parameters, step)
        if step % 4 == 3:
            u, s, v = decomposed(b @ a)
            b, a = (u * s.sqrt())[:, :3], (s.sqrt()[:, None] * v)[:3]
            adams = [Adam(a), Adam(b)]
            assert optimization.state_dict() == {}
        ours_a, ours_b = parameters.values()
        assert torch.allclose(ours_a.double(), a, atol=1e-4), step
        assert torch.allclose(ours_b.double(), b, atol=1e-4), step


def test_the_first_step_after_a_reset_has_the_size_of_the_rate() -> None:
    optimization, _, parameters = pair({"interval": 0, "reset": 3})
    for step in range(3):
        step_pair(optimization, parameters, step)
    a, b = parameters.values()
    before, other = a.detach().clone(), b.detach().clone()
    gradient = other.t() @ step_pair(optimization, parameters, 3)
    assert torch.allclose(a - before, -0.02 * gradient.sign(), atol=1e-5)


def test_without_a_reset_moments_follow_the_factors() -> None:
    """The first moment is what it would be, had the gradients come in the new coordinates."""
    optimization, _, parameters = pair({"interval": 3, "reset": 0}, learning_rate=0.0)
    a, b = (parameter.detach().clone() for parameter in parameters.values())
    new = refactored(b, a, 1e-6)
    mean_a, mean_b = torch.zeros(3, 10), torch.zeros(6, 3)
    for step in range(3):
        gradient = step_pair(optimization, parameters, step)
        mean_a = 0.9 * mean_a + 0.1 * new.b.t() @ gradient
        mean_b = 0.9 * mean_b + 0.1 * gradient @ new.a.t()
    state = optimization.state_dict()
    assert torch.allclose(parameters["x.lora_A.default.weight"], new.a, atol=1e-5)
    assert torch.allclose(state["x.lora_A.default.weight.exp_avg"], mean_a, atol=1e-4)
    assert torch.allclose(state["x.lora_B.default.weight.exp_avg"], mean_b, atol=1e-4)
    assert int(state["x.lora_A.default.weight.step"]) == 3


def test_restarts_come_when_they_are_due(monkeypatch: pytest.MonkeyPatch) -> None:
    optimization, refactor, parameters = pair({"interval": 2, "reset": 3})
    done: list[tuple[str, int]] = []
    now = 0
    monkeypatch.setattr(refactor, "_refactor", lambda b, a: done.append(("refactor", now)))
    monkeypatch.setattr(optimization, "forget", lambda name: done.append((name[2:8], now)))
    for now in range(7):
        step_pair(optimization, parameters, now)
    resets = [(name, step) for step in (2, 5) for name in ("lora_B", "lora_A")]
    assert [d for d in done if d[0] == "refactor"] == [
        ("refactor", 1),
        ("refactor", 3),
        ("refactor", 5),
    ]
    assert [d for d in done if d[0] != "refactor"] == resets


# ---------------------------------------------------------------------------- on models


def recipe(**settings: Any) -> Recipe:
    return Recipe(
        "restarts",
        architecture=Choice("lora", {"rank": 4}),
        optimization=Choice("adamw", {"clip": 0.0}),
        rules=(Choice("refactor", {"interval": 2, "reset": 4, "warmup": 1} | settings),),
        batch_size=2,
        min_steps=8,
        max_steps=8,
    )


def test_the_model_is_the_same_before_and_after(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, ids = tiny_model("llama"), torch.tensor([[5, 9, 77, 30]])
    seen: list[bool] = []
    refactor = Refactor.end

    def watched(self: Refactor, step: int) -> None:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            before, factors = loaded.model(ids).logits, self.optimization._parameters
            old = {name: factor.detach().clone() for name, factor in factors.items()}
            refactor(self, step)
            after = loaded.model(ids).logits
            changed = any(not torch.equal(old[name], factors[name]) for name in old)
        assert changed == (step % 2 == 1)
        seen.append(torch.allclose(before, after, atol=1e-4))

    monkeypatch.setattr(Refactor, "end", watched)
    set_compute("float32")
    try:
        result = Learner(recipe()).run(loaded, sample_lesson())
    finally:
        set_compute()
    assert seen == [True] * 8
    # The scale is left alone, and the factors on disk are balanced.
    assert result.adapter.settings["lora_alpha"] / result.adapter.settings["r"] == 8
    for name, a in result.adapter.tensors.items():
        if "lora_A" in name:
            b = result.adapter.tensors[name.replace("lora_A", "lora_B")]
            assert torch.allclose(a @ a.t(), b.t() @ b, atol=1e-4)


def test_it_is_refused_where_there_are_no_factors() -> None:
    plain = recipe().with_settings({"architecture": "full"})
    with pytest.raises(ConfigError, match="architecture trains none") as caught:
        Learner(plain).run(tiny_model("llama"), sample_lesson())
    assert "lora" in caught.value.remedy


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("reset", [4, 0])
def test_it_resumes_before_at_and_after_a_restart(
    reset: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    resumes(recipe(reset=reset), tmp_path, dtype, (3, 4, 5))
