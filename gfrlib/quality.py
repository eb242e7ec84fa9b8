"""How good is a generator of features? Fréchet distance, precision and recall, density
and coverage, and classifiers that cross over between real and replayed features.

Tensors in, numbers out; never sees a model; float64 inside, but for the classifiers.
The libraries have these for images: torchmetrics sends images through a network, and
nothing there takes features to precision, recall, density or coverage.

real [N, d] are features of held-out images, replayed [M, d] a memory's samples. A
generator that is told the class must be right inside each class: `by_class` measures
every class by itself and takes the mean. Over all classes at once a generator could
mix up two of them, at no cost in any of these measures. Every measure raises
ValueError where an argument is not [rows, d] and finite, or has too few rows.
"""

import warnings

import torch
from torch import Tensor

K_PRECISION = 3  # Kynkäänniemi et al. 2019
K_COVERAGE = 5  # Naeem et al. 2020
FEWEST = K_COVERAGE + 1  # rows of a class that all measures can be taken of


def frechet(real: Tensor, replayed: Tensor) -> float:
    """(mu - mu')^2 + tr(S + S' - 2 (S S')^(1/2)) (Heusel et al. 2017).

    In squared units of the features. With S = A^T A and S' = B^T B, the eigenvalues of
    S S' are the squared singular values of A B^T: no root of a matrix is taken, and
    fewer rows than dimensions do no harm. With few rows the distance is far above 0
    even of two samples of one distribution: compare equal numbers of rows.
    """
    real, replayed = _checked(real, replayed, rows=2)
    apart = (real.mean(0) - replayed.mean(0)).square().sum()
    a, b = _factor(real), _factor(replayed)
    shared = torch.linalg.svdvals(a @ b.T).sum()
    found = apart + a.square().sum() + b.square().sum() - 2 * shared
    return float(found.clamp_min(0))


def spread(u: Tensor) -> float:
    """tr S: the squared length by which features [N, d] differ from their mean."""
    return float(_factor(_checked(u, rows=2)[0]).square().sum())


def precision_recall(
    real: Tensor, replayed: Tensor, k: int = K_PRECISION
) -> tuple[float, float]:
    """Shares (precision, recall) by Kynkäänniemi et al. 2019.

    A set covers a point that lies no farther from one of its own than that one's k-th
    nearest neighbour in the set. Precision: the share of replayed features that the
    real ones cover; recall: of real ones that the replayed cover.
    """
    real, replayed = _checked(real, replayed, rows=k + 1)
    apart = _distances(real, replayed)
    precision = (apart <= _radii(real, k)[:, None]).any(0)
    recall = (apart <= _radii(replayed, k)).any(1)
    return _share(precision), _share(recall)


def density_coverage(
    real: Tensor, replayed: Tensor, k: int = K_COVERAGE
) -> tuple[float, float]:
    """(density, coverage) by Naeem et al. 2020.

    Balls reach from every real feature to its k-th nearest real neighbour. Density: the
    balls around a replayed feature, on average, over k; may exceed 1, where replays
    keep to where real features are dense. Coverage: the share of balls with a replayed
    feature inside. One far-off real feature with its large ball changes both little,
    unlike precision.
    """
    real, replayed = _checked(real, replayed, rows=k + 1)
    inside = _distances(real, replayed) <= _radii(real, k)[:, None]
    density = inside.double().sum(0).mean() / k
    return float(density), _share(inside.any(1))


def by_class(
    real: Tensor, labels: Tensor, replayed: Tensor, replayed_labels: Tensor
) -> dict:
    """All measures, as means over the classes in `labels` [N].

    And how many classes these are: only such with FEWEST rows on both sides count; {}
    if there is none.
    """
    real, replayed = _checked(real, replayed, rows=0)
    rows = []
    for c in labels.unique():
        u, v = real[labels == c], replayed[replayed_labels == c]
        if min(len(u), len(v)) < FEWEST:
            continue
        # three numbers to one side, two pairs to the other, in the order of NAMES
        found = (frechet(u, v), spread(u), spread(v))
        rows.append((*found, *precision_recall(u, v), *density_coverage(u, v)))
    if not rows:
        return {}
    means = [sum(column) / len(rows) for column in zip(*rows)]
    return {"classes": len(rows), **dict(zip(NAMES, means))}


NAMES = (
    "frechet", "spread", "replayed_spread", "precision", "recall", "density",
    "coverage",
)  # fmt: skip


def crossed(
    features: Tensor, labels: Tensor, test_features: Tensor, test_labels: Tensor
) -> float:
    """Accuracy of a linear softmax classifier on one set, trained on another.

    Trained on replay and tested on real features it tells what H can learn from replay;
    the other way round, which replays are no longer of their class (Ravuri and Vinyals
    2019; Shmelkov et al. 2018). Features are scaled by one number, their root mean
    square in training; a little weight decay (scikit-learn's C = 1) makes the answer
    one that does not depend on a seed. Raises ValueError for fewer than two classes.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    features, test_features = _checked(features, test_features, rows=1)
    scale = features.square().mean().sqrt().clamp_min(1e-12)
    # float32 and at most 50 iterations: the last digits of the weights change next to
    # no prediction, and a hundred classes would take several times as long
    x, x_test = ((u / scale).float().cpu().numpy() for u in (features, test_features))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(max_iter=50).fit(x, labels.cpu().numpy())
    return float(model.score(x_test, test_labels.cpu().numpy()))


def _checked(*sets: Tensor, rows: int) -> list[Tensor]:
    """The sets in float64."""
    for u in sets:
        if u.ndim != 2 or u.shape[1] != sets[0].shape[1]:
            raise ValueError(
                f"features must be [rows, d] with one d, not {[*map(_shape, sets)]}"
            )
        if len(u) < rows:
            raise ValueError(f"{len(u)} rows are too few: this measure needs {rows}")
        if not torch.isfinite(u).all():
            raise ValueError("features have values that are not finite")
    return [u.double() for u in sets]


def _shape(u: Tensor) -> tuple[int, ...]:
    return tuple(u.shape)


def _factor(u: Tensor) -> Tensor:
    """A [min(N, d), d] with A^T A the covariance of u [N, d]."""
    centred = (u - u.mean(0)) / (len(u) - 1) ** 0.5
    return torch.linalg.qr(centred, mode="r")[1] if len(u) > u.shape[1] else centred


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """[N, M] Euclidean distances; exactly 0 between equal rows."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _radii(u: Tensor, k: int) -> Tensor:
    """[N] distance of every row to its k-th nearest other row."""
    return _distances(u, u).kthvalue(k + 1, dim=1).values


def _share(found: Tensor) -> float:
    return float(found.double().mean())
