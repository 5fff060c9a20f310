import json

import pytest
import torch

from engrain.exam.noise import (
    ASSUMED_FLIPS,
    NoiseBand,
    machine_fingerprint,
    measure_noise,
    noise_key,
)
from engrain.exam.panel import load_panel, run_panel
from tests.exam.fakes import FakeEngine

SMALL = load_panel().smaller(
    {"loss": 4, "capability": 14, "arithmetic": 2, "format": 2, "reading": 2, "locality": 2}
)
PARTS = ("loss", "capability")


class Model:
    """One weight that is the loss, and a buffer that no rounding touches."""

    base_digest = "base"

    def __init__(self) -> None:
        self.tensors = {"w": torch.tensor([0.01]), "steps": torch.tensor([7])}

    def weights(self) -> dict[str, torch.Tensor]:
        return self.tensors

    def set_weights(self, weights: dict[str, torch.Tensor]) -> None:
        self.tensors = {name: tensor.clone() for name, tensor in weights.items()}


class Engine(FakeEngine):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self.states: list[str] = []

    def set_state(self, digest: str) -> None:
        self.states.append(digest)

    def loss(self, texts: list[str], *, max_length: int = 256) -> float:
        return float(self.model.tensors["w"]) * 300


def test_the_band_is_twice_the_spread_of_rounding() -> None:
    model = Model()
    engine = Engine(model)
    done: list[tuple[int, int]] = []
    band = measure_noise(
        model, engine, SMALL, copies=60, parts=PARTS, on_copy=lambda *at: done.append(at)
    )
    loss = band.figures["loss"]
    # A loss proportional to one weight spreads as that weight: relative 2 ** -9.
    assert loss.deviation == pytest.approx(3.0 * 2**-9, rel=0.25)
    assert loss.band == 2 * loss.deviation
    assert loss.floor == loss.band
    choice = band.figures["capability"]
    assert (choice.band, choice.flips) == (0, 0)
    assert choice.floor == choice.granularity == 1 / 14
    assert done[-1] == (60, 60)
    assert set(band.figures) == set(PARTS)
    assert engine.states[-1] == "state"
    assert len(set(engine.states)) == 61


def test_weights_come_back_bit_for_bit_even_after_an_error() -> None:
    model = Model()
    before = {name: tensor.clone() for name, tensor in model.weights().items()}

    def stop(done: int, copies: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_noise(model, Engine(model), SMALL, copies=2, parts=PARTS, on_copy=stop)
    assert all(torch.equal(before[name], model.weights()[name]) for name in before)
    with pytest.raises(ValueError, match="2 copies"):
        measure_noise(model, Engine(model), SMALL, copies=1)


def test_the_same_seed_gives_the_same_band() -> None:
    first, again, other = _measure(0), _measure(0), _measure(1)
    assert first == again
    assert first.figures["loss"] != other.figures["loss"]


def _measure(seed: int) -> NoiseBand:
    model = Model()
    return measure_noise(model, Engine(model), SMALL, copies=3, seed=seed, parts=PARTS)


def test_a_band_survives_json() -> None:
    band = _measure(0)
    assert NoiseBand.from_dict(json.loads(json.dumps(band.to_dict()))) == band
    assert band.key == noise_key("base", SMALL.digest, machine_fingerprint())
    assert band.measured


def test_what_was_not_measured_is_assumed() -> None:
    band = NoiseBand.assumed()
    assert not band.measured
    assert band.of("loss", value=3.0).band == pytest.approx(0.003)
    assert band.of("reading", items=20).floor == 0.05
    assert band.of("reading", items=20).flips == ASSUMED_FLIPS


def test_a_tiny_model_keeps_its_digest() -> None:
    from engrain.model.engine import Engine as RealEngine
    from engrain.model.testing import tiny_model

    torch.set_num_threads(1)
    loaded = tiny_model("llama")
    engine = RealEngine(loaded)
    digest, state = loaded.weights_digest(), engine.state_digest
    plain = run_panel(engine, SMALL, parts=PARTS)
    band = measure_noise(loaded, engine, SMALL, copies=2, parts=PARTS, reference=plain)
    assert loaded.weights_digest() == digest
    assert engine.state_digest == state
    assert 0 < band.figures["loss"].band < 0.05 * plain.loss
    assert run_panel(engine, SMALL, parts=PARTS) == plain
