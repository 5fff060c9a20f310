"""The logit anchor: whose logits it holds, when it pays, and k-FPF-KD that it makes with k-fpf."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from engrain.learn.optimization.fpf import cycles
from engrain.learn.recipe import Choice
from engrain.learn.regularization.logit_anchor import LogitAnchor, LogitAnchorConfig
from engrain.learn.technique import Setting
from engrain.learn.testing import sample_lesson
from engrain.model.loading import LoadedModel
from engrain.model.testing import tiny_model
from tests.learn.schedules import STEPS, digest, recipe, run


def earlier() -> Any:
    """A lesson that the sample lesson does not correct."""
    old = sample_lesson("old", "Corvath")
    texts = tuple(replace(t, group=t.group.replace("my", "her")) for t in old.texts)
    return replace(old, texts=texts)


def prepared(loaded: LoadedModel, steps: int = 20, **settings: Any) -> LogitAnchor:
    anchor = LogitAnchor(LogitAnchorConfig(**settings))
    anchor.prepare(Setting(loaded, sample_lesson(), (earlier(),), steps=steps))
    return anchor


@pytest.mark.usefixtures("fp32")
def test_it_is_the_squared_distance_to_the_logits_before() -> None:
    """Against the model's own forward over each text, alone and in fp64."""
    loaded = tiny_model("llama")
    anchor = prepared(loaded, strength=0.5, texts_per_step=1, top_k=7)
    setting = Setting(loaded, sample_lesson())
    texts = [setting.encode(t, "old") for t in earlier().balanced()]

    def logits(example: Any) -> torch.Tensor:
        with torch.no_grad():
            found = loaded.model(torch.tensor([example.ids])).logits[0].double()
        return found.roll(1, 0)[torch.tensor(example.loss_mask)]

    before = [logits(example) for example in texts]
    assert float(anchor.penalty(0).detach()) == 0
    with torch.no_grad():
        for tensor in loaded.weights().values():
            tensor.add_(0.1 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(3)))
    expected = []
    for old, example in zip(before, texts, strict=True):
        index = old.topk(7, dim=-1).indices
        gap = logits(example).gather(-1, index) - old.gather(-1, index)
        expected.append(0.5 * float(gap.square().mean()))
    found = [float(anchor.penalty(step).detach()) for step in range(len(texts))]
    assert sorted(found) == pytest.approx(sorted(expected), rel=1e-4)


def test_it_pays_in_the_phases_of_k_fpf_alone() -> None:
    loaded = tiny_model("llama")
    anchor = prepared(loaded, phases=2, share=0.3)
    with torch.no_grad():
        for tensor in loaded.weights().values():
            tensor.add_(0.1)
    phases = {s for c in cycles(20, 2, 0.3) for s in range(c.phase, c.end)}
    assert {s for s in range(20) if float(anchor.penalty(s).detach())} == phases != set()


def test_no_text_is_passed_over_by_phases() -> None:
    """Four texts, phases every fourth step: going by the step itself would come to one of them."""
    loaded = tiny_model("llama")
    anchor = prepared(loaded, texts_per_step=1, phases=5, share=0.25)
    with torch.no_grad():
        for tensor in loaded.weights().values():
            tensor.add_(0.1)
    paid = [float(anchor.penalty(step).detach()) for step in range(20)]
    assert len(anchor._batches) == 4 and sum(p > 0 for p in paid) == 5
    assert len({p for p in paid if p}) == 4


def test_what_is_corrected_or_not_there_is_not_held() -> None:
    loaded = tiny_model("llama")
    for older in ((), (sample_lesson("old", "Corvath"),)):
        anchor = LogitAnchor(LogitAnchorConfig())
        setting = Setting(loaded, sample_lesson(), older)
        anchor.prepare(setting)
        assert float(anchor.penalty(0)) == 0 and anchor.cost(setting).kept_bytes == 0
    anchor = prepared(loaded)
    kept = sum(values.nbytes + index.nbytes for values, index in anchor._kept)
    assert kept == anchor.cost(anchor._setting).kept_bytes > 0


def test_k_fpf_kd_changes_what_phases_do() -> None:
    phases = {"phases": 3, "share": 0.34}
    made = recipe("k-fpf", phases | {"budget": 0.4, "looks": 2})

    def held(strength: float) -> Any:
        choice = Choice("logit_anchor", phases | {"strength": strength})
        return run(replace(made, regularization=(choice,)), earlier=[earlier()])

    found = [held(0.0), held(10.0)]
    plain = run(made, earlier=[earlier()])
    assert digest(found[0]) == digest(plain) != digest(found[1])
    first = cycles(STEPS, 3, 0.34)[0].phase
    assert found[1].losses[:first] == plain.losses[:first]
    assert found[1].losses[first] > plain.losses[first]
