"""A run that stopped goes on in a new process, to the bit: every technique, around what it does
now and then.

One process learns with each technique and keeps copies of its checkpoint; a second one resumes each
copy. What a technique does every so many steps it does every fourth here, so that checkpoints from
before and after that step are resumed.
"""

import json
import subprocess
import sys
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from engrain.learn import registry
from engrain.learn.learner import Learner, LearnResult
from engrain.learn.recipe import SEVERAL, Recipe, slot_of
from engrain.learn.technique import CATEGORIES
from engrain.learn.testing import recipe_with, sample_lesson
from engrain.model import hardware
from engrain.model.digest import tensor_digest
from engrain.model.testing import tiny_model
from tests.learn.schedules import ANCHORS
from tests.learn.toys import saved_at

STEPS, EVERY, STOPS = 8, 4, (3, 5)
"""Steps of a run; steps between two refreshes; steps after which a run stopped."""
SPARSE = ("every", "interval", "refresh", "reset")
"""Settings that count the steps between two events."""
OWN: dict[str, dict[str, Any]] = {
    "context_frozen": {"live": 2},
    "fpf": {"share": 0.5, "looks": 2, "budget": 0.4},
    "galore-8bit": {"rank": 64},
    "k-fpf": {"phases": 3, "share": 0.5, "looks": 2, "budget": 0.4},
    "osft": {"ranks": "importance", "share": 0.6, "rank": 0},
    "owlore": {"layers": 1, "threshold": 3.0},
    "refactor": {"interval": 2, "warmup": 1},
    "sst": {"draw": 2, "round": 2},
    "switchlora": {"frozen": 2, "decay": 1.0},
    "trust_predictions": {"radius": 0.02},
}
"""What else makes something happen at the fourth step and around it."""
ROOT = Path(__file__).parents[2]
BOTH = {"float32": torch.float32, "bfloat16": torch.bfloat16}
KINDS = {"architecture": tuple(BOTH), "optimization": ("bfloat16",)}
ALL = [
    (category, name, kind)
    for category in CATEGORIES
    for name in registry.names(category)
    for kind in KINDS.get(category, ("float32",))
]

RESUME = """
import json, sys
from pathlib import Path
import torch
from tests.learn import test_fresh_process as t
torch.set_num_threads(int(sys.argv[2]))
t.hardware.set_compute(sys.argv[3])
for path in sorted(Path(sys.argv[1]).glob("*/*")):
    found = t.learned(*path.parent.name.split("+"), checkpoint=path, save_every=100)
    print(json.dumps([path.parent.name, found.resumed_from, t.digest(found)]))
"""


def recipe(category: str, name: str) -> Recipe:
    """A recipe around one technique; an optimization moves all weights."""
    made = recipe_with(category, name, min_steps=STEPS, max_steps=STEPS)
    technique = registry.get(category, name)
    place = slot_of(technique)
    if place == "optimization":
        made = made.with_settings({"architecture": "full"})
    place += f".{name}" if place in SEVERAL else ""
    known = {field.name for field in fields(technique.Config)}
    settings = dict.fromkeys(SPARSE, EVERY) | {"rank": 8} | OWN.get(name, {})
    return made.with_settings({f"{place}.{key}": settings[key] for key in known & settings.keys()})


def stops(category: str, name: str, kind: str) -> tuple[int, ...]:
    """Two, around the fourth step, where something happens then; else one says as much."""
    known = {field.name for field in fields(registry.get(category, name).Config)}
    return STOPS if name in OWN or known & set(SPARSE) else STOPS[:1]


def learned(category: str, name: str, kind: str, **more: Any) -> LearnResult:
    loaded = tiny_model("llama")
    loaded.model.to(BOTH[kind])
    earlier = [sample_lesson("old", "Corvath")]
    return Learner(recipe(category, name)).run(
        loaded, sample_lesson(), earlier=earlier, anchors=ANCHORS, seed=5, **more
    )


def digest(result: LearnResult) -> str:
    return tensor_digest(dict(result.adapter.tensors))


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The whole runs' digests, and what the second process told of each stop."""
    folder = tmp_path_factory.mktemp("stopped")
    whole = {}
    for technique in ALL:
        name = "+".join(technique)
        learn = partial(learned, *technique)
        whole[name] = digest(saved_at(stops(*technique), learn, folder / name))
    command = [sys.executable, "-c", RESUME, str(folder), str(torch.get_num_threads())]
    command.append(hardware.compute_type())
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    found: dict[str, Any] = {name: {"whole": own} for name, own in whole.items()}
    for line in ran.stdout.splitlines():
        name, resumed_from, own = json.loads(line)
        found[name][resumed_from] = own
    return found


@pytest.mark.parametrize("technique", ALL, ids="+".join)
def test_a_fresh_process_goes_on_to_the_bit(
    technique: tuple[str, str, str], told: dict[str, Any]
) -> None:
    own = told["+".join(technique)]
    assert own == dict.fromkeys(("whole", *stops(*technique)), own["whole"])
