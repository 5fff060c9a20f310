import random

from engrain.data.facts import HELDOUT
from engrain.dream.neighbours import PEOPLE, WHAT, WHO, neighbours


def test_neighbours_differ_and_are_both_mine_and_others() -> None:
    found = neighbours(200, random.Random(1))
    assert len({part.thing for part in found}) == 200
    mine = [part for part in found if "'s " not in part.thing]
    assert 40 < len(mine) < 120
    assert all(part.direct == f"{part.direct.split()[0]} is {part.thing}" for part in found)
    assert {part.direct.split()[0] for part in found} == {"what", "who"}
    assert neighbours(200, random.Random(1)) == found


def test_no_neighbour_is_asked_in_exams() -> None:
    """An exam's relation or owner as contrast would be taught as unknown."""
    heads = {a.noun.split()[-1] for a in HELDOUT.attributes["self"]}
    assert not heads & {noun.split()[-1] for noun in (*WHAT, *WHO)}
    assert not {owner.name for owner in HELDOUT.owners} & set(PEOPLE)
