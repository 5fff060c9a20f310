"""The projected family and the plain optimizers against their equations and invariants."""

from __future__ import annotations

import itertools
import math
import warnings
from typing import Any

import pytest
import torch

from engrain.errors import EngrainWarning
from engrain.learn import blockwise, projected, registry
from engrain.learn.optimization.frugal import Frugal
from engrain.learn.optimization.muon import orthogonal
from engrain.learn.projected import Projected
from engrain.learn.projectors import KINDS, basis_of
from engrain.learn.technique import Setting
from engrain.learn.testing import sample_lesson
from engrain.learn.update import PerParameter
from engrain.model import kernels
from engrain.model.hardware import COMPUTE_TYPES, set_compute
from tests.learn import projected_references as plain

CONSTANT = {"learning_rate": plain.RATE, "warmup": 0.0, "final_fraction": 1.0, "clip": 0.0}
SHAPES = [(6, 10), (10, 6), (6, 6)]
RANKED = [
    name
    for name in registry.names("optimization")
    if issubclass(registry.get("optimization", name), PerParameter)
    and hasattr(registry.get("optimization", name).Config, "rank")
]


def built(name: str, *shapes: tuple[int, ...], **settings: Any) -> tuple[Any, dict[str, Any]]:
    """A rule over weights of 0 named w0, w1, ..."""
    rule = registry.build("optimization", name, CONSTANT | settings)
    assert isinstance(rule, PerParameter)
    weights = {f"w{i}": torch.nn.Parameter(torch.zeros(shape)) for i, shape in enumerate(shapes)}
    nothing: Any = None
    rule.prepare(weights, Setting(nothing, sample_lesson(), steps=1000, seed=5))
    return rule, weights


def gradients(shape: tuple[int, ...], count: int = 12) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shared = torch.randn(shape, generator=generator)
    return [shared + torch.randn(shape, generator=generator) for _ in range(count)]


def take(rule: Any, weight: Any, gradient: torch.Tensor, step: int) -> torch.Tensor:
    """One step; gives the change."""
    before = weight.detach().clone()
    weight.grad = gradient.clone()
    rule.step(step)
    return weight.detach() - before


def path(name: str, shape: tuple[int, int], **settings: Any) -> list[torch.Tensor]:
    """The weight after each step, in fp64."""
    rule, weights = built(name, shape, **settings)
    found = []
    for step, gradient in enumerate(gradients(shape)):
        take(rule, weights["w0"], gradient, step)
        found.append(weights["w0"].detach().double().clone())
    return found


def assert_same(found: list[torch.Tensor], expected: list[torch.Tensor], turned: bool) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        one = plain.wide(one) if turned else one
        assert float((one - other).norm()) < 2e-4 * float(other.norm())


def dues(name: str, shape: tuple[int, int], **settings: Any) -> Any:
    rule, _ = built(name, shape, **settings)
    found = [rule.due("w0", t) for t in range(12)]
    assert sum(found) >= 3, "the path crosses two refreshes"
    return lambda t: found[t]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [2, 6])
def test_galore_follows_its_equations(shape: tuple[int, int], rank: int) -> None:
    settings = {"rank": rank, "refresh": 4, "scale": 0.5}
    expected = plain.galore(gradients(shape), rank, dues("galore", shape, **settings), 0.5)
    for kind in ("gram", "svd"):
        assert_same(path("galore", shape, projector=kind, **settings), expected, True)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@pytest.mark.parametrize("how", ["keep", "reset"])
def test_fira_follows_its_equations(shape: tuple[int, int], granularity: str, how: str) -> None:
    settings = {"rank": 2, "refresh": 4, "scale": 0.5, "on_refresh": how}
    due = dues("fira", shape, **settings)
    whole, reset = granularity == "tensor", how == "reset"
    expected = plain.fira(gradients(shape), 2, due, 0.5, whole, reset)
    assert_same(path("fira", shape, granularity=granularity, **settings), expected, True)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("choose", ["columns", "randk"])
def test_frugal_follows_its_equations(shape: tuple[int, int], choose: str) -> None:
    settings = {"density": 0.5, "refresh": 4, "choose": choose, "weight_decay": 0.1}
    rule, _ = built("frugal", shape, **settings)

    def mask(t: int) -> torch.Tensor:
        chosen = rule.chosen("w0", torch.Size(shape), rule.draw("w0", t))
        found = torch.zeros(shape, dtype=torch.bool)
        (found.view(-1) if choose == "randk" else found.t())[chosen] = True
        assert int(found.sum()) == (shape[0] * shape[1]) // 2
        return found

    expected = plain.frugal(gradients(shape), mask, dues("frugal", shape, **settings), 0.1)
    assert_same(path("frugal", shape, **settings), expected, False)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("refresh", "rotate"), [(1, False), (4, True)])
def test_dct_adamw_follows_its_equations(
    shape: tuple[int, int], refresh: int, rotate: bool
) -> None:
    settings = {"rank": 3, "refresh": refresh, "on_refresh": "rotate" if rotate else "keep"}
    due = dues("dct-adamw", shape, **settings)
    expected = plain.dct(gradients(shape), 3, due, rotate)
    assert_same(path("dct-adamw", shape, error="whole", **settings), expected, True)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("error", [False, True])
def test_ldadamw_follows_its_equations(shape: tuple[int, int], error: bool) -> None:
    expected = plain.ldadamw(gradients(shape), 2, error)
    assert_same(path("ldadamw", shape, rank=2, error=error), expected, True)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("factor", ["match_rms", "original"])
def test_muon_and_trion_follow_their_equations(shape: tuple[int, int], factor: str) -> None:
    number = math.sqrt(max(1, shape[0] / shape[1]))
    number = 0.2 * math.sqrt(max(shape)) if factor == "match_rms" else number
    found = gradients(shape)
    settings = {"factor": factor, "iteration": "float32"}
    assert_same(path("muon", shape, **settings), plain.muon(found, number), True)
    assert_same(path("trion", shape, rank=3, **settings), plain.trion(found, 3, number), True)


def test_lion_follows_its_equations() -> None:
    shape = (6, 10)
    assert_same(path("lion", shape, weight_decay=0.1), plain.lion(gradients(shape)), False)


def test_adafactor_is_torchs() -> None:
    for shape in ((6, 10), (10, 6), (7,), ()):
        rule, weights = built("adafactor", shape, weight_decay=0.1)
        other = torch.nn.Parameter(torch.zeros(shape))
        # torch lets the rate fall by itself, but not while it is below 1 / sqrt(step).
        reference = torch.optim.Adafactor([other], lr=plain.RATE, weight_decay=0.1)
        for step, gradient in enumerate(gradients(shape)):
            take(rule, weights["w0"], gradient, step)
            other.grad = gradient.clone()
            reference.step()
            assert torch.allclose(weights["w0"], other, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("iteration", COMPUTE_TYPES)
def test_muon_is_torchs(iteration: str) -> None:
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    rule, weights = built("muon", (32, 48), weight_decay=0.1, iteration=iteration)
    other = torch.nn.Parameter(torch.zeros(32, 48))
    reference = torch.optim.Muon(
        [other], lr=plain.RATE, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
    )
    for step, gradient in enumerate(gradients((32, 48), 5)):
        take(rule, weights["w0"], gradient, step)
        other.grad = gradient.clone()
        reference.step()
    # torch iterates in bf16, which has three digits.
    off = (weights["w0"] - other).detach().norm()
    assert float(off) < 0.03 * float(other.detach().norm())


@pytest.mark.parametrize("iteration", COMPUTE_TYPES)
@pytest.mark.parametrize("shape", [(8, 40), (64, 64), (64, 160), (160, 200)])
@pytest.mark.parametrize("fall", [0.0, 0.5, 1.0, 2.0])
def test_the_iteration_draws_singular_values_to_one(
    iteration: str, shape: tuple[int, int], fall: float
) -> None:
    """Against the polynomial of each singular value, of matrices whose singular values fall."""
    draw = torch.Generator().manual_seed(1)
    left = torch.linalg.qr(torch.randn(shape[0], shape[0], generator=draw).double())[0]
    right = torch.linalg.qr(torch.randn(shape[1], shape[0], generator=draw).double())[0]
    values = torch.arange(1, shape[0] + 1).double() ** -fall
    found = orthogonal((left * values @ right.T).float(), iteration)
    assert found.dtype == getattr(torch, iteration)
    found = found.double()
    values /= values.norm()
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    expected = left * values @ right.T
    off = float((found - expected).norm() / expected.norm())
    # Rounding the matrix to bf16 turns the directions of its least singular values.
    assert off < (1e-3 if iteration == "float32" else 0.2 if fall == 2.0 else 0.05)
    reached = torch.linalg.svdvals(found)
    assert float(reached.max()) < 1.25
    assert int((reached > 0.65).sum()) >= int((values > 0.68).sum()) > 0


def test_the_iteration_is_in_bf16_where_training_is_and_it_is_faster() -> None:
    for kind in COMPUTE_TYPES:
        set_compute(kind)
        try:
            assert orthogonal(torch.ones(4, 16)).dtype == getattr(torch, kind)
            assert orthogonal(torch.ones(4, 17)).dtype == torch.float32
            assert torch.equal(path("muon", (6, 10))[-1], path("muon", (6, 10), iteration=kind)[-1])
        finally:
            set_compute()


# Invariants


def test_full_density_is_adamw_to_the_bit() -> None:
    for choose in ("columns", "randk", "blocks"):
        settings = {"density": 1.0, "choose": choose, "weight_decay": 0.1, "refresh": 10**9}
        ours, weights = built("frugal", (6, 10), **settings)
        theirs, others = built("adamw", (6, 10), weight_decay=0.1, beta2=0.999)
        for step, gradient in enumerate(gradients((6, 10))):
            take(ours, weights["w0"], gradient, step)
            # The compiled step of AdamW differs from torch's in the last bits.
            with kernels.without():
                take(theirs, others["w0"], gradient, step)
            assert torch.equal(weights["w0"], others["w0"]), choose


def test_no_density_is_a_step_by_signs_without_state() -> None:
    rule, weights = built("frugal", (6, 10), density=0.0, free_scale=1.0)
    gradient = gradients((6, 10))[0]
    gradient[0] = 0
    change = take(rule, weights["w0"], gradient, 0)
    assert torch.equal(change, -plain.RATE * gradient.sign())
    assert rule.state_dict() == {} and rule.state_bytes(weights) == 0


def test_frugal_leaves_the_rest_alone_or_follows_it() -> None:
    gradient = gradients((6, 10))[0]
    for free, expected in (("none", 0.0 * gradient), ("sgd", -0.1 * plain.RATE * gradient)):
        rule, weights = built("frugal", (6, 10), density=0.5, free=free)
        change = take(rule, weights["w0"], gradient, 0)
        rest = torch.ones(10, dtype=torch.bool)
        rest[rule.chosen("w0", torch.Size((6, 10)), 0)] = False
        assert torch.allclose(change[:, rest], expected[:, rest])
        assert torch.allclose(change[:, ~rest].abs(), torch.full((6, 5), plain.RATE), rtol=1e-4)


@pytest.mark.parametrize("order", ["random", "ascending", "descending", "mirror"])
def test_blocks_take_turns(order: str) -> None:
    shapes = [(4, 6)] * 6 + [(5,)]
    settings = {"choose": "blocks", "density": 0.5, "refresh": 2, "order": order, "free": "none"}
    rule, weights = built("frugal", *shapes, **settings)
    often = dict.fromkeys(weights, 0)
    for step in range(8):
        active = rule.active(step // 2)
        before = {name: weight.detach().clone() for name, weight in weights.items()}
        for weight in weights.values():
            weight.grad = torch.ones_like(weight)
        rule.step(step)
        held = {key.partition(".")[0] for key in rule.state_dict()}
        assert held == {*active, "w6"} and len(active) == 3
        for name, weight in weights.items():
            assert torch.equal(weight, before[name]) == (name not in held)
            often[name] += name in active
        if step % 2 == 0:
            assert all(float(rule.state_dict()[f"{name}.step"]) == 1 for name in active)
        assert sum(t.nbytes for t in rule.state_dict().values()) == rule.state_bytes(weights)
    firsts = {"ascending": "w0 w1 w2", "descending": "w5 w4 w3", "mirror": "w0 w5 w1"}
    if order != "random":
        assert rule.active(0) == firsts[order].split()
        assert {often[f"w{i}"] for i in range(6)} == {4}
    else:
        assert len({tuple(sorted(rule.active(turn))) for turn in range(8)}) > 3


@pytest.mark.parametrize("kind", KINDS)
def test_full_rank_is_adam_in_turned_coordinates_and_not_adamw(kind: str) -> None:
    shape = (6, 10)
    settings: dict[str, Any] = {"rank": 6, "projector": kind, "refresh": 10**9}
    rule, weights = built("galore", shape, **settings)
    theirs, others = built("adamw", shape, beta2=0.999, epsilon=1e-6)
    adam, expected = plain.Adam(), torch.zeros(shape).double()
    for step, gradient in enumerate(gradients(shape)):
        take(rule, weights["w0"], gradient, step)
        take(theirs, others["w0"], gradient, step)
        basis = basis_of(rule._state["w0"], 6).double()
        adam.take(basis @ gradient.double())
        adapted, correction = adam.early(1e-6)
        expected = expected - plain.RATE * correction * basis.T @ adapted
    assert torch.allclose(weights["w0"].double(), expected, atol=1e-5)
    apart = (weights["w0"] - others["w0"]).detach().abs().max()
    assert float(apart) > plain.RATE / 2


def test_ranks_of_one_change() -> None:
    for shape in ((12, 20), (20, 12)):
        gradient = gradients(shape)[0]
        for name, expected in (
            ("galore", 3),
            ("galore-8bit", 3),
            ("dct-adamw", 3),
            ("ldadamw", 3),
            ("trion", 3),
            ("fira", 12),
            ("apollo", 12),
        ):
            rule, weights = built(name, shape, rank=3)
            change = take(rule, weights["w0"], gradient, 0) / plain.RATE
            values = torch.linalg.svdvals(change)
            assert int((values > 1e-4 * values[0]).sum()) == expected, name


def test_fira_of_full_rank_is_galore() -> None:
    for shape in SHAPES:
        settings = {"rank": 6, "refresh": 4}
        fira, galore = path("fira", shape, **settings), path("galore", shape, **settings)
        for one, other in zip(fira, galore, strict=True):
            assert torch.allclose(one, other, atol=1e-6)


def test_fira_scales_the_residual_by_channels_and_does_not_mind_the_gradients_size() -> None:
    gradient = gradients((6, 10))[0]
    rule, weights = built("fira", (6, 10), rank=2, epsilon=0.0)
    change = take(rule, weights["w0"], gradient, 0)
    basis = rule._state["w0"]["basis"]
    residual = gradient - basis.t() @ (basis @ gradient)
    outside = change - basis.t() @ (basis @ change)
    ratio = outside / residual
    assert torch.allclose(ratio, ratio[:1].expand(6, 10), rtol=1e-3)
    larger, others = built("fira", (6, 10), rank=2, epsilon=0.0)
    assert torch.allclose(take(larger, others["w0"], 100 * gradient, 0), change, rtol=1e-3)


@pytest.mark.parametrize("name", ["fira", "apollo", "apollo-mini"])
def test_growth_is_limited_and_begins_anew_after_nothing(name: str) -> None:
    settings = {"rank": 2} if name != "apollo-mini" else {}
    rule, weights = built(name, (6, 10), **settings)
    norms = []
    for step, gradient in enumerate(gradients((6, 10))):
        take(rule, weights["w0"], gradient * 10**step, step)
        norms.append(float(rule.state_dict()["w0.norm"]))
    assert all(b <= 1.0101 * a for a, b in itertools.pairwise(norms))
    take(rule, weights["w0"], torch.zeros(6, 10), 12)
    take(rule, weights["w0"], gradients((6, 10))[0], 13)
    assert float(rule.state_dict()["w0.norm"]) > 1e-3 * norms[-1]


def test_refreshes_come_first_and_then_at_the_names_own_phase(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: dict[int, int] = {}
    rule, weights = built("galore", *[(4, 6)] * 40, refresh=10)
    choose = projected.choose_space

    def spy(kind: str, state: Any, gradient: Any, generator: Any) -> None:
        seen[step] = seen.get(step, 0) + 1
        choose(kind, state, gradient, generator)

    monkeypatch.setattr(projected, "choose_space", spy)
    for step in range(31):
        for weight in weights.values():
            weight.grad = torch.ones(4, 6)
        rule.step(step)
    assert seen[0] == 40
    # Three rounds of forty refreshes are spread over thirty steps.
    later = [seen.get(step, 0) for step in range(1, 31)]
    assert sum(later) == 120 and max(later) <= 12 and min(later) >= 1
    assert later[:10] == later[10:20] == later[20:]
    for name in weights:
        expected = [t for t in range(31) if t == 0 or (t + rule.phase(name)) % 10 == 0]
        assert [t for t in range(31) if rule.due(name, t)] == expected


@pytest.mark.parametrize("how", ["keep", "reset", "rotate", "transport"])
@pytest.mark.parametrize("kind", ["gram", "dct"])
def test_moments_at_a_refresh(how: str, kind: str) -> None:
    shape = (6, 10)
    settings: dict[str, Any] = {"rank": 3, "refresh": 4, "projector": kind, "on_refresh": how}
    rule, weights = built("galore", shape, **settings)
    found = gradients(shape)
    due = next(t for t in range(2, 12) if rule.due("w0", t))
    for step in range(due):
        take(rule, weights["w0"], found[step], step)
    state = {key: tensor.clone() for key, tensor in rule._state["w0"].items()}
    change = take(rule, weights["w0"], found[due], due)
    basis, after = basis_of(rule._state["w0"], 6), rule._state["w0"]
    projection = basis @ found[due]
    turn = basis @ basis_of(state, 6).t()
    m, v = state["exp_avg"], state["exp_avg_sq"]
    if how == "reset":
        m, v = 0 * m, 0 * v
        first = projection / (projection.abs() + 1e-6 / math.sqrt(0.001))
        assert torch.allclose(change, -plain.RATE * basis.t() @ first, atol=1e-5)
        assert rule.taken("w0", after) == 1
    elif how == "rotate":
        m, v = turn @ m, turn.square() @ v
    elif how == "transport":
        mean, square = m / (1 - 0.9**due), 1 - 0.999**due
        v = turn.square() @ (v / square - mean.square()) + (turn @ mean).square()
        m, v = turn @ m, (square * v).abs()
    assert torch.allclose(after["exp_avg"], 0.9 * m + 0.1 * projection, atol=1e-5)
    assert torch.allclose(after["exp_avg_sq"], 0.999 * v + 0.001 * projection**2, atol=1e-6)


@pytest.mark.parametrize("error", ["whole", "8-bit"])
def test_dct_feeds_back_what_it_left_out(error: str) -> None:
    rule, _ = built("dct-adamw", (24, 40), rank=5, error=error)
    assert isinstance(rule, Projected)
    state = rule.state("w0", torch.nn.Parameter(torch.zeros(24, 40)))
    whole, taken = torch.zeros(24, 40), torch.zeros(24, 40)
    for gradient in gradients((24, 40), 20):
        whole += gradient
        basis, low = rule.project("w0", state, gradient.clone())
        taken += basis.t() @ low
        state["step"] += 1
    kept = state["error"] if error == "whole" else whole - taken
    assert torch.allclose(taken + kept, whole, atol=1e-4)
    assert float((whole - taken).norm()) < 0.5 * float(whole.norm())


@pytest.mark.parametrize(("name", "settings"), [("adamw-8bit", {}), ("galore-8bit", {"rank": 48})])
def test_eight_bits_follow_thirty_two(name: str, settings: dict[str, Any]) -> None:
    shape = (48, 96)
    ours, weights = built(name, shape, **settings)
    theirs, others = built(name.removesuffix("-8bit"), shape, **settings)
    for step, gradient in enumerate(gradients(shape, 50)):
        take(ours, weights["w0"], gradient, step)
        take(theirs, others["w0"], gradient, step)
        kinds = {tensor.dtype for tensor in ours.state_dict().values()}
        assert {torch.int8, torch.uint8} < kinds
    ours, theirs = weights["w0"].detach(), others["w0"].detach()
    off = float((ours - theirs).norm() / theirs.norm())
    assert 0 < off < 0.02


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_eight_bits_follow_thirty_two_closer_than_bitsandbytes(spread: float) -> None:
    """Its codes are the paper's, ours are not; gradients differ in size by ``spread``."""
    library = pytest.importorskip("bitsandbytes", exc_type=ImportError)
    shape = (64, 128)
    sizes = torch.exp(spread * gradients(shape, 1)[0])
    ours, weights = built("adamw-8bit", shape)
    exact, others = built("adamw", shape)
    config = exact.config
    weight = torch.nn.Parameter(torch.zeros(shape))
    theirs = library.optim.AdamW8bit(
        [weight],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        weight_decay=0.0,
    )
    for step, gradient in enumerate(gradients(shape, 50)):
        take(ours, weights["w0"], gradient * sizes, step)
        take(exact, others["w0"], gradient * sizes, step)
        weight.grad = gradient * sizes
        theirs.step()

    def off(found: torch.Tensor, target: torch.Tensor) -> float:
        return float((found - target).norm() / target.norm())

    own, state = ours._state["w0"], theirs.state[weight]
    for number, key in enumerate(("exp_avg", "exp_avg_sq"), 1):
        codes = state[f"qmap{number}"][state[f"state{number}"].long()].view(-1, 256)
        moment = (codes * state[f"absmax{number}"][:, None]).view(-1)
        assert off(blockwise.decode(own[key], own[f"{key}_peak"]), moment) < 0.05
    target = others["w0"].detach()
    assert off(weights["w0"].detach(), target) < off(weight.detach(), target) < 0.5


def test_an_eight_bit_step_by_pieces_is_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    from engrain.learn import blockwise
    from engrain.learn.optimization import adamw_8bit

    found = []
    for piece in (1 << 17, 512):
        monkeypatch.setattr(blockwise, "PIECE", piece)
        monkeypatch.setattr(adamw_8bit, "PIECE", piece)
        # 77 * 61 is no whole number of blocks.
        found.append(path("adamw-8bit", (77, 61)))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", RANKED)
def test_a_rank_above_the_smaller_side_is_that_side_and_warned_of(
    name: str, shape: tuple[int, int]
) -> None:
    with pytest.warns(EngrainWarning, match=rf"{name}: rank 40 is .* 1 of 1 matrices, the least 6"):
        clamped = path(name, shape, rank=40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = path(name, shape, rank=6)
    assert all(torch.equal(one, other) for one, other in zip(clamped, expected, strict=True))


def test_frugal_is_seeded_by_run_name_and_draw() -> None:
    rule, _ = built("frugal", (6, 10))
    assert isinstance(rule, Frugal)
    shape = torch.Size((6, 40))
    draws = [tuple(rule.chosen(n, shape, d).tolist()) for n in ("a", "b") for d in range(3)]
    assert len(set(draws)) == 6
    rule._seed = 6
    assert tuple(rule.chosen("a", shape, 0).tolist()) != draws[0]
