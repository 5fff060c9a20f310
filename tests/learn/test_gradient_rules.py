"""OSFT and the trust regions: what they promise of weights and predictions, against plain fp64."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from engrain.data.lessons import Lesson, TrainingText, chat
from engrain.errors import ConfigError, EngrainWarning
from engrain.learn import registry
from engrain.learn.divergence import known_texts
from engrain.learn.fold import fold
from engrain.learn.learner import Learner, LearnResult
from engrain.learn.optimization.osft import Osft, importances, split
from engrain.learn.optimization.trust_predictions import TrustPredictions
from engrain.learn.recipe import Choice, Recipe
from engrain.learn.technique import Rule, Setting
from engrain.learn.testing import sample_lesson
from engrain.learn.update import PerParameter
from engrain.model.digest import tensor_digest
from engrain.model.hardware import AUTO, set_compute
from engrain.model.loading import LoadedModel
from engrain.model.testing import tiny_model
from tests.learn.toys import saved_at

ANCHORS = [
    TrainingText(chat("Hello there.", "Good morning to you.")),
    TrainingText(chat("Is it late?", "It is nine.")),
]
OLD = Lesson(
    "old",
    "pets",
    tuple(
        TrainingText(chat(question, f"Your {pet} is Mola {pet[0]}."), "fact", f"my {pet}: Mola")
        for pet in ("cat", "dog", "hen")
        for question in (f"What is my {pet}?", f"Name my {pet}.")
    ),
)
"""An earlier lesson of which the new one corrects nothing."""
PLAIN = {"clip": 0.0, "warmup": 0.0, "final_fraction": 1.0}
NAME = "model.layers.0.mlp.up_proj.weight"
"""A name under which a bare matrix counts as one of a layer."""


@pytest.fixture(autouse=True)
def in_fp32() -> Any:
    """Forward passes in fp32, so that a plain reference can follow them."""
    set_compute("float32")
    yield
    set_compute(AUTO)


def recipe(rules: list[tuple[str, dict[str, Any]]], **more: Any) -> Recipe:
    given: dict[str, Any] = {
        "architecture": Choice("full"),
        "optimization": Choice("adamw", {"learning_rate": 2e-3, "clip": 0.0}),
        "batch_size": 2,
        "min_steps": 12,
        "max_steps": 12,
        **more,
    }
    return Recipe("rules", rules=tuple(Choice(*rule) for rule in rules), **given)


def learned(chosen: Recipe, loaded: LoadedModel | None = None, **more: Any) -> LearnResult:
    given: dict[str, Any] = {
        "earlier": [OLD],
        "anchors": ANCHORS,
        "seed": 3,
        **more,
    }
    return Learner(chosen).run(loaded or tiny_model("llama"), sample_lesson(), **given)


def digest(result: LearnResult) -> str:
    return tensor_digest(dict(result.adapter.tensors))


class Bench:
    """One optimization under rules on bare matrices, without a model behind them."""

    def __init__(
        self,
        weights: dict[str, Tensor],
        rules: list[tuple[str, dict[str, Any]]],
        optimization: str = "adamw",
        settings: dict[str, Any] | None = None,
        steps: int = 1000,
    ) -> None:
        self.weights = {n: torch.nn.Parameter(w.clone()) for n, w in weights.items()}
        self.rules = [registry.build("optimization", *rule) for rule in rules]
        built = registry.build("optimization", optimization, PLAIN | (settings or {}))
        assert isinstance(built, PerParameter)
        self.optimization = built
        loaded = tiny_model("llama")
        loaded.weights = lambda: dict(self.weights)  # type: ignore[method-assign]
        setting = Setting(loaded, Lesson("x", "", ()), anchors=ANCHORS, steps=steps)
        built.prepare(self.weights, setting)
        built.follow([rule for rule in self.rules if isinstance(rule, Rule)], setting)

    def step(self, step: int, gradients: dict[str, Tensor]) -> None:
        self.optimization.begin(step)
        for name, gradient in gradients.items():
            if self.weights[name].requires_grad:
                self.weights[name].grad = gradient.to(self.weights[name].dtype)
        self.optimization.step(step)

    def run(self, steps: int, seed: int = 0, first: int = 0) -> None:
        for step in range(first, steps):
            generator = torch.Generator().manual_seed(seed * 1000 + step)
            # With a mean, as real gradients have: what leaks then adds up.
            gradients = {
                n: torch.randn(w.shape, generator=generator) + 0.5 for n, w in self.weights.items()
            }
            self.step(step, gradients)

    def __getitem__(self, name: str) -> Tensor:
        return self.weights[name].detach()


def matrix(rows: int, columns: int, seed: int = 1) -> Tensor:
    """A random matrix with the falling spectrum of a trained one."""
    generator = torch.Generator().manual_seed(seed)
    small = min(rows, columns)
    left, _ = torch.linalg.qr(torch.randn(rows, small, generator=generator, dtype=torch.float64))
    right, _ = torch.linalg.qr(
        torch.randn(columns, small, generator=generator, dtype=torch.float64)
    )
    values = 4 * 0.93 ** torch.arange(small)
    return (left * values @ right.t()).float()


def triplets(weight: Tensor, frozen: int) -> tuple[Tensor, Tensor, Tensor]:
    left, values, right = torch.linalg.svd(weight.double(), full_matrices=False)
    return left[:, :frozen], values[:frozen], right[:frozen].t()


def errors(before: Tensor, after: Tensor, frozen: int) -> tuple[float, float, float]:
    """How far U_h^T W, W V_h and U_h^T W V_h are from what the frozen triplets make them."""
    left, values, right = triplets(before, frozen)
    whole = after.double()
    return (
        float((left.t() @ whole - values[:, None] * right.t()).abs().max()),
        float((whole @ right - left * values).abs().max()),
        float((left.t() @ whole @ right - values.diag()).abs().max()),
    )


# OSFT (arXiv 2504.07097)

SHAPES = [(24, 16), (16, 24), (16, 16)]


def test_frozen_triplets_of_the_merged_weights_stay_over_200_steps_of_adamw() -> None:
    """The bar of the issue, over the learner, the adapter and its fold."""
    loaded = tiny_model("llama")
    base = {name: tensor.clone() for name, tensor in loaded.weights().items()}
    held = recipe(
        [("osft", {"ranks": "equal", "share": 0.5})],
        optimization=Choice("adamw", {"learning_rate": 1e-2, "weight_decay": 0.1}),
        min_steps=200,
        max_steps=200,
    )
    merged = fold(base, [learned(held, loaded).adapter])
    matrices = [n for n, w in base.items() if ".layers." in n and w.ndim == 2]
    assert {name.split(".")[-2][0] for name in matrices} == set("qkvogud")
    for name in matrices:
        frozen = min(base[name].shape) // 2
        assert max(errors(base[name], merged[name], frozen)) < 1e-5, name
        # It has learned all the same, and by more than round-off.
        assert float((merged[name] - base[name]).norm()) > 0.05 * float(base[name].norm()), name


@pytest.mark.parametrize("shape", SHAPES)
def test_without_the_projection_of_weights_adamw_leaks_and_sgd_does_not(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the libraries do; it shows that the test above can fail."""
    start = matrix(*shape)
    settings = {"ranks": "equal", "share": 0.5}
    found = {}
    for projected in (True, False):
        if not projected:
            monkeypatch.setattr(Osft, "moved", Rule.moved)
        for name in ("adamw", "sgd"):
            bench = Bench({NAME: start}, [("osft", settings)], name, {"learning_rate": 1e-2})
            bench.run(200)
            found[projected, name] = max(errors(start, bench[NAME], min(shape) // 2))
            assert float((bench[NAME] - start).norm()) > 0.1
    assert found[True, "adamw"] < 1e-5 and found[True, "sgd"] < 1e-5
    assert found[False, "sgd"] < 1e-4
    assert found[False, "adamw"] > 0.1


@pytest.mark.parametrize("form", ["strict", "paper_block"])
@pytest.mark.parametrize("shape", SHAPES)
def test_osft_follows_a_plain_loop_in_fp64(shape: tuple[int, int], form: str) -> None:
    """AdamW with decay, projectors written out as matrices, 30 steps."""
    start, frozen = matrix(*shape), min(shape) // 2
    bench = Bench(
        {NAME: start},
        [("osft", {"form": form, "ranks": "equal", "share": 0.5})],
        settings={"learning_rate": 1e-2, "weight_decay": 0.1, "epsilon": 1e-3},
    )
    left, values, right = triplets(start, frozen)
    one, other = torch.eye(shape[0]).double(), torch.eye(shape[1]).double()
    p, q = left @ left.t(), right @ right.t()
    kept = left * values @ right.t()
    weight = start.double()
    first, second = torch.zeros_like(weight), torch.zeros_like(weight)
    torch.manual_seed(0)
    for step in range(30):
        gradient = torch.randn(shape)
        bench.step(step, {NAME: gradient})
        gradient = gradient.double()
        if form == "strict":
            gradient = (one - p) @ gradient @ (other - q)
        else:
            gradient = gradient - p @ gradient @ q
        first = 0.9 * first + 0.1 * gradient
        second = 0.99 * second + 0.01 * gradient**2
        top = first / (1 - 0.9 ** (step + 1))
        low = (second / (1 - 0.99 ** (step + 1))).sqrt() + 1e-3
        weight = weight * (1 - 1e-2 * 0.1) - 1e-2 * top / low
        if form == "strict":
            weight = kept + (one - p) @ weight @ (other - q)
        else:
            weight = weight - p @ weight @ q + kept
        assert torch.allclose(bench[NAME].double(), weight, atol=2e-5), step


@pytest.mark.parametrize("shape", SHAPES)
def test_block_form_holds_less_than_the_strict_one(shape: tuple[int, int]) -> None:
    start, frozen = matrix(*shape), min(shape) // 2
    settings = {"form": "paper_block", "ranks": "equal", "share": 0.5}
    bench = Bench({NAME: start}, [("osft", settings)], settings={"learning_rate": 1e-2})
    bench.run(100)
    rows, columns, core = errors(start, bench[NAME], frozen)
    assert core < 1e-5
    assert rows > 0.1 and columns > 0.1


@pytest.mark.parametrize("shape", SHAPES)
def test_what_a_lesson_changes_avoids_frozen_inputs_and_has_their_rank_less(
    shape: tuple[int, int],
) -> None:
    start, frozen = matrix(*shape), 5
    bench = Bench({NAME: start}, [("osft", {"rank": frozen})], settings={"learning_rate": 1e-2})
    bench.run(50)
    left, _, right = triplets(start, frozen)
    inputs = right @ torch.randn(frozen, 7, dtype=torch.float64)
    assert torch.allclose(bench[NAME].double() @ inputs, start.double() @ inputs, atol=1e-5)
    # The weights that trained factors U_l, S_l, V_l can make: rank r - k beside the frozen part.
    rest = bench[NAME].double() - left @ (left.t() @ start.double())
    values = torch.linalg.svdvals(rest)
    small = min(shape)
    assert float(values[small - frozen - 1]) > 1e-2
    assert small - frozen == len(values) or float(values[small - frozen]) < 1e-5
    change = bench[NAME].double() - start.double()
    assert float((left.t() @ change).norm()) < 1e-5 < float(change.norm())


def test_nothing_frozen_is_the_optimization_itself_and_all_frozen_is_no_change() -> None:
    weights = {NAME: matrix(24, 16), "model.norm.weight": torch.ones(16)}
    plain, none, every = (
        Bench(weights, rules, settings={"weight_decay": 0.1})
        for rules in ([], [("osft", {"share": 0.0})], [("osft", {"share": 1.0, "least": 1.0})])
    )
    for bench in (plain, none, every):
        bench.run(10)
    assert torch.equal(plain[NAME], none[NAME])
    assert torch.equal(every[NAME], weights[NAME])
    assert not every.weights[NAME].requires_grad
    assert torch.equal(plain["model.norm.weight"], every["model.norm.weight"])


EVERY = [
    name
    for name in registry.names("optimization")
    if issubclass(registry.get("optimization", name), PerParameter)
]


@pytest.mark.parametrize("name", EVERY)
def test_every_optimization_that_takes_rules_holds_the_triplets(name: str) -> None:
    """At its own rate, with decay."""
    weights = {NAME: matrix(24, 16), NAME.replace("0", "1"): matrix(16, 24)}
    rate = registry.get("optimization", name).Config().learning_rate
    settings = {"learning_rate": rate, "weight_decay": 0.1}
    bench = Bench(weights, [("osft", {"rank": 8})], name, settings)
    bench.run(50)
    for place, start in weights.items():
        assert max(errors(start, bench[place], 8)) < 1e-5
        assert not torch.equal(bench[place], start)


@pytest.mark.parametrize("name", ["adamw", "sgd", "sign", "apollo"])
def test_bf16_weights_hold_to_their_rounding(name: str) -> None:
    """It does not add up: as far off after 200 steps as after 20."""
    start = matrix(24, 16).bfloat16()
    settings = {"learning_rate": 3e-3, "weight_decay": 0.01}
    bench = Bench({NAME: start}, [("osft", {"rank": 8})], name, settings)
    off = []
    for first, last in ((0, 20), (20, 200)):
        bench.run(last, first=first)
        off.append(max(errors(start, bench[NAME], 8)))
        # One rounding moves a number by less than 2^-7 of it; 24 of them are summed.
        assert off[-1] < 24**0.5 * 2**-7 * float(bench[NAME].abs().max())
    assert off[1] < 3 * off[0]
    assert float((bench[NAME] - start).float().norm()) > 0.3


def test_retained_ranks_follow_importance() -> None:
    """The equation of the digest on similarities that are computed by hand."""
    loaded = tiny_model("llama")
    optimization = recipe([]).build()["optimization"][0]
    rule = Osft(Osft.Config(ranks="importance", share=0.6, least=0.2, texts=2))
    parameters = dict(loaded.model.named_parameters())
    setting = Setting(loaded, sample_lesson(), anchors=ANCHORS)
    assert isinstance(optimization, PerParameter)
    rule.prepare(parameters, setting, optimization)
    rule.begin(0)
    sums = {}
    for text in ANCHORS:
        ids = torch.tensor([setting.encode(text).ids])
        states = loaded.model(ids, output_hidden_states=True).hidden_states
        for number, layer in enumerate(loaded.model.model.layers):
            inputs = layer.input_layernorm(states[number]).double()[0]
            outputs = inputs @ layer.self_attn.q_proj.weight.double().t()
            cosines = (inputs * outputs).sum(-1) / inputs.norm(dim=-1) / outputs.norm(dim=-1)
            sums[number] = sums.get(number, 0.0) + float(cosines.detach().sum())
    found = importances(
        setting,
        {n: p for n, p in parameters.items() if n.endswith("q_proj.weight")},
        [setting.encode(text) for text in ANCHORS],
    )
    positive = [max(0.0, sums[number]) for number in range(2)]
    mean = sum(positive) / 2
    for number in range(2):
        name = f"model.layers.{number}.self_attn.q_proj.weight"
        assert found[name] == pytest.approx(positive[number] / mean, abs=1e-4)
    square = [n for n, p in parameters.items() if n in rule._split and p.shape[0] == p.shape[1]]
    shares = [rule._importance[name] for name in square]
    assert sum(shares) / len(shares) == pytest.approx(1.0)
    assert len(set(rule.frozen(name, parameters[name]) for name in square)) > 1
    for name, kept in rule._split.items():
        small = min(parameters[name].shape)
        importance = rule._importance.get(name, 1.0)
        expected = int(min(small, small * (0.2 + importance * (0.6 - 0.2)) + 1e-9))
        assert len(kept["values"]) == expected
        assert name in square or importance == 1.0


def test_a_growing_budget_frees_the_first_lesson_and_stops_at_the_share() -> None:
    loaded = tiny_model("llama")
    lessons = [sample_lesson(f"old {number}", f"Corvath{number}") for number in range(9)]
    optimization = recipe([]).build()["optimization"][0]
    assert isinstance(optimization, PerParameter)
    shares = []
    for count in range(10):
        rule = Osft(Osft.Config(budget="lessons", lessons=10, share=0.7, ranks="equal"))
        setting = Setting(loaded, sample_lesson(), lessons[:count])
        rule.prepare(dict(loaded.model.named_parameters()), setting, optimization)
        shares.append(rule.frozen(NAME, torch.empty(200, 100)) / 100)
    assert shares == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.7, 0.7]


@pytest.mark.parametrize("form", ["strict", "paper_block"])
@pytest.mark.parametrize("ranks", ["equal", "importance"])
def test_osft_has_the_bytes_that_it_says(form: str, ranks: str) -> None:
    loaded = tiny_model("llama")
    rule = Osft(Osft.Config(form=form, ranks=ranks, share=0.55))
    optimization = recipe([]).build()["optimization"][0]
    assert isinstance(optimization, PerParameter)
    parameters = dict(loaded.model.named_parameters())
    planned = rule.state_bytes(
        {n: torch.nn.Parameter(p.detach().to("meta")) for n, p in parameters.items()}
    )
    rule.prepare(parameters, Setting(loaded, sample_lesson(), anchors=ANCHORS), optimization)
    rule.begin(0)
    formula = 0
    for kept in rule._split.values():
        (large, k), small = kept["left"].shape, kept["right"].shape[0]
        inner = large * k + k + small * small if form == "strict" else k * (large + small + 1)
        formula += 4 * inner
    live = sum(tensor.nbytes for tensor in rule.state_dict().values())
    assert live == formula == rule.state_bytes(parameters)
    assert ranks == "importance" or planned == live


def test_split_is_the_svd_where_squares_lose_their_digits() -> None:
    """Singular values down to nothing: the Gram matrix alone would give no left directions."""
    for start in (matrix(30, 20) @ torch.diag(10.0 ** -torch.arange(20.0)), torch.zeros(30, 20)):
        kept = split(start, 15, whole=True)
        left, right = kept["left"].double(), kept["right"].double()
        assert torch.allclose(left.t() @ left, torch.eye(15).double(), atol=1e-6)
        assert torch.allclose(right.t() @ right, torch.eye(20).double(), atol=1e-6)
        rebuilt = (left * kept["values"].double()) @ right[:, :15].t()
        assert torch.allclose(rebuilt, start.double(), atol=1e-6)


@pytest.mark.parametrize("name", ["osft", "sst", "switchlora"])
def test_a_rank_above_the_smaller_side_is_warned_of(name: str) -> None:
    rank, few = {"rank": 99}, {"min_steps": 1, "max_steps": 1}
    with pytest.warns(EngrainWarning, match=f"{name}: rank 99 is above the smaller side of"):
        if name == "osft":
            learned(recipe([(name, rank)], **few))
        else:
            learned(recipe([], architecture=Choice(name, rank), **few))


def test_others_are_trained_frozen_or_held() -> None:
    weights = {
        NAME: matrix(24, 16),
        "model.embed_tokens.weight": matrix(40, 16, seed=2),
        "model.norm.weight": torch.ones(16),
    }
    for others in ("train", "freeze", "hold"):
        bench = Bench(weights, [("osft", {"rank": 8, "others": others})])
        bench.run(20)
        table, norm = bench["model.embed_tokens.weight"], bench["model.norm.weight"]
        off = max(errors(weights["model.embed_tokens.weight"], table, 8))
        assert (off < 1e-5) == (others != "train")
        assert torch.equal(table, weights["model.embed_tokens.weight"]) == (others == "freeze")
        assert torch.equal(norm, torch.ones(16)) == (others == "freeze")
        assert max(errors(weights[NAME], bench[NAME], 8)) < 1e-5


@pytest.mark.parametrize("rule", [("osft", {"ranks": "importance"}), ("trust_predictions", {})])
def test_rules_look_at_a_model_whose_frozen_weights_are_bf16_for_a_while(
    rule: tuple[str, dict[str, Any]],
) -> None:
    """The output layer of an untied model is held in the compute type while a lesson is learned."""
    set_compute("bfloat16")
    loaded = tiny_model("llama", tied=False)
    result = learned(recipe([rule], min_steps=2, max_steps=2), loaded)
    assert any(bool(change.any()) for change in result.adapter.tensors.values())


def test_osft_is_refused_where_no_weight_of_the_model_is_trained() -> None:
    with pytest.raises(ConfigError, match="no matrix to hold") as caught:
        learned(recipe([("osft", {})], architecture=Choice("lora")))
    assert "full" in caught.value.remedy


# Trust regions (arXiv 1708.03888, 1904.00962, 1502.05477)


@pytest.mark.parametrize("since", ["lesson", "step"])
def test_weights_stay_in_their_ball_as_a_plain_loop_in_fp64_has_them(since: str) -> None:
    start = matrix(12, 8)
    rules = [("trust_weights", {"share": 0.05, "since": since})]
    bench = Bench({NAME: start}, rules, "sgd", {"learning_rate": 0.02})
    weight, bound = start.double(), 0
    torch.manual_seed(0)
    for step in range(30):
        gradient = torch.randn(12, 8) * (1 + step % 3)
        bench.step(step, {NAME: gradient})
        centre = start.double() if since == "lesson" else weight
        weight = weight - 0.02 * gradient.double()
        change, radius = weight - centre, 0.05 * centre.norm()
        if change.norm() > radius:
            weight, bound = centre + change * radius / change.norm(), bound + 1
        assert torch.allclose(bench[NAME].double(), weight, atol=1e-5)
    assert 3 < bound < 30
    if since == "lesson":
        assert float((bench[NAME] - start).norm()) < 0.0501 * float(start.norm())
    else:
        assert float((bench[NAME] - start).norm()) > 0.1 * float(start.norm())


@pytest.mark.parametrize("since", ["lesson", "step"])
def test_a_ball_that_is_not_left_changes_no_bit(since: str) -> None:
    weights = {NAME: matrix(12, 8), "model.norm.weight": torch.ones(8)}
    plain, wide = (
        Bench(weights, rules)
        for rules in ([], [("trust_weights", {"share": 10.0, "since": since})])
    )
    plain.run(10), wide.run(10)
    assert all(torch.equal(plain[name], wide[name]) for name in weights)


def test_balls_of_bf16_weights_hold_to_their_rounding_and_zeros_are_not_held() -> None:
    start = matrix(24, 16).bfloat16()
    weights = {NAME: start, "lora_B": torch.zeros(8, 4)}
    bench = Bench(weights, [("trust_weights", {"share": 0.02})], settings={"learning_rate": 1e-2})
    rule = bench.rules[0]
    assert isinstance(rule, Rule)
    bench.run(100)
    moved = float((bench[NAME].float() - start.float()).norm()) / float(start.float().norm())
    assert 0.015 < moved < 0.02 + 2**-7
    assert bool(bench["lora_B"].any())
    assert sum(t.nbytes for t in rule.state_dict().values()) == rule.state_bytes(bench.weights)


PREDICTIONS = {"radius": 0.02, "slower": 0.5, "every": 4, "texts": 64, "top_k": 300}


class Spy(TrustPredictions):
    """Keeps what was measured, and every share of a change that was tried."""

    def end(self, step: int) -> None:
        self.__dict__.setdefault("shares", [])
        before = {n: p.detach().clone() for n, p in self._parameters.items()}
        factor = float(self._factor)
        super().end(step)
        if float(self._factor) < factor:
            after = {n: p.detach().clone() for n, p in self._parameters.items()}
            self.__dict__["shares"].append((step, before, after))


def full_divergence(loaded: LoadedModel, weights: dict[str, Tensor], setting: Setting) -> float:
    """KL of whole distributions from ordinary forwards, every text by itself, fp64."""
    taught = [t for old in setting.earlier for t in old.balanced()]
    texts = [(t, False) for t in taught] + [(t, True) for t in setting.anchors]
    now = loaded.base_weights() | {n: w.clone() for n, w in weights.items()}
    total, tokens = 0.0, 0
    found = {}
    for state, which in ((loaded.base_weights(), "then"), (now, "now")):
        loaded.set_weights(state)
        with torch.no_grad():
            found[which] = [
                torch.log_softmax(
                    loaded.model(torch.tensor([setting.encode(t).ids])).logits.double(), -1
                )[0]
                for t, _ in texts
            ]
    loaded.reset()
    for (text, every), then, later in zip(texts, found["then"], found["now"], strict=True):
        mask = torch.tensor(setting.encode(text).loss_mask)
        at = (torch.ones_like(mask) if every else mask)[1:]
        divergence = (then.exp() * (then - later)).sum(-1)[:-1][at]
        total, tokens = total + float(divergence.sum()), tokens + int(at.sum())
    return total / tokens


def setting_of(loaded: LoadedModel) -> Setting:
    return Setting(loaded, sample_lesson(), [OLD], ANCHORS, 3, 12)


@pytest.mark.parametrize("back_to", ["start", "checked"])
@pytest.mark.parametrize("architecture", ["full", "lora"])
def test_a_lesson_ends_inside_the_region_of_predictions(architecture: str, back_to: str) -> None:
    """Measured by other code than the rule's, over whole distributions."""
    loaded = tiny_model("llama")
    base = loaded.base_weights()
    found = {}
    for rules in ([], [("trust_predictions", {**PREDICTIONS, "back_to": back_to})]):
        result = learned(recipe(rules, architecture=Choice(architecture)), loaded)
        merged = fold(base, [result.adapter])
        found[bool(rules)] = full_divergence(loaded, merged, setting_of(loaded))
    assert found[False] > 0.05
    assert 0.002 < found[True] < 0.02 * 1.001


def test_the_way_back_is_the_longest_that_bisection_can_find(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every sixteenth of the change is measured: the one that was kept is the last that holds."""
    monkeypatch.setitem(registry._techniques["optimization"], "trust_predictions", Spy)
    loaded = tiny_model("llama")
    spies: list[Any] = []
    monkeypatch.setattr(
        Spy, "prepare", lambda self, *a: (spies.append(self), TrustPredictions.prepare(self, *a))[0]
    )
    learned(recipe([("trust_predictions", PREDICTIONS)]), loaded)
    shares = spies[0].__dict__["shares"]
    assert shares
    setting, base = setting_of(loaded), loaded.base_weights()
    for _, before, after in shares:
        steps = [
            full_divergence(
                loaded,
                {n: base[n].lerp(w, sixteenth / 16) for n, w in before.items()},
                setting,
            )
            for sixteenth in range(17)
        ]
        last = max(number for number, value in enumerate(steps) if value <= 0.02)
        assert last < 16 and steps == sorted(steps)
        for name, weight in after.items():
            assert torch.allclose(weight, base[name].lerp(before[name], last / 16), atol=1e-6)


def test_the_rate_falls_with_each_way_back_and_the_rule_is_silent_inside() -> None:
    loaded = tiny_model("llama")
    plain = learned(recipe([]), loaded)
    wide = learned(recipe([("trust_predictions", {**PREDICTIONS, "radius": 100.0})]), loaded)
    assert digest(plain) == digest(wide) and plain.losses == wide.losses
    rule = TrustPredictions(TrustPredictions.Config(**{**PREDICTIONS, "radius": 0.0}))
    optimization: Any = registry.build("optimization", "adamw", PLAIN | {"learning_rate": 0.01})
    setting = setting_of(loaded)
    trained = {
        n: p.requires_grad_(True) for n, p in loaded.model.named_parameters() if "layers" in n
    }
    optimization.prepare(trained, setting)
    optimization.follow([rule], setting)
    rates = []
    for step in range(12):
        for parameter in trained.values():
            parameter.grad = torch.ones_like(parameter)
        optimization.begin(step)
        rates.append(optimization.rate(step))
        optimization.step(step)
    assert rates == [0.01] * 4 + [0.005] * 4 + [0.0025] * 4
    # With no room at all the weights are those before the lesson, to the bit.
    assert loaded.changed_since(loaded.stored()) == []
    state = sum(tensor.nbytes for tensor in rule.state_dict().values())
    assert state == rule.state_bytes(trained)


def test_weights_that_are_no_numbers_go_back_to_the_start() -> None:
    loaded = tiny_model("llama")
    rule = TrustPredictions(TrustPredictions.Config(**PREDICTIONS))
    optimization: Any = registry.build("optimization", "adamw", PLAIN)
    trained = {n: p for n, p in loaded.model.named_parameters() if "layers" in n}
    optimization.prepare(trained, setting_of(loaded))
    optimization.follow([rule], setting_of(loaded))
    with torch.no_grad():
        trained[NAME].fill_(torch.nan)
    rule.end(3)
    assert loaded.changed_since(loaded.stored()) == []


def test_predictions_can_not_be_held_without_texts() -> None:
    with pytest.raises(ConfigError, match="no text on which to measure") as caught:
        learned(recipe([("trust_predictions", {})]), earlier=[], anchors=[])
    assert "trust_weights" in caught.value.remedy


def test_what_a_lesson_corrects_is_not_held() -> None:
    """The new lesson tells boat and kite anew: of the old one nothing is known any more."""
    setting = setting_of(tiny_model("llama"))
    old = sample_lesson("old", "Corvath")
    taught, general = known_texts(setting, 64, "x")
    assert {example.lesson for example in taught} == {"old"} and len(general) == len(ANCHORS)
    replaced, _ = known_texts(replace(setting, earlier=[old]), 64, "x")
    about = {example.ids for example in replaced}
    assert about.isdisjoint(setting.encode(text, "old").ids for text in old.facts())
    # Half and half, where both are there.
    taught, general = known_texts(setting, 3, "x")
    assert (len(taught), len(general)) == (1, 2)


# All of them

RULES: list[tuple[str, dict[str, Any]]] = [
    ("osft", {"ranks": "importance", "share": 0.6, "others": "freeze"}),
    ("osft", {"form": "paper_block", "ranks": "equal", "others": "hold"}),
    ("trust_weights", {"share": 0.02}),
    ("trust_weights", {"share": 0.002, "since": "step"}),
    ("trust_predictions", PREDICTIONS),
    ("trust_predictions", {**PREDICTIONS, "back_to": "checked"}),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rule", RULES)
def test_a_step_inside_backward_is_the_ordinary_step(
    rule: tuple[str, dict[str, Any]], dtype: torch.dtype
) -> None:
    runs = []
    for release in (False, True):
        loaded = tiny_model("llama")
        loaded.model.to(dtype)
        runs.append(learned(recipe([rule], gradient_release=release), loaded))
    assert runs[0].losses == runs[1].losses
    assert digest(runs[0]) == digest(runs[1])


def test_rules_go_together() -> None:
    """All three at once: each still keeps its promise."""
    loaded = tiny_model("llama")
    base = loaded.base_weights()
    rules = [
        ("osft", {"rank": 16}),
        ("trust_weights", {"share": 0.05}),
        ("trust_predictions", PREDICTIONS),
    ]
    merged = fold(base, [learned(recipe(rules), loaded).adapter])
    for name, weight in base.items():
        assert float((merged[name] - weight).norm()) < 0.0501 * float(weight.norm())
        if ".layers." in name and weight.ndim == 2:
            assert max(errors(weight, merged[name], 16)) < 1e-5
    assert full_divergence(loaded, merged, setting_of(loaded)) < 0.02 * 1.001


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rule", RULES[:4])
def test_matrices_without_a_gradient_or_with_none_to_follow(
    rule: tuple[str, dict[str, Any]], dtype: torch.dtype
) -> None:
    weights = {NAME: matrix(24, 16).to(dtype), NAME.replace("0", "1"): matrix(16, 24).to(dtype)}
    bench = Bench(weights, [rule])
    for step in range(10):
        bench.step(step, {NAME: torch.zeros(24, 16)})
    assert torch.allclose(bench[NAME].float(), weights[NAME].float(), rtol=2**-6, atol=1e-5)
    assert torch.equal(bench[NAME.replace("0", "1")], weights[NAME.replace("0", "1")])


# Resume


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rule", RULES)
def test_a_run_resumes_to_the_bit_through_a_file(
    rule: tuple[str, dict[str, Any]], dtype: torch.dtype, tmp_path: Path
) -> None:
    """At, before and after a check where there are any; what is saved loads without pickle."""
    chosen, points = recipe([rule]), (3, 4, 5) if "every" in rule[1] else (4,)

    def model() -> LoadedModel:
        loaded = tiny_model("llama")
        loaded.model.to(dtype)
        return loaded

    whole = saved_at(points, lambda **how: learned(chosen, model(), **how), tmp_path)
    for at in points:
        resumed = learned(chosen, model(), checkpoint=tmp_path / f"{at}", save_every=100)
        assert resumed.resumed_from == at
        assert resumed.losses == whole.losses and digest(resumed) == digest(whole)


def test_state_is_tensors_of_its_own_types(tmp_path: Path) -> None:
    weights = {NAME: matrix(24, 16).bfloat16(), NAME.replace("0", "1"): matrix(9, 9).bfloat16()}
    rules = [("osft", {"share": 0.5, "ranks": "equal"}), ("trust_weights", {"share": 0.001})]
    bench, other = Bench(weights, rules), Bench(weights, rules)
    bench.run(3)
    for old, new in zip(bench.rules, other.rules, strict=True):
        state = old.state_dict()
        assert state and all(isinstance(tensor, Tensor) for tensor in state.values())
        new.load_state_dict(load(save({name: t.contiguous() for name, t in state.items()})))
        again = new.state_dict()
        assert {n: (t.dtype, t.shape) for n, t in again.items()} == {
            n: (t.dtype, t.shape) for n, t in state.items()
        }
        assert all(torch.equal(state[name], again[name]) for name in state)
