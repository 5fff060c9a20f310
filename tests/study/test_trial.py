"""The trial of a model's manners: what is asked, and what is counted as well done."""

from types import SimpleNamespace

import pytest

from engrain.exam.probes import holds
from engrain.model.testing import byte_tokenizer
from engrain.study import requests, trial
from engrain.study.requests import WORKED

UNKNOWN = {
    "en": "I don't know. You haven't told me.",
    "de": "Das weiß ich nicht, das hast du mir nicht gesagt.",
    "es": "No lo sé, no me lo has dicho.",
    "fr": "Je ne sais pas, tu ne me l'as pas dit.",
}


class Model:
    """Knows the talks; ``lists`` makes the line that it lists of one."""

    def __init__(self, lists=None, *, invents=False):
        self.loaded = SimpleNamespace(tokenizer=byte_tokenizer(), max_length=8192)
        self.lists = lists or (lambda talk: f"{talk.answer} | {talk.ask}")
        self.invents = invents
        self.prompts = []

    def generate(self, prompts, **how):
        self.prompts += prompts
        return [self._answer(prompt) for prompt in prompts]

    def _answer(self, prompt):
        talk = next(t for t in trial.talks() if t.messages[0] in prompt)
        question = prompt[-1].content
        if question.startswith("Notes on"):
            return self.lists(talk)
        if question == talk.untold and not self.invents:
            return UNKNOWN[talk.language]
        return f"It is {talk.answer}."


def test_the_set_is_small_and_half_of_it_is_not_english():
    talks = trial.talks()
    assert len(talks) == 12 and sum(talk.language != "en" for talk in talks) == 6
    assert len({talk.messages[0].content for talk in talks}) == 12
    for talk in talks:
        said, reply = (message.content for message in talk.messages)
        assert talk.answer in talk.told
        for value in talk.told:
            assert holds(said, value) and not holds(reply, value), value
            assert not holds(talk.untold, talk.answer)
        assert not holds(talk.ask, talk.answer)


def test_a_model_with_manners_is_found_to_have_them():
    seen = []
    found = trial.run_trial(Model(), taught=True, on_talk=lambda *at: seen.append(at))
    assert (found.reads, found.abstains, found.asks) == (12, 12, 12) and found.mannered
    assert seen[-1] == (12, 12) and len(seen) == 12


def test_a_model_that_invents_reads_and_does_not_abstain():
    found = trial.run_trial(Model(invents=True), taught=False)
    assert (found.reads, found.abstains) == (12, 0) and not found.mannered


@pytest.mark.parametrize(
    "line",
    [
        lambda talk: "none",
        lambda talk: f"something else | {talk.ask}",
        # The answer stands in the question.
        lambda talk: f"{talk.answer} | Is it {talk.answer}?",
        # It asks for another thing than it says.
        lambda talk: f"{talk.answer} | {talk.untold}",
    ],
)
def test_lines_that_teach_nothing_are_not_counted(line):
    assert trial.run_trial(Model(line), taught=True).asks == 0


def test_an_untaught_model_sees_worked_examples_where_it_lists_and_nowhere_else():
    model = Model()
    trial.run_trial(model, taught=False)
    lists = [p for p in model.prompts if p[-1].content.startswith("Notes on")]
    others = [p for p in model.prompts if p not in lists]
    assert all(p[: len(WORKED)] == list(WORKED) for p in lists)
    assert not any(p[0] == WORKED[0] for p in others)


def test_a_trial_is_kept_by_model_lesson_zero_and_what_is_asked(tmp_path, monkeypatch):
    found = trial.Trial(12, 10, 2, 5, taught=False)
    kept = trial.Kept(tmp_path, "a" * 64)
    assert kept.read() is None
    kept.keep(found)
    assert kept.read() == found
    assert trial.Kept(tmp_path, "b" * 64).read() is None
    assert trial.Kept(tmp_path, "a" * 64, "c" * 64).read() is None
    kept.path.write_text("{}")
    assert kept.read() is None, "what is damaged is measured again"
    before = kept.path
    monkeypatch.setattr(requests, "CLAIMS", "something else")
    assert kept.path != before
