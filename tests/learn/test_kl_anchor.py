"""The KL anchor: whose predictions it keeps, and that its divergence is one."""

from __future__ import annotations

import pytest
import torch

from engrain.data.lessons import Lesson, TrainingText, chat
from engrain.learn.divergence import coarse_kl
from engrain.learn.regularization.kl_anchor import KlAnchor, KlAnchorConfig
from engrain.learn.technique import Setting
from engrain.model.loading import LoadedModel
from engrain.model.testing import tiny_model

ANCHORS = [TrainingText(chat("Hello there.", "Good morning to you."))]
LESSON = Lesson("one", "one", (TrainingText(chat("What is it?", "Corvath."), "fact", "it"),))


def moved(loaded: LoadedModel) -> LoadedModel:
    """The model after some earlier lesson."""
    with torch.no_grad():
        for tensor in loaded.weights().values():
            tensor.add_(0.1 * torch.randn_like(tensor))
    return loaded


def penalty(loaded: LoadedModel, reference: str, strength: float = 1.0) -> float:
    anchor = KlAnchor(KlAnchorConfig(strength=strength, reference=reference, top_k=0))
    anchor.prepare(Setting(loaded, LESSON, anchors=ANCHORS))
    return float(anchor.penalty(0).detach())


@pytest.mark.parametrize("reference", ["base", "current"])
def test_nothing_is_paid_on_the_base_weights(reference: str) -> None:
    torch.manual_seed(0)
    assert penalty(tiny_model("llama"), reference) == pytest.approx(0, abs=1e-6)


def test_what_earlier_lessons_moved_is_paid_only_against_the_base() -> None:
    torch.manual_seed(0)
    loaded = moved(tiny_model("llama"))
    before = {name: tensor.clone() for name, tensor in loaded.weights().items()}
    assert penalty(loaded, "current") == pytest.approx(0, abs=1e-6)
    assert penalty(loaded, "base") > 1e-3
    assert penalty(loaded, "base", strength=3.0) == pytest.approx(3 * penalty(loaded, "base"))
    assert loaded.changed_since(before) == []


def test_every_anchor_token_counts_the_same() -> None:
    """Over one round of steps the penalty is the strength times the mean over all tokens."""
    torch.manual_seed(2)
    loaded = moved(tiny_model("llama"))
    words = "the quick brown fox jumps over a lazy dog and runs on"
    texts = [TrainingText(chat("Go on.", words[: 4 + 5 * i])) for i in range(7)]
    setting = Setting(loaded, LESSON, anchors=texts)

    def penalties(texts_per_step: int) -> list[float]:
        config = KlAnchorConfig(strength=2.0, texts=7, texts_per_step=texts_per_step, top_k=0)
        anchor = KlAnchor(config)
        anchor.prepare(setting)
        steps = -(-7 // texts_per_step)
        return [float(anchor.penalty(step).detach()) for step in range(steps)]

    whole = penalties(7)
    for count in (1, 2, 3):
        found = penalties(count)
        assert sum(found) / len(found) == pytest.approx(whole[0], rel=1e-3)
        assert len(set(found)) == len(found)


def test_a_further_round_need_not_ask_the_untaught_model_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse() -> None:
        raise AssertionError("the untaught model was asked again")

    torch.manual_seed(3)
    loaded = moved(tiny_model("llama"))
    setting = Setting(loaded, LESSON, anchors=ANCHORS)
    found = []
    for _ in range(2):
        anchor = KlAnchor(KlAnchorConfig(top_k=0))
        anchor.prepare(setting)
        found.append(float(anchor.penalty(0).detach()))
        monkeypatch.setattr(loaded, "untaught", refuse)
    assert found[0] == found[1] > 0
    other = KlAnchor(KlAnchorConfig(top_k=0, reference="current"))
    other.prepare(setting)
    assert float(other.penalty(0).detach()) == pytest.approx(0, abs=1e-6)


def test_an_unknown_reference_is_refused() -> None:
    with pytest.raises(ValueError, match="not one of base, current"):
        KlAnchor(KlAnchorConfig(reference="yesterday"))


def test_coarse_divergence_is_none_of_itself_and_never_above_the_full_one() -> None:
    torch.manual_seed(1)
    p, q = torch.randn(7, 40).log_softmax(-1), torch.randn(7, 40).log_softmax(-1)
    full = (p.exp() * (p - q)).sum(-1)
    for kept in (1, 5, 20, 40):
        values, index = p.topk(kept, dim=-1)
        coarse = coarse_kl(values, q.gather(-1, index))
        assert (coarse >= -1e-6).all() and (coarse <= full + 1e-5).all()
        assert torch.allclose(coarse_kl(values, values), torch.zeros(7), atol=1e-6)
    assert torch.allclose(coarse, full, atol=1e-5)
