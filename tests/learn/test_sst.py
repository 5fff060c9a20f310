"""SST: the spectrum of a matrix in training, against a loop that keeps U, s and V as the paper."""

from pathlib import Path
from typing import Any

import pytest
import torch

from engrain.learn import registry
from engrain.learn.architecture.sst import Sst, SstConfig
from engrain.learn.fold import fold
from engrain.learn.learner import Learner
from engrain.learn.recipe import Choice, Recipe
from engrain.learn.restarts import decomposed, generator
from engrain.learn.technique import Setting
from engrain.learn.testing import check_technique, sample_lesson
from engrain.model.digest import tensor_digest
from engrain.model.testing import tiny_model
from tests.learn.toys import Adam, Toy, resumes

SHORT = {"rank": 2, "draw": 3, "round": 2, "warmup": 1}


def orthonormal(vectors: torch.Tensor) -> bool:
    """Whether the columns are orthogonal and of norm 1."""
    return torch.allclose(vectors.t() @ vectors, torch.eye(vectors.shape[1]), atol=1e-5)


@pytest.mark.parametrize(("m", "n"), [(6, 10), (10, 6)])
def test_it_is_the_papers_loop_on_u_s_v(m: int, n: int) -> None:
    """Over several draws and decompositions, with AdamW written out, in fp64."""
    steps, rate = 20, 0.02
    toy = Toy(m, n, "sst", steps, **SHORT).optimize()
    u, s, v = decomposed(toy.base.double())
    drawn = toy.layer.drawn.clone()
    adams: dict[str, Adam] = {"s": Adam(s)}
    for step in range(steps):
        within, draw = step % 3, step // 3
        if within == 0:
            drawn = toy.layer.drawn.clone()
            adams |= {"u": Adam(u[:, drawn]), "v": Adam(v[drawn])}
        gradient = toy.gradient((u * s) @ v, step)
        enhanced = {"u": gradient @ v[drawn].t(), "v": u[:, drawn].t() @ gradient}
        g_values = torch.stack([u[:, i] @ gradient @ v[i] for i in range(len(s))])
        s = (s + adams["s"].change(g_values)).clamp(min=0)
        # The first step of a draw is half a step: a warm-up of one.
        part = 0.5 if within == 0 else 1.0
        left = u[:, drawn] + part * adams["u"].change(enhanced["u"], rate)
        right = v[drawn] + part * adams["v"].change(enhanced["v"], rate)
        u[:, drawn], v[drawn] = left / left.norm(dim=0), right / right.norm(dim=1, keepdim=True)
        if (draw + 1) % 2 == 0 and within == 2:
            u, s, v = decomposed((u * s) @ v)
            adams["s"] = Adam(s)
        toy.run(step, step + 1)
        assert torch.allclose(toy.delta().double(), (u * s) @ v - toy.base, atol=2e-4), step


def test_the_start_is_the_matrix_to_the_bit_and_its_decomposition() -> None:
    toy = Toy(12, 20, "sst", 4, rank=5)
    layer = toy.layer
    assert torch.allclose((layer.u * layer.s) @ layer.v, toy.base, atol=1e-5)
    assert orthonormal(layer.u) and orthonormal(layer.v.t())
    assert not bool(toy.delta().any())


def test_draws_and_decompositions_leave_the_function_to_the_bit() -> None:
    toy = Toy(12, 20, "sst", 30, rank=3, draw=2, round=2, warmup=0).optimize()
    layer, x = toy.layer, torch.randn(4, 20)
    outputs, put_back = [], layer.put_back

    def watched() -> None:
        outputs.append(toy.model["map"](x))
        put_back()

    layer.put_back = watched
    for step in range(30):
        toy.run(step, step + 1)
        assert len(outputs) == (step + 1) // 2
        if step % 2 == 1:
            assert torch.equal(toy.model["map"](x), outputs[-1])
        weight = toy.base + toy.delta()
        assert torch.allclose((layer.u * layer.values) @ layer.v, weight, atol=1e-5) == (
            step % 2 == 1
        )
        if step % 4 == 3:
            assert orthonormal(layer.u) and orthonormal(layer.v.t())
    assert not orthonormal(toy.run(0, 2).layer.u)


def test_values_stay_at_zero_or_above_and_vectors_have_norm_1() -> None:
    toy = Toy(12, 20, "sst", 30, rank=3, draw=5).optimize(learning_rate=0.5)
    for step in range(30):
        toy.run(step, step + 1)
        assert float(toy.layer.values.detach().min()) >= 0
        for vectors, dim in ((toy.layer.left, 0), (toy.layer.right, 1)):
            norms = torch.linalg.vector_norm(vectors.detach(), dim=dim)
            assert torch.allclose(norms, torch.ones(3), atol=1e-6)
    assert float(toy.layer.values.detach().min()) == 0


def test_only_drawn_vectors_change_within_a_draw_and_all_values() -> None:
    toy = Toy(12, 20, "sst", 8, rank=3, draw=4, warmup=0).optimize()
    layer = toy.layer
    first, drawn = (layer.u.clone(), layer.s.clone(), layer.v.clone()), layer.drawn.clone()
    toy.run(0, 3)
    assert torch.equal(layer.u, first[0]) and torch.equal(layer.v, first[2])
    assert bool((layer.values.detach() != first[1]).all())
    toy.run(3, 4)
    others = [i for i in range(12) if i not in drawn.tolist()]
    assert torch.equal(layer.u[:, others], first[0][:, others])
    assert torch.equal(layer.v[others], first[2][others])
    assert bool((layer.u[:, drawn] != first[0][:, drawn]).any(0).all())


def test_gradients_are_those_of_the_dense_layer_and_enhanced_ones_lack_the_value() -> None:
    toy = Toy(6, 10, "sst", 3, rank=4).optimize()
    toy.run(0, 1)
    layer = toy.layer
    # The same function of the same parameters, with autograd's own gradient.
    leaves = [
        p.detach().clone().requires_grad_(True) for p in (layer.values, layer.left, layer.right)
    ]
    values, left, right = leaves
    u = layer.u.index_copy(1, layer.drawn, left)
    v = layer.v.index_copy(0, layer.drawn, right)
    x, y = toy.data[1]
    (0.5 * (x @ ((u * values) @ v).t() - y).square().sum()).backward()
    toy.backward(1)
    sizes = values.detach()[layer.drawn]
    assert torch.allclose(layer.values.grad, values.grad, atol=1e-3)
    assert torch.allclose(layer.left.grad * sizes, left.grad, atol=1e-3)
    assert torch.allclose(layer.right.grad * sizes[:, None], right.grad, atol=1e-3)


def test_indices_are_drawn_half_evenly_and_half_by_their_value() -> None:
    toy = Toy(12, 20, "sst", 2, rank=1)
    layer = toy.layer
    expected = 0.5 * (1 / 12 + layer.s / layer.s.sum())
    assert torch.allclose(layer.chances(), expected) and float(expected.min()) >= 1 / 24
    found = torch.zeros(12)
    for number in range(4000):
        layer.draw(generator(toy.setting, "test", number))
        found[layer.drawn] += 1
    assert torch.allclose(found / 4000, expected, atol=0.03)
    layer.s.zero_()
    assert torch.allclose(layer.chances(), torch.full((12,), 1 / 12))
    many = Toy(12, 20, "sst", 2, rank=5).layer.drawn.tolist()
    assert len(set(many)) == 5


def test_there_is_no_dead_start_after_a_decomposition() -> None:
    toy = Toy(12, 20, "sst", 10, rank=3, draw=2, round=1).optimize().run(0, 4)
    toy.backward(4)
    for name in ("left", "right", "values"):
        assert float(getattr(toy.layer, name).grad.norm()) > 1e-2


def test_a_small_step_is_the_first_order_change() -> None:
    toy = Toy(8, 8, "sst", 2, rank=8, warmup=0, draw=9).optimize("sgd", learning_rate=1e-4)
    layer = toy.layer
    u, s, v = layer.u.double(), layer.s.double(), layer.v.double()
    toy.run(0, 1)
    order = layer.drawn.argsort()
    du = layer.left.detach().double()[:, order] - u
    dv = layer.right.detach().double()[order] - v
    ds = layer.values.detach().double() - s
    wanted = (du * s) @ v + (u * ds) @ v + (u * s) @ dv
    assert float((toy.delta() - wanted).norm() / wanted.norm()) < 1e-2
    assert float(wanted.norm()) > 0


def test_moments_begin_anew_where_their_vectors_do() -> None:
    toy = Toy(12, 20, "sst", 30, rank=3, draw=2, round=2).optimize()
    counted = []
    for step in range(8):
        toy.step(step)
        state = toy.optimization.state_dict()
        counted.append([int(state[f"map.{part}.step"]) for part in ("values", "left", "right")])
        toy.architecture.stepped(step, toy.optimization)
    assert counted == [[1, 1, 1], [2, 2, 2], [3, 1, 1], [4, 2, 2]] * 2


def test_state_has_the_bytes_that_it_says() -> None:
    toy = Toy(12, 20, "sst", 4, rank=3).optimize().run(0, 1)
    live = sum(tensor.nbytes for tensor in toy.optimization.state_dict().values())
    assert live == toy.optimization.state_bytes(toy.architecture.would_train(toy.setting))
    assert live == 8 * (3 * (12 + 20) + 12) + 3 * 4
    layer = toy.layer
    held = [layer.u, layer.s, layer.v, layer.moved, layer.moved, *layer.held.values()]
    held += [layer.values, layer.left, layer.right]
    assert sum(t.nbytes for t in held) == toy.architecture.working_bytes(toy.setting)


def test_ranks_above_the_spectrum_take_all_of_it() -> None:
    toy = Toy(6, 10, "sst", 4, rank=99).optimize().run()
    assert sorted(toy.layer.drawn.tolist()) == list(range(6))


# ---------------------------------------------------------------------------- on models


def recipe(release: bool = False) -> Recipe:
    return Recipe(
        "spectral",
        architecture=Choice("sst", SHORT),
        optimization=Choice("adamw", {"clip": 0.0}),
        batch_size=2,
        min_steps=8,
        max_steps=8,
        gradient_release=release,
    )


def test_the_suite_holds_while_it_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    class Short(SstConfig):
        def __init__(self, **settings: Any) -> None:
            super().__init__(**(SHORT | settings))

    cls: Any = registry.get("architecture", "sst")
    assert cls is Sst
    monkeypatch.setattr(cls, "Config", Short)
    assert len(check_technique("architecture", "sst")) == 9


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_served_model_is_the_trained_one(kind: str) -> None:
    loaded = tiny_model(kind)
    setting = Setting(loaded, sample_lesson(), steps=8)
    ids = torch.tensor([[5, 9, 77, 30, 21]])
    mask = torch.ones_like(ids)
    architecture: Any = registry.build("architecture", "sst", SHORT)
    optimization: Any = registry.build("optimization", "adamw", {"clip": 0.0})
    base = {name: tensor.clone() for name, tensor in loaded.weights().items()}
    architecture.attach(setting)
    optimization.prepare(architecture.parameters(), setting)
    for step in range(7):
        optimization.begin(step)
        loaded.model(ids, attention_mask=mask, labels=ids).loss.backward()
        optimization.step(step)
        architecture.stepped(step, optimization)
    with torch.no_grad():
        trained = loaded.model(ids, attention_mask=mask).logits
    adapter = architecture.adapter()
    architecture.detach()
    assert loaded.changed_since(base) == []
    loaded.set_weights(fold(base, [adapter]))
    with torch.no_grad():
        assert torch.allclose(trained, loaded.model(ids, attention_mask=mask).logits, atol=1e-4)


def test_steps_inside_backward_are_the_ordinary_ones() -> None:
    one, other = (
        Learner(recipe(release)).run(tiny_model("llama"), sample_lesson())
        for release in (False, True)
    )
    assert one.losses == other.losses and len(set(one.losses)) == 8
    assert tensor_digest(dict(one.adapter.tensors)) == tensor_digest(dict(other.adapter.tensors))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_resumes_before_at_and_after_draws_and_decompositions(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    resumes(recipe(), tmp_path, dtype, (2, 3, 4, 5, 6, 7))
