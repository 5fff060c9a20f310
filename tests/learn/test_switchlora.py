"""SwitchLoRA: directions are exchanged and the function stays, against a loop as in the paper."""

import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from engrain.errors import ConfigError
from engrain.learn import registry
from engrain.learn.architecture.switchlora import SIDES, Switches, SwitchLoraConfig
from engrain.learn.fold import fold
from engrain.learn.learner import Learner
from engrain.learn.recipe import Choice, Recipe
from engrain.learn.technique import Optimization, Setting
from engrain.learn.testing import check_technique, sample_lesson
from engrain.model.digest import tensor_digest
from engrain.model.hardware import set_compute
from engrain.model.testing import tiny_model
from tests.learn.toys import Adam, Toy, resumes, tiny

OFTEN = {"rank": 4, "interval": 4.0, "frozen": 2, "decay": 1.0}


def plan(rank: int, pool: int, steps: int, phase: float = 0.3, **settings: Any) -> Switches:
    config = SwitchLoraConfig(rank=rank, **settings)
    return Switches.of(config, (pool, pool + 3), steps, phase)


# ---------------------------------------------------------------------------- when, and which


def test_exchanges_have_the_papers_rate() -> None:
    steps, rank = 400, 16
    plans = [plan(rank, 64, steps, phase / 64) for phase in range(64)]
    for step in (0, 10, 100, 300):
        wanted = rank / 40 * 0.3 ** ((step + 1) / (0.1 * steps))
        for side in SIDES:
            assert statistics.mean(len(p.after(side, step)) for p in plans) == pytest.approx(
                wanted, abs=1 / 64
            )
    whole = sum(rank / 40 * 0.3 ** ((step + 1) / 40) for step in range(steps - 1))
    assert all(abs(p.count - 2 * whole) <= 2 for p in plans)
    assert not plans[0].after("A", steps - 1)


@pytest.mark.parametrize("rank", [1, 2, 3, 4, 7, 16])
@pytest.mark.parametrize(("interval", "frozen"), [(4.0, 2), (10.0, 5), (7.5, 3), (40.0, 5)])
def test_a_direction_never_stands_still_on_both_sides(
    rank: int, interval: float, frozen: int
) -> None:
    for phase in (0.0, 0.25, 0.5, 0.75, 0.99):
        switches = plan(rank, 32, 120, phase, interval=interval, frozen=frozen, decay=1.0)
        seen: dict[tuple[str, int], int] = {}
        for step in range(120):
            still = {side: switches.still(side, step) for side in SIDES}
            assert not set(still["A"]) & set(still["B"])
            for side in SIDES:
                for place in still[side]:
                    seen[side, place] = seen.get((side, place), 0) + 1
        assert len(seen) == 2 * rank


def test_every_candidate_is_in_one_place_and_comes_back_in_turn() -> None:
    """A pool with slots that are taken and given back, against the numbers' arithmetic."""
    switches = plan(4, 9, 60, interval=4.0, frozen=2, decay=1.0)
    for side in SIDES:
        place_of = {switches.place(side, number): 5 + number for number in range(4)}
        waiting = set(range(9)) - set(place_of.values())
        total = switches.done[side][-1]
        assert total > 20
        taken = []
        for step in range(60):
            for number in switches.after(side, step):
                place, slot = switches.place(side, number), number % 9
                assert slot in waiting
                assert place_of[place] == (number - 4) % 9
                waiting = waiting - {slot} | {place_of[place]}
                place_of[place] = slot
                taken.append(slot)
                assert len(waiting) == 5 and not waiting & set(place_of.values())
        for number in range(total):
            assert switches.returns(side, number) == ((number - 4) % 9 in taken[number + 1 :])


def test_a_direction_is_frozen_for_exactly_n_steps_after_an_exchange() -> None:
    switches = plan(8, 32, 80, interval=20.0, frozen=5, decay=1.0)
    number, at = next((n, t) for t in range(80) for n in switches.after("A", t))
    place = switches.place("A", number)
    assert [t for t in range(at + 9) if place in switches.still("B", t)] == [*range(at + 1, at + 6)]


# ---------------------------------------------------------------------------- the mathematics


@pytest.mark.parametrize(("m", "n"), [(6, 10), (10, 6)])
def test_it_is_the_papers_loop_with_a_dense_matrix_and_pools(m: int, n: int) -> None:
    """The exchange written into W, whole pools, an Adam for each vector, in fp64."""
    steps, rank, frozen, k = 40, 4, 2, 6
    toy = Toy(m, n, "switchlora", steps, alpha=2.0, **OFTEN).optimize()
    switches, scale = toy.layer.switches, 2.0 / rank
    assert any(switches.returns("A", j) for j in range(switches.done["A"][-1]))
    draw = toy.architecture.candidate
    pools = {
        side: torch.stack([draw("map", side, slot, (m, n)) for slot in range(k)]).double()
        for side in SIDES
    }
    # A's rows are the last candidates; B's columns too, shifted by half of them.
    home = {"A": [k - rank + i for i in range(rank)], "B": [0] * rank}
    for j in range(rank):
        home["B"][(j + rank // 2) % rank] = k - rank + j
    vectors = {side: [pools[side][slot].clone() for slot in home[side]] for side in SIDES}
    adams = {side: [Adam(vector) for vector in vectors[side]] for side in SIDES}
    rest = {side: [0] * rank for side in SIDES}

    def product() -> torch.Tensor:
        return scale * torch.stack(vectors["B"], 1) @ torch.stack(vectors["A"])

    dense = toy.base.double() - product()
    position, phase = 0.0, toy.setting.rng("switchlora", "map").random()
    pointer = {"A": 0, "B": rank // 2}
    for step in range(steps):
        gradient = scale * toy.gradient(dense + product(), step)
        gradients = {
            "A": [gradient.t() @ b for b in vectors["B"]],
            "B": [gradient @ a for a in vectors["A"]],
        }
        for side in SIDES:
            for i in range(rank):
                if rest[side][i]:
                    rest[side][i] -= 1
                else:
                    vectors[side][i] = vectors[side][i] + adams[side][i].change(gradients[side][i])
        toy.step(step)
        count = 0
        if step < steps - 1:
            count = math.floor(position + rank / 4.0 + phase) - math.floor(position + phase)
            position += rank / 4.0
        slot = {side: switches._done(side, step) for side in SIDES}
        for side, other in (("A", "B"), ("B", "A")):
            for _ in range(count):
                i, new = pointer[side] % rank, slot[side] % k
                before = product()
                pools[side][home[side][i]] = vectors[side][i]
                vectors[side][i], home[side][i] = pools[side][new].clone(), new
                dense = dense + before - product()
                rest[other][i], adams[other][i] = frozen, Adam(vectors[other][i])
                pointer[side] += 1
                slot[side] += 1
        toy.architecture.stepped(step, toy.optimization)
        change = dense + product() - toy.base.double()
        assert torch.allclose(toy.delta().double(), change, atol=2e-4), step
    assert switches.count > 60


def test_an_exchange_leaves_the_function_and_uses_what_was_trained() -> None:
    toy = Toy(12, 20, "switchlora", 30, **OFTEN).optimize()
    jumps = 0
    for step in range(30):
        toy.step(step)
        before, factors = toy.delta(), {s: toy.layer.factors[s].detach().clone() for s in SIDES}
        toy.architecture.stepped(step, toy.optimization)
        assert torch.allclose(toy.delta(), before, atol=1e-6)
        now = toy.layer.factors
        changed = [int((now[s] != factors[s]).any(d).sum()) for s, d in (("A", 1), ("B", 0))]
        assert changed == [len(toy.layer.switches.after(s, step)) for s in SIDES]
        jumps += sum(changed)
    assert jumps == toy.layer.switches.count > 40


def test_without_steps_exchanges_change_nothing_at_all() -> None:
    toy = Toy(12, 20, "switchlora", 30, **OFTEN).optimize(learning_rate=0.0).run()
    assert toy.layer.switches.count > 40
    assert not bool(toy.delta().any())


def test_what_stands_still_is_still_and_begins_without_moments() -> None:
    toy = Toy(12, 20, "switchlora", 30, **OFTEN).optimize(weight_decay=0.5)
    fresh = {side: set[int]() for side in SIDES}
    begun = 0
    for step in range(30):
        before = {s: toy.layer.factors[s].detach().clone() for s in SIDES}
        toy.step(step)
        state = toy.optimization.state_dict()
        toy.architecture.stepped(step, toy.optimization)
        for side in SIDES:
            still = set(toy.layer.switches.still(side, step))
            exchanged = {
                toy.layer.switches.place(side, n) for n in toy.layer.switches.after(side, step)
            }
            for place in range(4):
                now, then = (
                    toy.layer.vector(side, place, {side: tensor})
                    for tensor in (toy.layer.factors[side], before[side])
                )
                if place not in exchanged:
                    assert torch.equal(now, then) == (place in still)
                if place in fresh[side] - still:
                    # Its first step after standing still: one step was counted.
                    assert float(state[f"map.switched_{side}.step"].view(-1)[place]) == 1
                    begun += 1
            counts = toy.optimization.state_dict()[f"map.switched_{side}.step"].view(-1)
            moments = toy.optimization.state_dict()[f"map.switched_{side}.exp_avg"]
            for place in toy.layer.switches.still(side, step + 1):
                assert float(counts[place]) == 0
                assert not bool(toy.layer.vector(side, place, {side: moments}).any())
            fresh[side] = still
    assert begun > 10


def test_without_exchanges_it_is_a_lora_that_starts_elsewhere() -> None:
    toy = Toy(6, 10, "switchlora", 12, rank=3, interval=1e9, alpha=1.0).optimize()
    a, b = (toy.layer.factors[s].detach().double() for s in SIDES)
    start, adams = b @ a / 3, (Adam(a), Adam(b))
    assert bool((b != 0).all())
    for step in range(12):
        gradient = toy.gradient(toy.base.double() + b @ a / 3 - start, step) / 3
        a, b = a + adams[0].change(b.t() @ gradient), b + adams[1].change(gradient @ a.t())
    toy.run()
    assert toy.layer.switches.count == 0
    assert torch.allclose(toy.delta().double(), b @ a / 3 - start, atol=1e-5)


def test_the_change_grows_beyond_the_rank() -> None:
    def rank_of(**settings: Any) -> int:
        toy = Toy(24, 30, "switchlora", 40, **settings).optimize().run()
        values = torch.linalg.svdvals(toy.delta())
        return int((values > 1e-4 * values[0]).sum())

    assert rank_of(rank=2, interval=4.0, frozen=2, decay=1.0) == 24
    assert rank_of(rank=2, interval=1e9, frozen=2) == 4


def test_with_all_directions_in_training_nothing_is_exchanged() -> None:
    toy = Toy(6, 10, "switchlora", 20, **(OFTEN | {"rank": 6})).optimize().run()
    assert toy.layer.switches.count == 0
    assert Toy(6, 10, "switchlora", 20, **(OFTEN | {"rank": 99})).layer.switches.rank == 6


def test_entries_have_the_papers_spread() -> None:
    """With alpha 1 the product is as large as a freshly drawn matrix (Kaiming, a = sqrt 5)."""
    m, n, rank = 300, 500, 40
    toy = Toy(m, n, "switchlora", 2, rank=rank)
    a, b = (toy.layer.factors[s].detach() for s in SIDES)
    assert float(a.std()) == pytest.approx((m**0.5 * rank / n**1.5) ** 0.25 / 3**0.25, rel=0.02)
    assert float(b.std()) == pytest.approx((rank / (m * n) ** 0.5) ** 0.25 / 3**0.25, rel=0.02)
    assert float((b @ a / rank).std()) == pytest.approx((1 / (3 * n)) ** 0.5, rel=0.1)


def test_what_can_not_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="stand still for 5 steps") as caught:
        Toy(6, 10, "switchlora", 4, interval=9.0)
    assert "twice frozen" in caught.value.remedy

    class Together(Optimization):
        name, Config = "together", SwitchLoraConfig

    toy = Toy(6, 10, "switchlora", 4)
    with pytest.raises(ConfigError, match="moves its parameters together"):
        toy.architecture.stepped(0, Together(SwitchLoraConfig()))


# ---------------------------------------------------------------------------- on models


def recipe(steps: int = 8, release: bool = False, **settings: Any) -> Recipe:
    return Recipe(
        "switch",
        architecture=Choice("switchlora", OFTEN | settings),
        optimization=Choice("adamw", {"clip": 0.0, "learning_rate": 0.02}),
        batch_size=2,
        min_steps=steps,
        max_steps=steps,
        gradient_release=release,
    )


@pytest.fixture
def computed_in_fp32() -> Iterator[None]:
    set_compute("float32")
    yield
    set_compute()


@pytest.mark.usefixtures("computed_in_fp32")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_adapter_is_what_was_trained(kind: str, dtype: torch.dtype) -> None:
    loaded = tiny(dtype, kind)
    base = {name: tensor.clone() for name, tensor in loaded.weights().items()}
    ids = torch.tensor([[5, 9, 77, 30, 21]])
    seen: list[torch.Tensor] = []

    def watch(done: int, steps: int, loss: float) -> None:
        if done == steps:
            with torch.no_grad():
                seen.append(loaded.model(ids, attention_mask=torch.ones_like(ids)).logits)

    result = Learner(recipe()).run(loaded, sample_lesson(), on_step=watch)
    assert loaded.changed_since(base) == []
    architecture: Any = registry.build("architecture", "switchlora", OFTEN)
    setting = Setting(loaded, sample_lesson(), steps=8)
    assert result.adapter.nbytes == architecture.storage_bytes(setting)
    ranks = [len(t) for name, t in result.adapter.tensors.items() if "lora_A" in name]
    assert min(ranks) > 2 * 4
    loaded.set_weights(fold(base, [result.adapter]))
    with torch.no_grad():
        served = loaded.model(ids, attention_mask=torch.ones_like(ids)).logits
    bound = 1e-4 if dtype == torch.float32 else 0.2
    assert torch.allclose(seen[0].float(), served.float(), atol=bound)
    assert not torch.allclose(served.float(), result_of(kind, dtype, ids).float(), atol=bound)


def result_of(kind: str, dtype: torch.dtype, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = (
            tiny(dtype, kind).model(ids, attention_mask=torch.ones_like(ids)).logits
        )
    return logits


def test_peft_reads_the_adapter() -> None:
    import peft

    loaded = tiny_model("llama")
    result = Learner(recipe()).run(loaded, sample_lesson())
    ids = torch.tensor([[5, 9, 77, 30, 21]])
    fields = peft.LoraConfig.__dataclass_fields__
    config = peft.LoraConfig(**{k: v for k, v in result.adapter.settings.items() if k in fields})
    config.base_model_name_or_path = None
    theirs = peft.get_peft_model(tiny_model("llama").model, config)
    peft.set_peft_model_state_dict(theirs, dict(result.adapter.tensors))
    theirs.eval()
    loaded.set_weights(fold(loaded.base_weights(), [result.adapter]))
    with torch.no_grad():
        assert torch.allclose(theirs(ids).logits, loaded.model(ids).logits, atol=1e-4)


def test_the_suite_holds_while_it_exchanges(monkeypatch: pytest.MonkeyPatch) -> None:
    cls: Any = registry.get("architecture", "switchlora")

    class Often(SwitchLoraConfig):
        def __init__(self, **settings: Any) -> None:
            super().__init__(**(OFTEN | settings))

    monkeypatch.setattr(cls, "Config", Often)
    assert len(check_technique("architecture", "switchlora")) == 9


def test_state_and_working_memory_have_the_bytes_that_are_said() -> None:
    toy = Toy(6, 10, "switchlora", 40, **OFTEN).optimize().run(0, 1)
    live = sum(tensor.nbytes for tensor in toy.optimization.state_dict().values())
    said = toy.optimization.state_bytes(toy.architecture.would_train(toy.setting))
    assert live == said == 8 * 4 * (6 + 10) + 4 * 2 * 4
    most = 0
    for step in range(1, 40):
        toy.step(step)
        toy.architecture.stepped(step, toy.optimization)
        kept = [t for side in SIDES for t in toy.layer.trained[side].values()]
        most = max(most, sum(t.nbytes for t in kept))
    stored = toy.architecture.storage_bytes(toy.setting)
    assert toy.architecture.working_bytes(toy.setting) == stored + most
    assert most == 4 * (6 - 4) * (6 + 10)


def test_steps_inside_backward_are_the_ordinary_ones() -> None:
    one, other = (
        Learner(recipe(release=release)).run(tiny_model("llama"), sample_lesson())
        for release in (False, True)
    )
    assert one.losses == other.losses and len(set(one.losses)) == 8
    assert tensor_digest(dict(one.adapter.tensors)) == tensor_digest(dict(other.adapter.tensors))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_resumes_before_at_and_after_an_exchange(dtype: torch.dtype, tmp_path: Path) -> None:
    run, setting = recipe(6, interval=12.0), Setting(tiny_model("llama"), sample_lesson(), seed=4)
    phase = setting.rng("switchlora", "model.layers.0.mlp.up_proj").random()
    switches = plan(4, 64, 6, phase, interval=12.0, frozen=2, decay=1.0)
    exchanged = [step for step in range(6) for side in SIDES if switches.after(side, step)]
    assert set(exchanged) & {1, 2, 3}
    resumes(run, tmp_path, dtype, (1, 2, 3, 4, 5))
