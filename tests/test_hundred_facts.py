"""The benchmark of a hundred facts: what is drawn and recorded, and that a kill costs little."""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from benchmarks import hundred_facts as bench
from engrain.exam.probes import passes
from engrain.home import Home
from engrain.study.secrets import find_secrets


def test_facts_are_invented_and_drawn_under_the_seed() -> None:
    facts = bench.draw(100, 0)
    assert facts == bench.draw(120, 0)[:100] != bench.draw(100, 1)
    words = [word for fact in facts for word in (*fact.person.split(), fact.town)]
    assert len(set(map(str.casefold, words))) == 300
    assert bench.HELD_OUT not in bench.TAUGHT and len(set(bench.TAUGHT)) == 6
    for fact, other in pairwise(facts):
        target = fact.examples()[0]["completion"]
        assert passes(fact.probe(bench.HELD_OUT), target)
        assert not passes(other.probe(bench.HELD_OUT), target)
        assert all(not find_secrets(example["prompt"]) for example in fact.examples())


@pytest.mark.parametrize(("count", "lessons"), [(100, 10), (7, 3), (2, 5), (4, 1)])
def test_every_fact_is_in_one_lesson(count: int, lessons: int) -> None:
    facts = bench.draw(count, 0)
    found = bench.parts(facts, lessons)
    assert [fact for part in found for fact in part] == facts
    assert len(found) == min(count, lessons)
    assert max(map(len, found)) - min(map(len, found)) <= 1


def test_it_goes_on_where_it_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "facts.json"
    words = ["--model", "tiny", "--facts", "4", "--lessons", "2", "--items", "2", "--threads", "1"]
    words += ["--recipe", "naive-lora,batch_size=2", "--set", "min_steps=2", "--set", "max_steps=2"]
    words += ["--folder", str(tmp_path / "homes"), "--json", str(target)]
    monkeypatch.setattr(sys, "argv", ["hundred_facts", *words])
    learned: list[str] = []
    really, write = Home.learn, bench.write_json

    def learn(self: Home, source: Any, *given: Any, **named: Any) -> Any:
        learned.append(Path(source).name)
        return really(self, source, *given, **named)

    def killed(*given: Any) -> Any:
        write(*given)
        raise KeyboardInterrupt

    monkeypatch.setattr(Home, "learn", learn)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(bench, "write_json", killed)
        bench.main()
    assert learned == ["lesson-1.jsonl"]
    assert bench.main() == 1, "a random model does not reach the bars"
    assert learned == ["lesson-1.jsonl", "lesson-2.jsonl"]
    record = json.loads(target.read_text())
    (found,) = record["arms"].values()
    assert [row["facts"] for row in found["lessons"]] == [2, 2]
    assert [row["so_far"]["asked"] for row in found["lessons"]] == [2, 4]
    assert found["held_out"]["asked"] == 4 and found["taught"]["asked"] == 24
    assert 0 <= found["held_out"]["interval"]["low"] <= found["held_out"]["interval"]["high"] <= 1
    cost = found["perplexity"]
    assert cost["percent"] == pytest.approx(100 * (cost["after"] / cost["before"] - 1))
    assert cost["percent_low"] <= cost["percent_high"] and cost["before"] > 1
    assert found["strangers"]["asked"] == bench.STRANGERS and not found["reaches_the_bars"]
    assert found["recipe"]["batch_size"] == 2 and record["seed"] == 0 and record["machine"]
    # What is there is not made again, and another setting needs a file of its own.
    assert bench.main() == 1 and len(learned) == 2
    assert json.loads(target.read_text())["arms"] == record["arms"]
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--seed", "1"])
    with pytest.raises(SystemExit, match="another setting"):
        bench.main()
