"""Kernels of training do what torch does: updates, attention, losses, a layer as one step."""

import ctypes
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from engrain.data.examples import Batch
from engrain.errors import DivergedError
from engrain.learn import passes, registry
from engrain.learn.compact import compacted, read
from engrain.learn.heads import Head
from engrain.learn.learner import Learner
from engrain.learn.optimization.apollo import Apollo
from engrain.learn.passes import Move, Product
from engrain.learn.recipe import Choice, Recipe
from engrain.learn.rounding import keys, round_into
from engrain.learn.technique import Setting
from engrain.learn.testing import sample_lesson
from engrain.model import hardware, kernels
from engrain.model.attention import Seen, attend, attends
from engrain.model.context import Attended, Context, _TwoParts
from engrain.model.digest import tensor_digest
from engrain.model.testing import tiny_model

pytestmark = pytest.mark.skipif(kernels.library() is None, reason=kernels.reason() or "-")
BLOCKS = pytest.mark.skipif(
    not attends(torch.bfloat16, 64, None), reason="the processor does not multiply bf16"
)


def error(found: torch.Tensor, truth: torch.Tensor) -> float:
    found, truth = found.detach().double(), truth.detach().double()
    return float((found - truth).norm() / truth.norm())


# One pass over memory


@pytest.mark.parametrize("count", [1, 15, 16, 40_001, (1 << 18) + 5])
def test_stochastic_rounding_has_the_bits_of_torchs_way(count: int) -> None:
    value = torch.randn(count)
    value[0] = float("inf")
    with_kernel, without = (torch.zeros(count, dtype=torch.bfloat16) for _ in range(2))
    round_into(with_kernel, value.clone(), "stochastic", "w", 3, lost=value[:0])
    with kernels.without():
        round_into(without, value.clone(), "stochastic", "w", 3, lost=value[:0])
    assert torch.equal(with_kernel, without)


@pytest.mark.parametrize("weight_type", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gradient_type", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("adamw", {"weight_decay": 0.1}),
        ("adamw", {"clip": 0.5, "clip_scope": "each"}),
        ("sgd", {"weight_decay": 0.1}),
        ("sign", {"weight_decay": 0.1}),
        ("apollo-mini", {"weight_decay": 0.1}),
        ("apollo-mini", {"clip": 0.5, "clip_scope": "each"}),
    ],
)
def test_a_step_in_one_pass_is_torchs_step(
    name: str, settings: dict, weight_type: torch.dtype, gradient_type: torch.dtype
) -> None:
    if weight_type != gradient_type and weight_type == torch.float32:
        pytest.skip("torch gives a parameter a gradient of its own type")

    def run() -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        rule: Any = registry.build("optimization", name, {"clip": 0.0, **settings})
        weight = torch.nn.Parameter(torch.randn(33, 700, generator=generator).to(weight_type))
        rule.prepare({"w": weight}, Setting(tiny_model("llama"), sample_lesson(), steps=20))
        for step in range(20):
            weight.grad = torch.randn(33, 700, generator=generator).to(weight_type)
            rule.step(step)
        return weight.detach()

    found = run()
    with kernels.without():
        truth = run()
    if weight_type == torch.float32:
        assert torch.allclose(found, truth, rtol=1e-5, atol=1e-7)
    else:
        # A result that lies on the border of the chance falls to the other side now and then.
        assert float((found != truth).float().mean()) < 2e-3
        assert error(found, truth) < 1e-4


class Outer(ctypes.Structure):
    """The arguments of engrain_outer_move, as lesson.h has them."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in "tokens outs ins".split()),
        *((name, ctypes.c_void_p) for name in "into inward weight pairs numbers".split()),
        *((name, ctypes.c_int32) for name in "rule rounding threads".split()),
        *((name, ctypes.c_uint32) for name in "key1 key2".split()),
    ]


def by_factors(
    move: Move | None,
    weight: torch.Tensor,
    into: torch.Tensor,
    inward: torch.Tensor,
    rounding: str,
    chosen: tuple[int, int],
) -> int:
    """Move a weight by ``into^T inward``, or write that into it."""
    library: Any = kernels.library()
    tokens, outs, ins = len(into), *weight.shape
    pairs = torch.empty((tokens + 1) // 2 * (outs + ins + 192), dtype=torch.int32)
    numbers = None if move is None else move.numbers(1.0)
    pointers = [tensor.data_ptr() for tensor in (into, inward, weight, pairs)]
    address = 0 if numbers is None else ctypes.addressof(numbers)
    rule = 3 if move is None else passes.RULES[move.rule]
    call = Outer(tokens, outs, ins, *pointers, address, rule, passes.ROUNDINGS[rounding], 2)
    call.key1, call.key2 = chosen[0], chosen[1] | 1
    return int(library.engrain_outer_move(ctypes.byref(call)))


@BLOCKS
@pytest.mark.parametrize("shape", [(1, 4, 16), (64, 96, 96), (7, 5, 33), (65, 130, 2100)])
@pytest.mark.parametrize("rule", ["sgd", "sign"])
def test_a_step_by_the_factors_of_a_gradient(shape: tuple[int, int, int], rule: str) -> None:
    tokens, outs, ins = shape
    into, inward = torch.randn(tokens, outs).bfloat16(), torch.randn(tokens, ins).bfloat16()
    before = torch.randn(outs, ins).bfloat16()
    truth = before.float()
    gradient = into.float().t() @ inward.float()
    truth -= 0.01 * (gradient if rule == "sgd" else gradient.sign())
    weight = before.clone()
    assert not by_factors(Move(rule, 0.01), weight, into, inward, "nearest", (1, 2))
    clear = gradient.abs() > 1e-3
    assert torch.allclose(weight.float()[clear], truth[clear], rtol=2**-7, atol=1e-3)
    formed = torch.empty_like(before)
    assert not by_factors(None, formed, into, inward, "nearest", (0, 0))
    assert torch.allclose(formed.float(), gradient, rtol=2**-8, atol=1e-4)
    again = before.clone()
    with_chance = [before.clone() for _ in range(2)]
    for out in with_chance:
        assert not by_factors(Move(rule, 0.01), out, into, inward, "stochastic", keys("w", 1))
    assert torch.equal(*with_chance)
    # The same random numbers as the rounding of a stored result, at each position.
    round_into(again, before.float(), "stochastic", "w", 1, lost=again[:0])
    assert torch.equal(again, before)
    assert error(with_chance[0], truth) < 2**-7


@BLOCKS
def test_what_is_not_finite_moves_nothing() -> None:
    into, inward = torch.randn(6, 40).bfloat16(), torch.randn(6, 20).bfloat16()
    into[5, 39] = torch.inf
    weight = torch.zeros(40, 20).bfloat16()
    assert by_factors(Move("sgd", 0.1), weight, into, inward, "nearest", (1, 2)) == 2
    assert not weight.any()


def test_only_steps_without_moments_are_taken_by_product() -> None:
    weight, first = torch.zeros(4, 6).bfloat16(), torch.zeros(4, 6)
    sign = Move("sign", 0.1)
    assert Product.of("w", weight, sign, "nearest", (1, 2)) is not None
    assert Product.of("w", weight, None, "nearest", (1, 2)) is None
    assert Product.of("w", weight, sign, "kahan", (1, 2)) is None
    assert Product.of("w", weight.float(), sign, "nearest", (1, 2)) is None
    assert Product.of("w", weight.t(), sign, "nearest", (1, 2)) is None
    moving = Move("adamw", 0.1, first=first, second=first)
    assert Product.of("w", weight, moving, "nearest", (1, 2)) is None


def test_threads_change_no_bit() -> None:
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            loaded = tiny_model("llama")
            loaded.model.to(torch.bfloat16)
            found.append(tensor_digest(dict(lived(loaded, "sign").adapter.tensors)))
    finally:
        torch.set_num_threads(before)
    assert len(set(found)) == 1


# Attention


@BLOCKS
@pytest.mark.parametrize(
    ("rows", "tokens", "heads", "groups", "dim", "columns", "window", "shared"),
    [
        (1, 64, 9, 3, 64, 2047, 0, True),
        (2, 5, 4, 2, 32, 77, 0, False),
        (3, 70, 4, 4, 16, 130, 50, True),
        (2, 33, 8, 1, 128, 0, 0, False),
        (2, 40, 6, 2, 64, 100, 20, False),
        (1, 1, 2, 2, 256, 64, 0, True),
        (1, 200, 2, 1, 32, 1, 7, True),
    ],
)
def test_attention_by_blocks(
    rows: int,
    tokens: int,
    heads: int,
    groups: int,
    dim: int,
    columns: int,
    window: int,
    shared: bool,
) -> None:
    """Against fp32; not farther from it than torch's products in bf16 are."""
    torch.manual_seed(0)
    parts = [torch.randn(rows, tokens, n, dim).bfloat16() for n in (heads, groups, groups)]
    context, key, value = None, None, None
    if columns:
        key, value = (
            torch.randn(1 if shared else rows, groups, columns, dim).bfloat16() for _ in "kv"
        )
        lengths = [max(0, columns - 7 * row) for row in range(1 if shared else rows)]
        context = Context((key,), (value,), tuple(lengths))
    before, own = Attended(context).of(rows, tokens, window or None)
    change = torch.randn(rows, tokens, heads, dim).bfloat16()

    def plain(kind: torch.dtype) -> list[torch.Tensor]:
        given = [t.to(kind).transpose(1, 2).detach().requires_grad_() for t in parts]
        frozen = [None if t is None else t.to(kind) for t in (key, value)]
        out = _TwoParts.apply(*given, *frozen, before, own, dim**-0.5, 0.0)
        out.backward(change.to(kind).transpose(1, 2))
        return [t.transpose(1, 2) for t in (out, *(g.grad for g in given))]

    given = [t.detach().requires_grad_() for t in parts]
    counted = None if context is None else context.lengths_of(rows)
    out = attend(*given, Seen.of(key, value, counted, window, dim**-0.5))
    out.backward(change)
    mine = [out, *(g.grad for g in given)]
    for found, torchs, truth in zip(mine, plain(torch.bfloat16), plain(torch.float32), strict=True):
        assert error(found, truth) < 1.3 * error(torchs, truth) + 1e-3


@BLOCKS
def test_attention_of_one_row_does_not_change_with_its_neighbours() -> None:
    torch.manual_seed(0)
    parts = [torch.randn(3, 20, n, 32).bfloat16() for n in (4, 2, 2)]
    both = attend(*parts, Seen.of(None, None, None, 0, 0.2))
    alone = attend(*(part[1:2].contiguous() for part in parts), Seen.of(None, None, None, 0, 0.2))
    assert torch.equal(both[1:2], alone)


# Losses


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("softcap", [0.0, 5.0])
def test_losses_are_torchs(kind: torch.dtype, softcap: float) -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(16, 20_000, bias=False).to(kind)
    hidden = (3 * torch.randn(9, 16)).to(kind)
    targets = torch.randint(20_000, (9,))

    def run() -> tuple[torch.Tensor, ...]:
        given = hidden.clone().requires_grad_()
        layer.weight.grad = None
        losses = Head(layer, layer, softcap).losses(given, targets)
        losses.sum().backward()
        assert given.grad is not None and layer.weight.grad is not None
        return losses.detach(), given.grad, layer.weight.grad.clone()

    found = run()
    with kernels.without():
        truth = run()
    limit = 1e-5 if kind == torch.float32 else 1e-2
    assert all(error(one, other) < limit for one, other in zip(found, truth, strict=True))


def test_one_factor_for_a_matrix_is_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """APOLLO-Mini's step needs no fp32 copy of a weight; one for each channel is made in torch."""
    if kernels.library() is None:
        pytest.skip("there are no kernels")
    moved: list[str] = []
    monkeypatch.setattr(Apollo, "move", lambda self, name, *_: moved.append(self.name))
    for name in ("apollo-mini", "apollo"):
        rule: Any = registry.build("optimization", name)
        weight = torch.nn.Parameter(torch.randn(8, 20).bfloat16())
        rule.prepare({"w": weight}, Setting(tiny_model("llama"), sample_lesson(), steps=2))
        before = weight.detach().clone()
        weight.grad = torch.randn(8, 20).bfloat16()
        rule.step(0)
        assert torch.equal(weight, before) == (name == "apollo")
    assert moved == ["apollo"]


# A layer as one step


def lived(loaded: Any, rule: str, *, release: bool = True, **settings: Any) -> Any:
    recipe = Recipe(
        "compact",
        architecture=Choice("full"),
        optimization=Choice(rule, {"clip": 0.0, **settings}),
        representation=Choice("context_frozen", {"live": 2}),
        batch_size=1,
        min_steps=5,
        max_steps=5,
        gradient_release=release,
    )
    return Learner(recipe).run(loaded, sample_lesson())


def gradients(loaded: Any, way: Any, **choice: Any) -> dict[str, torch.Tensor]:
    lesson = sample_lesson()
    setting = Setting(loaded, lesson)
    representation: Any = registry.build("representation", "context_frozen", {"live": 2})
    representation.prepare(setting)
    batch = Batch.of([setting.encode(text) for text in lesson.facts()[:3]], loaded.pad_id)
    for parameter in loaded.model.parameters():
        parameter.requires_grad_(True)
        parameter.grad = None
    with way:
        representation.loss(batch).backward()
    found = {n: p.grad for n, p in loaded.model.named_parameters() if p.grad is not None}
    loaded.model.requires_grad_(False)
    return {name: gradient.float() for name, gradient in found.items()}


@BLOCKS
@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3", "mistral", "smollm3"])
def test_a_compact_layer_has_the_gradients_of_the_definition(arch: str) -> None:
    loaded = tiny_model(arch)
    loaded.model.to(torch.bfloat16)
    layers = read(loaded)
    assert not isinstance(layers, str), layers
    ordinary = gradients(loaded, nullcontext())
    found = gradients(loaded, compacted(loaded))
    loaded.model.float()
    hardware.set_compute("float32")
    try:
        with kernels.without():
            truth = gradients(loaded, nullcontext())
    finally:
        hardware.set_compute("auto")
    assert set(found) == set(truth)
    for name in truth:
        assert error(found[name], truth[name]) < 1.5 * error(ordinary[name], truth[name]) + 3e-3
    assert any(not torch.equal(found[name], ordinary[name]) for name in truth)


@pytest.mark.parametrize("arch", ["gemma2", "gemma3", "olmo2", "gpt2"])
def test_other_layers_keep_their_own_forward(arch: str) -> None:
    loaded = tiny_model(arch)
    assert isinstance(read(loaded), str)
    with compacted(loaded) as reason:
        assert reason


def test_what_was_patched_comes_back() -> None:
    loaded = tiny_model("llama")
    layers = loaded.model.get_submodule(loaded.profile.layers_path)
    with compacted(loaded):
        assert all("forward" in vars(layer) for layer in layers)
    assert not any("forward" in vars(layer) for layer in layers)


@BLOCKS
@pytest.mark.parametrize("rule", ["sgd", "sign", "adamw"])
def test_steps_inside_backward_learn_what_ordinary_steps_learn(rule: str) -> None:
    """Where a gradient's size counts, steps by product differ by its rounding; else not at all."""
    runs = []
    for release, formed in ((True, False), (True, True), (False, True)):
        loaded = tiny_model("llama")
        loaded.model.to(torch.bfloat16)
        with pytest.MonkeyPatch.context() as patch:
            if formed:
                patch.setattr(Product, "of", lambda *_: None)
            runs.append(lived(loaded, rule, release=release))
    assert all(run.losses == runs[1].losses for run in runs[rule == "sgd" :])
    whole = [
        torch.cat([tensor.flatten() for _, tensor in sorted(run.adapter.tensors.items())])
        for run in runs
    ]
    assert torch.equal(whole[1], whole[2])
    assert torch.equal(whole[0], whole[1]) == (rule != "sgd")
    assert error(whole[0], whole[1]) < 0.05


@BLOCKS
def test_a_gradient_that_is_not_finite_ends_a_run_of_compact_layers() -> None:
    """By name, though that gradient is never formed."""
    loaded = tiny_model("llama")
    loaded.model.to(torch.bfloat16)
    before = tensor_digest(loaded.weights())

    def spoil(module: Any, given: Any, _: Any) -> Any:
        return (torch.full_like(given[0], torch.inf),)

    handle = loaded.model.model.norm.register_full_backward_hook(spoil)
    last = len(loaded.profile.layers) - 1
    with pytest.raises(
        DivergedError, match=rf"layers\.{last}\.mlp\.down_proj\.weight .* at step 1"
    ):
        lived(loaded, "sgd")
    handle.remove()
    assert tensor_digest(loaded.weights()) == before


@BLOCKS
def test_a_layer_that_runs_twice_adds_its_gradients_up() -> None:
    """With a KL anchor every layer runs twice for a step: no step may be taken by half of it."""
    found = []
    for release in (True, False):
        loaded = tiny_model("llama")
        loaded.model.to(torch.bfloat16)
        recipe = Recipe(
            "twice",
            architecture=Choice("full"),
            optimization=Choice("sign"),
            representation=Choice("context_frozen", {"live": 2}),
            regularization=(Choice("kl_anchor"),),
            batch_size=2,
            min_steps=4,
            max_steps=4,
            gradient_release=release,
        )
        anchors = [sample_lesson("old").texts[0]]
        result = Learner(recipe).run(loaded, sample_lesson(), anchors=anchors)
        found.append(tensor_digest(dict(result.adapter.tensors)))
    assert found[0] == found[1]
