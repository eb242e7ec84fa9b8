"""Every metric by paper and pencil, on published rows, and against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from gfrlib import metrics

NAN = float("nan")
# Three tasks of 4, 2 and 2 classes; accuracy[t, k]. Task 0 is better after task 2 than
# after task 1, and task 1 after task 2 is better than ever: so best past, first and
# best of all differ.
MATRIX = np.array([[0.90, NAN, NAN], [0.60, 0.80, NAN], [0.70, 0.85, 0.50]])
SIZES = (4, 2, 2)

# After the tasks of a user's run of the official code (GFR-IL, issue 1), 50 + 5 x 10
# classes, in per cent.
ISSUE_1 = (
    np.array(
        [
            [78.0, NAN, NAN, NAN],
            [71.4, 70.6, NAN, NAN],
            [69.9, 65.8, 63.0, NAN],
            [67.3, 58.8, 50.2, 64.4],
        ]
    )
    / 100
)
ISSUE_1_SIZES = (50, 5, 5, 5)


def test_mean_over_tasks_by_hand():
    assert metrics.mean_over_tasks(MATRIX) == pytest.approx([0.90, 0.70, 2.05 / 3])


def test_class_weighted_by_hand():
    # (4 x .6 + 2 x .8) / 6 and (4 x .7 + 2 x .85 + 2 x .5) / 8
    assert metrics.class_weighted(MATRIX, SIZES) == pytest.approx(
        [0.90, 4.0 / 6, 5.5 / 8]
    )


def test_average_incremental_counts_the_first_step():
    assert metrics.average_incremental([0.90, 0.70, 0.50]) == pytest.approx(0.70)
    # joint training has only the last step: that is no mean over steps
    assert np.isnan(metrics.average_incremental([NAN, NAN, 0.6]))


def test_forgetting_per_task_by_hand():
    expected = np.array([[NAN, NAN, NAN], [0.30, NAN, NAN], [0.20, -0.05, NAN]])
    np.testing.assert_allclose(
        metrics.forgetting_per_task(MATRIX), expected, atol=1e-12
    )


def test_forgetting_by_hand():
    weighted = metrics.forgetting(MATRIX, SIZES)
    assert np.isnan(weighted[0])
    assert weighted[1:] == pytest.approx([0.30, (4 * 0.20 - 2 * 0.05) / 6])
    assert metrics.forgetting(MATRIX, SIZES, weighted=False)[1:] == pytest.approx(
        [0.30, 0.075]
    )


def test_forgetting_is_measured_from_the_best_past_value_not_the_first():
    rising = np.array([[0.5, NAN, NAN], [0.8, 0.9, NAN], [0.6, 0.9, 0.9]])
    assert metrics.forgetting_per_task(rising)[2, 0] == pytest.approx(
        0.2
    )  # 0.8 - 0.6, not 0.5 - 0.6


def test_issue_1_rows_of_the_official_code():
    assert np.round(
        100 * metrics.class_weighted(ISSUE_1, ISSUE_1_SIZES), 1
    ).tolist() == [78.0, 71.3, 69.0, 65.1]
    assert np.round(100 * metrics.mean_over_tasks(ISSUE_1), 1).tolist() == [
        78.0,
        71.0,
        66.2,
        60.2,
    ]


def test_equal_tasks_make_both_averages_equal():
    assert metrics.class_weighted(MATRIX, (3, 3, 3)) == pytest.approx(
        metrics.mean_over_tasks(MATRIX)
    )


def test_rows_that_do_not_exist_stay_nan():
    joint = np.full((3, 3), NAN)
    joint[2] = [0.9, 0.8, 0.7]
    for curve in (metrics.class_weighted(joint, SIZES), metrics.mean_over_tasks(joint)):
        assert np.isnan(curve[:2]).all() and np.isfinite(curve[2])
    assert metrics.class_weighted(joint, SIZES)[2] == pytest.approx(
        (3.6 + 1.6 + 1.4) / 8
    )
    assert np.isnan(metrics.forgetting_per_task(joint)).all()
    assert np.isnan(metrics.forgetting(joint, SIZES)).all()


def test_accuracy_matrix_from_predictions():
    sizes, labels = (2, 1), np.array([0, 0, 0, 1, 2, 2])
    first = np.array([0, 0, 1, 1])  # three of the four test images of task 0
    second = np.array([0, 2, 2, 1, 2, 0])  # two of four, one of two
    np.testing.assert_array_equal(
        metrics.accuracy_matrix([first, second], labels, sizes),
        [[0.75, NAN], [0.5, 0.5]],
    )
    only_last = metrics.accuracy_matrix([None, second], labels, sizes)
    np.testing.assert_array_equal(only_last, [[NAN, NAN], [0.5, 0.5]])


def test_accuracy_matrix_with_unequal_test_counts_against_a_loop():
    rng = np.random.default_rng(0)
    sizes, counts = (3, 2, 4), rng.integers(1, 9, 9)
    labels = np.repeat(np.arange(9), counts)
    task = np.repeat([0, 1, 2], sizes)[labels]
    rows = [rng.integers(0, seen, int((labels < seen).sum())) for seen in (3, 5, 9)]
    matrix = metrics.accuracy_matrix(rows, labels, sizes)
    for t, row in enumerate(rows):
        for k in range(3):
            inside = np.flatnonzero(task == k)
            expected = np.mean([row[i] == labels[i] for i in inside]) if k <= t else NAN
            np.testing.assert_allclose(matrix[t, k], expected)


def test_class_weighted_is_plain_top_1_on_balanced_tests():
    rng = np.random.default_rng(1)
    sizes, labels = (4, 3, 2), np.repeat(np.arange(9), 10)
    rows = [
        np.where(rng.random(n) < 0.6, labels[:n], rng.integers(0, 4, n))
        for n in (40, 70, 90)
    ]
    curve = metrics.class_weighted(metrics.accuracy_matrix(rows, labels, sizes), sizes)
    assert curve == pytest.approx([(row == labels[: len(row)]).mean() for row in rows])


def test_accuracy_matrix_refuses_a_row_of_another_length():
    with pytest.raises(ValueError, match="after task 1"):
        metrics.accuracy_matrix(
            [np.zeros(2), np.zeros(5)], np.array([0, 0, 1, 1]), (1, 1)
        )


def test_confusion_agrees_with_scikit_learn():
    rng = np.random.default_rng(2)
    labels, predictions = (
        rng.integers(0, 6, 400),
        rng.integers(0, 7, 400),
    )  # class 6 is predicted but never true
    result = metrics.confusion(predictions, labels, 7)
    np.testing.assert_array_equal(
        result, confusion_matrix(labels, predictions, labels=range(7))
    )
    assert result.sum() == 400 and not result[6].any()
    assert not metrics.confusion([], [], 3).any()
    for kind in (np.uint8, np.int8, float):  # labels of bytes overflowed: 5 x 100
        few = metrics.confusion(
            np.array([3, 5, 99], kind), np.array([0, 5, 99], kind), 100
        )
        assert few[0, 3] == few[5, 5] == few[99, 99] == 1 and few.sum() == 3


def test_old_new_by_hand():
    sizes, labels = (2, 2), np.array([0, 0, 1, 1, 2, 2, 3, 3])
    predictions = np.array([0, 3, 1, 3, 2, 2, 3, 0])
    assert metrics.old_new(predictions, labels, sizes, 1) == (0.5, 0.75)
    old, new = metrics.old_new(np.array([0, 1, 1, 1]), labels[:4], sizes, 0)
    assert np.isnan(old) and new == 0.75


@pytest.mark.parametrize(
    "predictions, labels", [([3, 0], [0, 2]), ([0, 0], [0, -1]), ([0.5, 0], [0, 0])]
)
def test_what_is_no_class_is_not_counted_as_another(predictions, labels):
    """A prediction beyond the classes was counted in the next row."""
    with pytest.raises(ValueError, match="none of 3 classes"):
        metrics.confusion(predictions, labels, 3)


def test_classes_of_unequal_size_count_by_their_images_within_a_task():
    """9 images of class 0 and one of class 1, all answered 0: 0.9, and not 0.5."""
    labels = np.array([0] * 9 + [1])
    accuracy = metrics.accuracy_matrix([np.zeros(10, int)], labels, [2])
    assert metrics.class_weighted(accuracy, [2]) == [0.9]
