"""How alike two networks' activations are: SVCCA, PWCCA and linear CKA.

NumPy only, float64 inside; never sees a model.

Every measure takes x [examples, features] and y [examples, features'], row i of both
from the same example, and raises ValueError if one is not two-dimensional, has a value
that is not finite or does not vary, or if their row counts differ. CCA flatters when
rows are few, even independent noise: take 5 to 10 rows a feature, and show `null`
beside the value.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

# a seed gives the same choice at every call, a generator another one
Rng = int | np.random.Generator
# of the kept directions' singular values: up to here the Gram matrix may be decomposed
GRAM_RANGE = 1e3


def _centred(x: ArrayLike, y: ArrayLike) -> list[tuple[str, np.ndarray, float]]:
    """For both (name, centred float64 array, noise): a singular value up to noise may
    be rounding error alone.
    """
    if np.shape(x)[:1] != np.shape(y)[:1]:
        raise ValueError(
            f"x has shape {np.shape(x)} and y {np.shape(y)}: row i of both must be the "
            "same example"
        )
    result = []
    for name, a in (("x", np.asarray(x)), ("y", np.asarray(y))):
        if a.ndim != 2:
            raise ValueError(
                f"{name} must be [examples, features], but its shape is {a.shape}"
            )
        if not np.isfinite(a).all():
            raise ValueError(f"{name} has values that are not finite")
        wide = a.astype(np.float64)
        # rounding to the input's own type, and of the computation; both relative to the
        # values before centring
        eps = max(
            np.finfo(a.dtype).eps if a.dtype.kind == "f" else 0,
            max(a.shape) * np.finfo(float).eps,
        )
        noise = float(eps * np.linalg.norm(wide))
        wide -= wide.sum(axis=0) / max(len(a), 1)
        if np.linalg.norm(wide) <= noise * min(a.shape) ** 0.5:
            raise ValueError(
                f"{name} does not vary over its {len(a)} rows: there is nothing to "
                "compare"
            )
        result.append((name, wide, noise))
    return result


def _directions(name: str, a: np.ndarray, noise: float, keep: float) -> np.ndarray:
    """U [N, kept]: orthonormal directions in example space that hold the share keep of
    the centred a's variance.
    """
    if not 0 < keep <= 1:
        raise ValueError(
            f"keep is a share of the variance, above 0 and at most 1, not {keep}"
        )

    def count(squares: np.ndarray) -> int:
        return (
            len(squares)
            if keep == 1
            else min(
                len(squares),
                1 + int((np.cumsum(squares) / np.sum(squares) < keep).sum()),
            )
        )

    # the small Gram matrix: far faster, and off by about GRAM_RANGE^2 * 1e-16 at most
    if len(a) > 2 * a.shape[1]:
        squares, v = (part[..., ::-1] for part in np.linalg.eigh(a.T @ a))
        kept = count(squares)
        if squares[kept - 1] > max(squares[0] / GRAM_RANGE**2, noise**2):
            return a @ (v[:, :kept] / np.sqrt(squares[:kept]))
    u, s, _ = np.linalg.svd(a, full_matrices=False)
    rank = int((s > noise).sum())
    if len(a) < rank + 2:
        raise ValueError(
            f"{name} has {len(a)} rows that span {rank} dimensions, and CCA needs 2 "
            f"rows more than dimensions: take more images or pixels ({a.shape[1] + 2} "
            "rows are enough), or linear_cka"
        )
    return u[:, : min(rank, count(s**2))]


def svcca(
    x: ArrayLike, y: ArrayLike, *, keep: float = 0.99, details: bool = False
) -> float | dict:
    """Mean canonical correlation of the directions that hold the share keep of each
    side's variance (Raghu et al. 2017).

    Centre; SVD; keep directions until the cumulative squared singular values reach
    keep; the correlations are the singular values of U_x^T U_y: no epsilon. Tall arrays
    whose kept directions are well conditioned take the Gram matrix's eigenvectors for
    the SVD's. keep=1 is plain CCA; constant and dependent columns do no harm.
    details=True returns a dict of similarity, correlations [min of kept] and kept
    (dimensions of x, of y). Raises ValueError as the module says, if keep is not in (0,
    1], and if there are fewer rows than rank + 2.
    """
    u_x, u_y = (_directions(*side, keep) for side in _centred(x, y))
    correlations = np.clip(np.linalg.svd(u_x.T @ u_y, compute_uv=False), 0, 1)
    similarity, kept = float(correlations.mean()), (u_x.shape[1], u_y.shape[1])
    return (
        {"similarity": similarity, "correlations": correlations, "kept": kept}
        if details
        else similarity
    )


def pwcca(x: ArrayLike, y: ArrayLike, *, whitened: bool = True) -> float:
    """Projection-weighted CCA (Morcos et al. 2018): sum_i w_i rho_i / sum_i w_i with
    w_i = sum_j abs(<h_i, x_j>).

    h_i [N]: x's orthonormal canonical variates, one for each of the min(rank)
    correlations; x_j: x's centred columns. Not symmetric; among equal correlations the
    variates, and so the weights, are arbitrary. Raises ValueError as `svcca` does.
    whitened=False weighs as google/svcca does on centred layers: it rotates x without
    whitening it, and what it gets, made orthonormal one after the other (QR), stands
    for h_i. (That code adds x's means again before both, which changes the weights.)
    """
    sides = _centred(x, y)
    x = sides[0][1]
    u_x, u_y = (_directions(*side, 1) for side in sides)
    rotation, correlations, _ = np.linalg.svd(u_x.T @ u_y, full_matrices=False)
    variates = u_x @ rotation
    if not whitened:
        spread = np.linalg.norm(u_x.T @ x, axis=1)  # x's singular values
        variates = np.linalg.qr((u_x * spread) @ rotation)[0]
    weights = np.abs(variates.T @ x).sum(axis=1)  # [min(rank)]
    return float(weights @ np.clip(correlations, 0, 1) / weights.sum())


def linear_cka(x: ArrayLike, y: ArrayLike, *, debiased: bool = True) -> float:
    """Linear CKA: HSIC(x, y) / sqrt(HSIC(x, x) HSIC(y, y)) (Kornblith et al. 2019).

    Works with fewer rows than features.

    debiased  HSIC_1 (Song et al. 2012; Nguyen et al. 2021), 0 on average for
              independent noise, so slightly negative at times. No N x N matrix: for
              centred columns and squared row norms a_i, b_i it is, up to 1 / (N(N-3)),
              ||X^T Y||_F^2 - N/(N-2) sum_i a_i b_i + sum_i a_i sum_i b_i / ((N-1)(N-2))
    biased    ||X^T Y||_F^2 for centred columns
    Raises ValueError as the module says; debiased also for fewer than 4 rows, or if all
    are equally far apart.
    """
    (_, x, _), (_, y, _) = _centred(x, y)
    n = len(x)
    if debiased and n < 4:
        raise ValueError(
            f"debiased CKA needs at least 4 rows, and there are {n}: take more images "
            "or pixels"
        )

    def hsic(a: np.ndarray, b: np.ndarray) -> float:
        squared, a, b = (
            ((a.T @ b) ** 2).sum(),
            (a**2).sum(axis=1),
            (b**2).sum(axis=1),
        )  # scalar, [N], [N]
        value = (
            squared - n / (n - 2) * (a @ b) + a.sum() * b.sum() / ((n - 1) * (n - 2))
            if debiased
            else squared
        )
        return (
            value if abs(value) > 1e-12 * squared else 0.0
        )  # else only rounding is left

    scale = hsic(x, x) * hsic(y, y)
    if scale <= 0:
        raise ValueError(
            "debiased CKA is 0/0 here: all rows of x, or all rows of y, are equally "
            "far apart"
        )
    return float(hsic(x, y) / scale**0.5)


def null(
    measure: Callable,
    x: ArrayLike,
    y: ArrayLike,
    *,
    group: int = 1,
    rng: Rng,
    repeats: int = 1,
) -> float:
    """measure(x, y) when y's images are shuffled, so that only chance is left: the mean
    over repeats.

    Rows come in consecutive groups of `group`, an image's pixels: whole groups move,
    their inner order stays. Raises ValueError if y's rows are not two or more whole
    groups, and what measure raises.
    """
    y, rng = np.asarray(y), np.random.default_rng(rng)
    if group < 1 or len(y) % group or len(y) < 2 * group:
        raise ValueError(f"{len(y)} rows are not two or more whole groups of {group}")
    groups = y.reshape(-1, group, *y.shape[1:])
    return float(
        np.mean(
            [
                measure(x, rng.permutation(groups).reshape(y.shape))
                for _ in range(repeats)
            ]
        )
    )


def pixels_as_rows(a: ArrayLike, *, at_most: int, rng: Rng) -> np.ndarray:
    """Activations [N, C, H, W] as [N * pixels, C], rows grouped by image; [N, d] comes
    back as it is.

    pixels = at_most // N, but from 1 to H * W: the same random ones in every image. The
    same *seed* gives two networks of equal H and W paired rows; one generator used for
    both does not. Raises ValueError for other shapes.
    """
    a = np.asarray(a)
    if a.ndim == 2:
        return a
    if a.ndim != 4:
        raise ValueError(
            f"activations must be [N, C, H, W] or [N, d], but their shape is {a.shape}"
        )
    size = a.shape[2] * a.shape[3]
    if not len(a):
        raise ValueError("there are no activations: take one image at least")
    pixels = np.random.default_rng(rng).choice(
        size, min(size, max(1, at_most // len(a))), replace=False
    )
    return (
        a.reshape(*a.shape[:2], size)[:, :, pixels]
        .transpose(0, 2, 1)
        .reshape(-1, a.shape[1])
    )
