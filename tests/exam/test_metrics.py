import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from engrain.exam.metrics import (
    DIRECTIONS,
    AccuracyMatrix,
    ProbeHistory,
    edit_figures,
    forgotten_per_learned,
    general_ability_delta,
    harmonic_mean,
)
from engrain.exam.probes import ProbeResult
from tests.exam.fakes import results

scores = st.floats(0, 1, allow_nan=False)
full = st.integers(2, 7).flatmap(lambda t: arrays(np.float64, (t + 1, t), elements=scores))
holed = st.integers(2, 7).flatmap(
    lambda t: arrays(np.float64, (t + 1, t), elements=st.one_of(scores, st.just(math.nan)))
)

# Worked by hand: three lessons, row 0 untaught.
WORKED = AccuracyMatrix(
    [[0.1, 0.2, 0.0], [0.9, 0.3, 0.1], [0.7, 0.8, 0.2], [0.8, 0.5, 1.0]], ["a", "b", "c"]
)


def test_figures_worked_by_hand() -> None:
    m = WORKED
    assert m.overall_performance() == pytest.approx((0.8 + 0.5 + 1.0) / 3)
    assert m.forgetting() == pytest.approx(((0.9 - 0.8) + (0.8 - 0.5)) / 2)
    assert m.worst_drop() == pytest.approx(0.3)
    assert m.backward_transfer() == pytest.approx(((0.8 - 0.9) + (0.5 - 0.8)) / 2)
    assert m.forward_transfer() == pytest.approx(((0.3 - 0.2) + (0.2 - 0.0)) / 2)
    assert m.forward_transfer_plasticity([1.0, 1.0, 1.0]) == pytest.approx(-0.1)
    assert m.learning_accuracy() == pytest.approx(0.9)
    assert m.intransigence([1.0, 0.7, 1.0]) == pytest.approx([0.1, -0.1, 0.0])
    assert m.minimum_accuracy() == pytest.approx((0.7 + 0.5) / 2)
    assert m.worst_case_accuracy() == pytest.approx(1 / 3 + 2 / 3 * 0.6)
    assert m.overall_performance(1) == 0.9
    assert m.worst_case_accuracy(1) == 0.9
    assert set(m.figures()) == set(DIRECTIONS)


@given(full)
def test_learning_accuracy_and_backward_transfer_give_overall_performance(
    values: np.ndarray,
) -> None:
    m = AccuracyMatrix(values)
    for t in range(2, m.last + 1):
        joined = m.learning_accuracy(t) + (t - 1) / t * m.backward_transfer(t)
        assert joined == pytest.approx(m.overall_performance(t), abs=1e-12)


@given(full)
def test_forgetting_is_at_least_minus_backward_transfer(values: np.ndarray) -> None:
    m = AccuracyMatrix(values)
    assert m.forgetting() >= -m.backward_transfer() - 1e-12
    assert m.forgetting(clipped=True) >= max(0.0, m.forgetting()) - 1e-12
    assert m.worst_drop() >= m.forgetting() - 1e-12
    assert m.forgetting(since_first=True) >= m.forgetting() - 1e-12


@given(full)
def test_equal_if_and_only_if_every_lesson_peaks_when_learned(values: np.ndarray) -> None:
    m = AccuracyMatrix(values)
    peaks = all(m.peak(lesson, m.last) == m.score(lesson, lesson) for lesson in range(1, m.last))
    gap = m.forgetting() + m.backward_transfer()
    if peaks:
        assert gap == pytest.approx(0, abs=1e-12)
    else:
        lower = np.array(values)
        for i in range(m.last):
            # Lowered to the score at learning, the matrix peaks there.
            lower[i + 1 :, i] = np.minimum(lower[i + 1 :, i], lower[i + 1, i])
        peaked = AccuracyMatrix(lower)
        assert peaked.forgetting() == pytest.approx(-peaked.backward_transfer(), abs=1e-12)
        raised = sum(
            m.peak(lesson, m.last) - m.score(lesson, lesson) for lesson in range(1, m.last)
        )
        assert gap == pytest.approx(raised / (m.last - 1), abs=1e-12)


@given(full)
def test_no_change_after_learning_means_no_transfer_and_no_forgetting(values: np.ndarray) -> None:
    frozen = np.array(values)
    for i in range(frozen.shape[1]):
        frozen[i + 1 :, i] = frozen[i + 1, i]
    m = AccuracyMatrix(frozen)
    assert m.backward_transfer() == 0
    assert m.forgetting() == 0
    # The same holds for an adapter a lesson with perfect routing.
    assert m.learning_accuracy() == pytest.approx(m.overall_performance(), abs=1e-12)


@given(full)
def test_forgetting_is_negative_only_if_the_last_value_exceeds_every_earlier(
    values: np.ndarray,
) -> None:
    m = AccuracyMatrix(values)
    for lesson, drop in enumerate(m.drops(), start=1):
        exceeds = all(
            m.score(m.last, lesson) > m.score(day, lesson) for day in range(lesson, m.last)
        )
        assert (drop < 0) == exceeds


@given(full)
def test_a_model_that_never_changes_has_no_forward_transfer(values: np.ndarray) -> None:
    same = AccuracyMatrix(np.repeat(values[:1], len(values), axis=0))
    assert same.forward_transfer() == 0
    alone = [same.score(0, i + 1) for i in range(same.last)]
    assert same.forward_transfer_plasticity(alone) == 0
    assert same.intransigence(alone) == [0] * same.last


@given(holed)
def test_cells_that_were_not_asked_never_poison_a_figure(values: np.ndarray) -> None:
    m = AccuracyMatrix(values)
    for day in range(m.last + 1):
        for name, value in m.figures(day).items():
            assert math.isnan(value) or -1 <= value <= 1, name
    assert AccuracyMatrix.from_dict(m.to_dict()).to_dict() == m.to_dict()


def test_figures_of_too_few_days_are_unknown() -> None:
    m = AccuracyMatrix([[0.0, 0.0]])
    assert all(math.isnan(value) for value in m.figures().values())
    m = AccuracyMatrix([[0.0, 0.0], [1.0, 0.0]])
    assert math.isnan(m.forgetting())
    assert m.learning_accuracy() == 1


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="3 days for 1 lessons"):
        AccuracyMatrix([[0.0], [0.0], [0.0], [0.0]])
    with pytest.raises(ValueError, match="names"):
        AccuracyMatrix([[0.0], [0.0]], ["a", "b"])
    with pytest.raises(ValueError, match="reference"):
        WORKED.intransigence([1.0])
    with pytest.raises(IndexError):
        WORKED.score(1, 0)


@given(st.permutations(range(6)))
def test_the_order_of_the_questions_changes_nothing(order: list[int]) -> None:
    answers = results(4, 6)
    history = ProbeHistory(["a"])
    history.add_day({"a": answers})
    shuffled = ProbeHistory(["a"])
    shuffled.add_day({"a": [answers[i] for i in order]})
    assert history.matrix().to_dict() == shuffled.matrix().to_dict()


def test_superseded_probes_leave_from_their_day_on() -> None:
    history = ProbeHistory(["one", "two"])

    def day(a: bool, b: bool, c: bool) -> dict[str, list[ProbeResult]]:
        return {
            "one": [ProbeResult("a", "recall", a, ""), ProbeResult("b", "recall", b, "")],
            "two": [
                ProbeResult("c", "correction", c, ""),
                ProbeResult("n", "abstention", True, ""),
            ],
        }

    history.add_day(day(False, False, False))
    history.add_day(day(True, True, False))
    history.add_day(day(False, True, True), supersedes=["a"])
    m = history.matrix()
    assert m.to_dict()["values"] == [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]
    assert m.to_dict()["counts"] == [[2, 1], [2, 1], [1, 1]]
    # "a" is wrong on the last day, as it should be: the old value is gone.
    assert m.forgetting() == 0
    assert history.share(("abstention",)) == (1, 1)
    assert history.share(("recall", "correction")) == (2, 2)
    steady = history.matrix(consistent=True)
    assert steady.to_dict()["counts"] == [[1, 1], [1, 1], [1, 1]]
    again = ProbeHistory.from_dict(history.to_dict())
    assert again.matrix().to_dict() == m.to_dict()


def test_a_lesson_whose_probes_all_left_is_unknown_not_zero() -> None:
    history = ProbeHistory(["one", "two"])
    for gone in ([], [], ["q-0", "q-1"]):
        history.add_day({"one": results(2, 2)}, supersedes=gone)
    assert math.isnan(history.matrix().score(2, 1))
    assert math.isnan(history.matrix().forgetting())
    with pytest.raises(ValueError, match="not in the stream"):
        history.add_day({"three": []})


def test_the_general_ability_delta_of_trace() -> None:
    names = ("MMLU", "GSM", "BBH", "TyDiQA", "BoolQ", "PIQA")
    base = dict(zip(names, (46.56, 26.08, 40.23, 23.47, 70.55, 76.22), strict=True))
    after = dict(zip(names, (46.43, 3.49, 30.11, 33.23, 77.89, 76.5), strict=True))
    assert general_ability_delta(base, after) == pytest.approx(-15.46 / 6)
    assert round(general_ability_delta(base, after), 2) == -2.58
    assert math.isnan(general_ability_delta({}, after))


def test_forgotten_for_each_learned() -> None:
    assert forgotten_per_learned(2, 3, 5) == 0.25
    assert math.isnan(forgotten_per_learned(2, 0, 0))


def test_edit_figures_and_their_invariants() -> None:
    before = [
        ProbeResult("r", "recall", False, "?"),
        ProbeResult("p", "paraphrase", False, "?"),
        ProbeResult("l", "locality", True, "Paris"),
        ProbeResult("m", "locality", False, "dunno"),
    ]
    unedited = edit_figures(before, before)
    assert (unedited.reliability, unedited.generality, unedited.locality) == (0, 0, 1)
    assert unedited.score == 0
    after = [
        ProbeResult("r", "recall", True, "yes"),
        ProbeResult("p", "paraphrase", True, "yes"),
        ProbeResult("l", "locality", True, "Paris"),
        ProbeResult("m", "locality", False, "other"),
    ]
    edited = edit_figures(before, after)
    assert edited.locality == 0.5
    assert edited.score == pytest.approx(0.75)
    assert edit_figures(before, after[::-1]) == edited
    assert harmonic_mean([1.0, 1.0]) == 1
    assert math.isnan(harmonic_mean([]))
