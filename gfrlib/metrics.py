"""From predictions to every figure of the field.

NumPy only; all accuracies are fractions from 0 to 1.

accuracy[t, k] is the accuracy on task k's test images after task t; NaN above the
diagonal, and in rows that a method does not have (joint training has only the last).
"""

import numpy as np
from numpy.typing import ArrayLike


def accuracy_matrix(
    predictions: list, labels: np.ndarray, task_sizes: ArrayLike
) -> np.ndarray:
    """[T+1, T+1] from predictions[t] (class positions of the test images of tasks 0..t,
    or None) and sorted labels [N].

    Raises ValueError if a row has another length than the test images of the classes
    seen by then.
    """
    edges = np.searchsorted(labels, np.concatenate([[0], np.cumsum(task_sizes)]))
    matrix = np.full((len(task_sizes), len(task_sizes)), np.nan)
    for t, row in enumerate(predictions):
        if row is None:
            continue
        if len(row) != edges[t + 1]:
            raise ValueError(
                f"after task {t} there are {edges[t + 1]} test images, but {len(row)} "
                "predictions"
            )
        correct = np.asarray(row) == labels[: edges[t + 1]]
        for k in range(t + 1):
            matrix[t, k] = correct[edges[k] : edges[k + 1]].mean()
    return matrix


def mean_over_tasks(accuracy: np.ndarray) -> np.ndarray:
    """[T+1] A_t = mean over k <= t of accuracy[t, k]; every task counts the same
    (FACIL's and the code's "average").
    """
    return np.array([row[: t + 1].mean() for t, row in enumerate(accuracy)])


def class_weighted(accuracy: np.ndarray, task_sizes: ArrayLike) -> np.ndarray:
    """[T+1] W_t = sum_k n_k a[t, k] / sum_k n_k: every task counts by its classes, and
    every class the same where a task has as many test images of each.

    The paper's curves (GFR-IL#7).
    """
    n = np.asarray(task_sizes, dtype=float)
    return np.array(
        [
            (row[: t + 1] * n[: t + 1]).sum() / n[: t + 1].sum()
            for t, row in enumerate(accuracy)
        ]
    )


def average_incremental(curve: ArrayLike) -> float:
    """Mean of a curve over all steps, the first included (PODNet, PASS, LUCIR); NaN
    where a step is missing, as in joint training, which has only the last.
    """
    return float(np.mean(curve))


def forgetting_per_task(accuracy: np.ndarray) -> np.ndarray:
    """[T+1, T+1] f[t, k] = max over l < t of a[l, k] - a[t, k] for k < t (Chaudhry et
    al.); can be negative.
    """
    result = np.full(accuracy.shape, np.nan)
    for t in range(1, len(accuracy)):
        for k in range(t):
            past = accuracy[k:t, k]
            if not np.isnan(past).all():
                result[t, k] = np.nanmax(past) - accuracy[t, k]
    return result


def forgetting(
    accuracy: np.ndarray, task_sizes: ArrayLike, *, weighted: bool = True
) -> np.ndarray:
    """[T+1] average forgetting over the tasks k < t; NaN at t = 0.

    Class-weighted as in the paper (GFR-IL#7), or plain.
    """
    per_task, n = forgetting_per_task(accuracy), np.asarray(task_sizes, dtype=float)
    result = np.full(len(accuracy), np.nan)
    for t in range(1, len(accuracy)):
        weights = n[:t] if weighted else np.ones(t)
        result[t] = (per_task[t, :t] * weights).sum() / weights.sum()
    return result


def confusion(
    predictions: ArrayLike, labels: ArrayLike, num_classes: int
) -> np.ndarray:
    """int [C, C]: row = true class position, column = predicted.

    Raises ValueError for a position that is not among the classes.
    """
    sides = []
    for name, values in (("label", labels), ("prediction", predictions)):
        found = np.asarray(values)
        whole = found.astype(np.int64)  # small integers would overflow below
        if found.size and not (
            (whole == found).all() and 0 <= whole.min() <= whole.max() < num_classes
        ):
            raise ValueError(f"there is a {name} that is none of {num_classes} classes")
        sides.append(whole)
    flat = sides[0] * num_classes + sides[1]
    return np.bincount(flat, minlength=num_classes**2).reshape(num_classes, num_classes)


def old_new(
    predictions: ArrayLike, labels: ArrayLike, task_sizes: ArrayLike, t: int
) -> tuple[float, float]:
    """(accuracy on classes of tasks < t, accuracy on task t's classes) after task t;
    the first is NaN at t = 0.
    """
    correct, old = (
        np.asarray(predictions) == labels,
        np.asarray(labels) < int(np.sum(task_sizes[:t])),
    )
    return (float(correct[old].mean()) if old.any() else float("nan")), float(
        correct[~old].mean()
    )
