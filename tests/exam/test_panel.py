import gzip
import json
import math
import re
from pathlib import Path

import pytest

from engrain.data.lessons import Probe, chat
from engrain.errors import ConfigError, UnknownNameError
from engrain.exam.panel import (
    ASKED_PARTS,
    PARTS,
    AskItem,
    ChoiceItem,
    LossText,
    Panel,
    PanelResult,
    load_panel,
    run_panel,
)
from tests.exam.fakes import FakeEngine

SHARED = Path(__file__).parents[2] / "../shared/data"
TINY = Panel(
    "tiny",
    "1",
    (LossText("plain", "book", "x" * 100), LossText("talk", "chat", messages=chat("Hi", "Hello"))),
    (
        ChoiceItem("short", "one", (("Q", " a b"), ("Q", " abc")), 1),
        ChoiceItem("long", "two", (("Q", " right"), ("Q", " wrong one")), 1, per_token=False),
    ),
    (
        AskItem("arithmetic", Probe("sum", "norm", chat("1 plus 1?"), ("2",))),
        AskItem("format", Probe("caps", "norm", chat("Shout!")), r"[A-Z]+"),
        AskItem("format", Probe("word", "norm", chat("One word?"), ("blue",)), r"\w+\W?"),
        AskItem(
            "abstention", Probe("safe", "abstention", chat("My safeword?")), "", ("I", "safeword")
        ),
        AskItem(
            "abstention",
            Probe("barber", "abstention", chat("My barber?")),
            about=("my barber", "volunteer in"),
        ),
    ),
)


def test_run_panel_scores_every_kind_of_item() -> None:
    answers = {"1 plus 1?": "It is 2.", "Shout!": "HEY", "One word?": "It is blue."}
    result = run_panel(FakeEngine(answers), TINY)
    assert {name: item.passed for name, item in result.items.items()} == {
        "short": False,  # by token " a b" costs 2, " abc" 4
        "long": False,
        "sum": True,
        "caps": True,
        "word": False,  # the right word, in more than one
        "safe": False,
        "barber": False,
    }
    assert result.loss == pytest.approx((99 * 1.0 + 24 * 0.25) / 123)
    assert result.figures()["format"] == 0.5
    assert result.parts["format"].interval.low == pytest.approx(0.0126, abs=1e-3)
    assert result.tasks["one"].count == 1
    assert set(result.figures()) == {"loss", "capability", "arithmetic", "format", "abstention"}


def test_length_normalisation_is_by_token() -> None:
    engine = FakeEngine(likelihood=lambda prompt, rest: -2.0 if "b" in rest else -1.5)
    assert run_panel(engine, TINY, parts=["capability"]).items["short"].answer == "a b"
    # Ties and NaN never pass by luck of the order.
    engine = FakeEngine(likelihood=lambda prompt, rest: math.nan)
    assert run_panel(engine, TINY, parts=["capability"]).figures() == {"capability": 0.0}


def test_each_part_is_asked_by_itself() -> None:
    engine = FakeEngine()
    run_panel(engine, TINY, parts=["format"])
    assert engine.asked == [["Shout!", "One word?"]]
    with pytest.raises(UnknownNameError, match="part of a panel"):
        run_panel(engine, TINY, parts=["formats"])


def test_results_survive_json_and_keep_their_figures() -> None:
    result = run_panel(FakeEngine(), TINY)
    again = PanelResult.from_dict(json.loads(json.dumps(result.to_dict())))
    assert again == result
    assert again.loss == result.loss
    assert again.change_percent(result) == 0
    broken = run_panel(FakeEngine(loss=math.nan), TINY)
    assert json.loads(json.dumps(broken.to_dict(), allow_nan=False))["loss"]["value"] is None
    assert math.isnan(PanelResult.from_dict(broken.to_dict()).loss)


def test_the_digest_is_of_what_is_asked() -> None:
    assert Panel.from_dict(TINY.to_dict()).digest == TINY.digest
    record = TINY.to_dict()
    record["sources"] = [{"name": "other"}]
    assert Panel.from_dict(record).digest == TINY.digest
    record["questions"][0]["answers"] = ["3"]
    assert Panel.from_dict(record).digest != TINY.digest


def test_told_things_are_taken_out_of_abstention() -> None:
    assert TINY.touched_by(["What is my safeword?"]) == {"safe"}
    assert TINY.touched_by(["My BARBER volunteers in Lund."]) == {"barber"}
    assert TINY.touched_by(["My barber sings.", "I volunteer in Lund."]) == set()


def test_a_smaller_panel_is_another_panel() -> None:
    small = TINY.smaller({"loss": 1, "capability": 1, "abstention": 1})
    assert small.counts() == {
        "loss": 1,
        "capability": 1,
        "arithmetic": 1,
        "format": 2,
        "abstention": 1,
    }
    assert small.digest != TINY.digest
    tasks = [item.task for item in load_panel().smaller({"capability": 7}).choices]
    assert len(set(tasks)) == 7
    with pytest.raises(UnknownNameError):
        TINY.smaller({"everything": 1})


# ---------------------------------------------------------------------------- the packaged one
def test_the_default_panel_is_whole() -> None:
    panel = load_panel()
    assert panel.counts() == {
        "loss": 40,
        "capability": 70,
        "arithmetic": 20,
        "format": 12,
        "reading": 24,
        "locality": 24,
        "abstention": 24,
    }
    ids = [item.id for item in (*panel.texts, *panel.choices)]
    ids += [item.probe.id for item in panel.questions]
    assert len(set(ids)) == len(ids)
    assert {item.part for item in panel.questions} == set(ASKED_PARTS)
    assert set(PARTS) >= set(ASKED_PARTS)
    assert all(0 <= item.gold < len(item.options) >= 2 for item in panel.choices)
    # Choosing the same place every time must not pay.
    first = sum(item.gold == 0 for item in panel.choices)
    assert first < 0.55 * len(panel.choices)


def test_every_text_names_a_source_whose_licence_allows_shipping() -> None:
    panel = load_panel()
    sources = {source["name"]: source for source in panel.sources}
    used = {text.source for text in panel.texts} | {item.task for item in panel.choices}
    assert used <= set(sources)
    for source in sources.values():
        assert source["licence"] and source["from"] and source["title"] and source["changes"]
        assert not re.search(r"\b(NC|ND|SA)\b", source["licence"])


def test_the_questions_of_the_panel_are_sound() -> None:
    for item in load_panel().questions:
        told = " ".join(message.content for message in item.probe.messages[:-1])
        asked = item.probe.messages[-1].content
        if item.part == "abstention":
            assert not item.probe.answers
            assert item.passes("I don't know. You have not told me.")
        elif item.part == "reading":
            assert all(answer in told for answer in item.probe.answers)
            assert not any(answer in asked for answer in item.probe.answers)
            assert item.passes(item.probe.answers[0])
        elif item.part == "arithmetic":
            # Neither repeating the question nor passing by the result must pass.
            result = item.probe.answers[0]
            assert not item.passes(asked)
            assert not item.passes(f"{result} plus 99 is 100.")
            assert item.passes(f"{asked} It is {result}.")
            assert item.passes(f"{item.probe.answers[1].capitalize()}.")
        if item.part != "abstention":
            assert not item.passes("I don't know.")
            assert not item.passes("")


@pytest.mark.parametrize(
    ("question", "good", "bad"),
    [
        ("Say the word river.", "River.", "The word river is nice"),
        ("Answer with one word: what color is the sky?", "Blue.", "It is blue."),
        ("Answer yes or no: can fish swim?", "Yes, they can.", "They can, yes."),
        ("Write the word garden in capital letters.", "GARDEN", "Garden"),
        ("Count from 1 to 5.", "1, 2, 3, 4, 5", "1, 2, 3"),
        ("Name two colors, with a comma between them.", "Red, blue.", "Red and blue"),
        ("Spell the word cat with hyphens.", "C-A-T", "cat"),
        ("Repeat after me: the lamp is on.", "The lamp is on.", "Yes, the lamp is on."),
    ],
)
def test_formats_are_checked_to_the_letter(question: str, good: str, bad: str) -> None:
    item = next(i for i in load_panel().part("format") if i.probe.messages[-1].content == question)
    assert item.passes(good)
    assert not item.passes(bad)


def test_the_panel_file_is_small() -> None:
    import engrain.exam

    folder = Path(engrain.exam.__file__).parent / "panels"
    assert sum(file.stat().st_size for file in folder.iterdir()) < 300_000


def test_panels_that_can_not_be_read_say_so(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="'defautl'.*'default'"):
        load_panel("defautl")
    with pytest.raises(ConfigError, match="no panel file"):
        load_panel(str(tmp_path / "none.json"))
    path = tmp_path / "panel.json"
    path.write_text("{")
    with pytest.raises(ConfigError, match="can't be read"):
        load_panel(str(path))
    path.write_text('{"format": 2}')
    with pytest.raises(ConfigError, match="format 2"):
        load_panel(str(path))
    path.write_text('{"format": 1, "name": "x"}')
    with pytest.raises(ConfigError, match="can't be read"):
        load_panel(str(path))
    cut = tmp_path / "cut.json.gz"
    cut.write_bytes(gzip.compress(b"{}")[:-6])
    with pytest.raises(ConfigError, match="can't be read"):
        load_panel(str(cut))
    path.write_text(json.dumps(TINY.to_dict()))
    assert load_panel(str(path)) == TINY


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data, which is not shipped")
def test_building_is_the_same_every_time() -> None:
    from training.panel.build import build

    panel = build(SHARED)
    assert panel.digest == build(SHARED).digest
    # Whatever was drawn from data is what the package holds; facts follow their own tables.
    assert (panel.texts, panel.choices) == (load_panel().texts, load_panel().choices)
