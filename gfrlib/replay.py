"""The memory column: what stands for the old classes, how it is sampled, its bytes.

Every memory is an nn.Module, so that copying, saving and counting bytes are the same
for all of them.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from gfrlib.conditions import signed
from gfrlib.config import Config
from gfrlib.generators import GAN, Flow, SpatialGAN
from gfrlib.memory import Memory, within
from gfrlib.methods import FEATURES


class AllImages(Memory):
    """Joint training: all data are read again."""

    def __init__(self, image_bytes: int):
        super().__init__()
        self.image_bytes = image_bytes

    def nbytes(self) -> dict[str, int]:
        return {"training images": self.image_bytes}


class ClassMeans(Memory):
    """One mean feature per class, mu_c. A sample is the mean itself."""

    fits = True
    replays = True
    keeps_means = True

    def __init__(self, classes: int, features: int):
        super().__init__()
        self.register_buffer("means", torch.zeros(classes, features))
        self.register_buffer("counts", torch.zeros(classes, dtype=torch.int64))

    def fit(self, features: Tensor, labels: Tensor, rows: Tensor | None = None) -> None:
        for c in labels.unique().tolist():
            self.means[c] = features[labels == c].mean(dim=0)
            self.counts[c] = (labels == c).sum()

    def sample(self, labels: Tensor, rng: torch.Generator) -> Tensor:
        """labels [B] -> features [B, d]."""
        return self.means[labels]

    def class_means(self, rng: torch.Generator) -> Tensor:
        """[classes, d]: where the memory believes every class's mean feature to be.

        `training.follow_drift` asks for it and hands it to the drift functions.
        """
        return self.means

    def nbytes(self) -> dict[str, int]:
        return {"class means": self.means[self.counts > 0].nbytes}


class Gaussians(ClassMeans):
    """G_t(c, z) = N(mu_c, Sigma_c), Section 4.1.

    Old classes' statistics stay (official code) until `move`.

    diagonal  one standard deviation per dimension, one noise value per dimension
    scalar    the same, but one noise value for the whole vector: samples lie on a line
              (the official code)
    full      the whole covariance, kept as a Cholesky factor

    clamp: samples below 0 become 0. signed: features may be negative, so that nothing
    is clamped.
    """

    def __init__(
        self,
        classes: int,
        features: int,
        kind: str = "diagonal",
        clamp: bool = True,
        *,
        signed: bool = False,
    ):
        super().__init__(classes, features)
        self.kind, self.clamp, self.signed = kind, clamp and not signed, signed
        shape = (classes, features, features) if kind == "full" else (classes, features)
        self.register_buffer("spread", torch.zeros(shape))

    def fit(self, features: Tensor, labels: Tensor, rows: Tensor | None = None) -> None:
        super().fit(features, labels)
        for c in labels.unique().tolist():
            u = features[labels == c].double()
            if self.kind == "full":
                # of one feature it is a number
                covariance = torch.cov(u.T, correction=0).view(u.shape[1], -1)
                # ours: so that fewer images than dimensions still factorise
                ridge = 1e-4 * covariance.diagonal().mean() + 1e-8
                covariance += ridge * _eye(covariance)
                self.spread[c] = torch.linalg.cholesky(covariance).float()
            else:
                self.spread[c] = u.std(dim=0, correction=0).float()

    def sample(self, labels: Tensor, rng: torch.Generator) -> Tensor:
        mean, spread = self.means[labels], self.spread[labels]
        shape = (len(labels), 1) if self.kind == "scalar" else mean.shape
        z = torch.randn(shape, generator=rng, device=mean.device)
        full = self.kind == "full"
        u = mean + (torch.einsum("bij,bj->bi", spread, z) if full else spread * z)
        return u.clamp_min(0) if self.clamp else u

    def move(self, W: Tensor, b: Tensor) -> None:
        """mu -> W mu + b and Sigma -> W Sigma W^T; means stay >= 0, if features do.

        Exactly for `full` and `scalar` (whose line turns), the diagonal of it for
        `diagonal`.
        """
        self.means = within(self.means @ W.T + b, self.signed)
        if self.kind == "full":
            self.spread = W @ self.spread
        elif self.kind == "scalar":
            self.spread = self.spread @ W.T
        else:
            self.spread = (self.spread.square() @ W.T.square()).sqrt()

    def nbytes(self) -> dict[str, int]:
        name = "covariance factors" if self.kind == "full" else "standard deviations"
        return {**super().nbytes(), name: self.spread[self.counts > 0].nbytes}


class Mixtures(ClassMeans):
    """A mixture of a few diagonal Gaussians a class: sum_k w_k N(mu_k, sigma_k^2).

    Fitted by expectation maximisation (scikit-learn's GaussianMixture, from k-means):
    a class may have several clusters, between which features go together. A class with
    fewer images than components has as many components as images.
    signed: features may be negative, else samples below 0 become 0.
    """

    def __init__(
        self, classes: int, features: int, components: int = 4, *, signed: bool = False
    ):
        super().__init__(classes, features)
        self.signed = signed
        shape = (classes, components, features)
        self.register_buffer("shares", torch.zeros(classes, components))
        self.register_buffer("centres", torch.zeros(shape))
        self.register_buffer("spreads", torch.zeros(shape))

    def fit(self, features: Tensor, labels: Tensor, rows: Tensor | None = None) -> None:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture
        from threadpoolctl import threadpool_limits

        super().fit(features, labels)
        for c in labels.unique().tolist():
            u = features[labels == c].double().cpu().numpy()
            count = min(self.shares.shape[1], len(u))
            u = u.repeat(2, axis=0) if len(u) == 1 else u  # it wants two
            # as for whole covariances: no component may shrink to a point
            ridge = 1e-4 * float(u.var(axis=0).mean()) + 1e-8
            mixture = GaussianMixture(
                count, covariance_type="diag", reg_covar=ridge, random_state=0
            )
            # k-means has threads of its own, which `threads` does not reach
            with warnings.catch_warnings(), threadpool_limits(1):
                # the best of 100 rounds will do; equal features are one cluster
                warnings.simplefilter("ignore", ConvergenceWarning)
                mixture.fit(u)
            for kept, found in (
                (self.shares, mixture.weights_),
                (self.centres, mixture.means_),
                (self.spreads, mixture.covariances_**0.5),
            ):
                kept[c] = 0
                kept[c, :count] = torch.from_numpy(found).to(kept)

    def sample(self, labels: Tensor, rng: torch.Generator) -> Tensor:
        k = torch.multinomial(self.shares[labels], 1, generator=rng)[:, 0]
        mean, spread = self.centres[labels, k], self.spreads[labels, k]
        z = torch.randn(mean.shape, generator=rng, device=mean.device)
        return within(mean + spread * z, self.signed)

    def move(self, W: Tensor, b: Tensor) -> None:
        """mu_k -> W mu_k + b, and the diagonal of W Sigma_k W^T; means stay >= 0, if
        features do.
        """
        self.means = within(self.means @ W.T + b, self.signed)
        self.centres = within(self.centres @ W.T + b[:, None], self.signed)
        self.spreads = (self.spreads.square() @ W.T.square()).sqrt()

    def nbytes(self) -> dict[str, int]:
        """The class means are the components' weighted sums and need not be kept (after
        `move` for nothing but nearest-mean prediction, which no row with drift asks).
        """
        kept = (t[self.counts > 0] for t in (self.shares, self.centres, self.spreads))
        return {"mixtures": sum(t.nbytes for t in kept)}


class Exemplars(Memory):
    """Real training images of the old classes, `per_class` each, chosen by herding
    (iCaRL, Algorithm 4).
    """

    fits = True

    def __init__(self, classes: int, per_class: int, image_bytes: int):
        super().__init__()
        self.image_bytes = image_bytes
        self.register_buffer("kept", torch.full((classes, per_class), -1))

    @property
    def rows(self) -> Tensor:
        """Row numbers of all kept training images, class after class."""
        return self.kept[self.kept >= 0]

    def fit(self, features: Tensor, labels: Tensor, rows: Tensor | None = None) -> None:
        for c in labels.unique().tolist():
            own = torch.nonzero(labels == c)[:, 0]
            chosen = herding(features[own], self.kept.shape[1])
            self.kept[c, : len(chosen)] = rows[own[chosen]]

    def nbytes(self) -> dict[str, int]:
        return {"exemplars": len(self.rows) * self.image_bytes}


def herding(features: Tensor, count: int) -> Tensor:
    """Indices of the `count` rows of [N, d] whose running mean follows the class mean
    best, in the order of choice.

    On L2-normalised features, as iCaRL does; no row is taken twice (iCaRL's own code
    may pick one again, and then moves its target without gaining an exemplar).
    """
    u = functional.normalize(features.double(), dim=1)
    mean, total, chosen = u.mean(0), torch.zeros_like(u[0]), []
    free = torch.ones(len(u), dtype=torch.bool, device=u.device)
    for k in range(1, min(count, len(u)) + 1):
        distance = torch.linalg.vector_norm(mean - (total + u) / k, dim=1)
        best = int(distance.masked_fill(~free, torch.inf).argmin())
        chosen.append(best)
        total, free[best] = total + u[best], False
    return torch.tensor(chosen, dtype=torch.int64, device=u.device)


class Translated(ClassMeans):
    """FeTrIL: an old class's features are those of the most similar new class, moved by
    the difference of the means.

    Most similar by the `likeness` of the means: "cosine" (PyCIL) or "euclidean"
    (FeTrIL's code).
    """

    passing = ("new", "begin", "length", "new_means", "like")

    def __init__(self, classes: int, features: int, likeness: str = "cosine"):
        super().__init__(classes, features)
        self.likeness = likeness

    def watch(self, features: Tensor, labels: Tensor) -> None:
        """The old classes' samples are made of these."""
        self.new = features
        classes, counts = labels.unique(return_counts=True)  # labels ascend
        self.begin, self.length = counts.cumsum(0) - counts, counts
        self.new_means = torch.stack([features[labels == c].mean(0) for c in classes])
        if self.likeness == "euclidean":
            self.like = torch.cdist(self.means, self.new_means).argmin(1)
            return
        old, new = (
            functional.normalize(m, dim=1) for m in (self.means, self.new_means)
        )
        self.like = (old @ new.T).argmax(1)

    def sample(self, labels: Tensor, rng: torch.Generator) -> Tensor:
        like = self.like[labels]
        share = torch.rand(len(labels), generator=rng, device=labels.device)
        u = self.new[self.begin[like] + (share * self.length[like]).long()]
        return u - self.new_means[like] + self.means[labels]


class Covariances(Memory):
    """FeCAM: a mean and a whole covariance per class, of features to the power 1/2, for
    Mahalanobis distances.

    Each covariance is shrunk, Sigma + alpha (V1 I + V2 (1 - I)) with V1, V2 the means
    of its diagonal and of the rest, and scaled to a correlation matrix (Goswami et al.
    2023, Equations 4 to 7, with alpha1 = alpha2 = 1 as for CIFAR-100). alpha is
    `shrinkage`. Negative features keep their sign: -(-u)^(1/2) (ours).
    """

    fits = True

    def __init__(self, classes: int, features: int, shrinkage: float = 1.0):
        super().__init__()
        self.shrinkage = shrinkage
        self.register_buffer("centres", torch.zeros(classes, features))
        self.register_buffer("precisions", torch.zeros(classes, features, features))
        self.register_buffer("counts", torch.zeros(classes, dtype=torch.int64))

    def fit(self, features: Tensor, labels: Tensor, rows: Tensor | None = None) -> None:
        for c in labels.unique().tolist():
            u = root(features[labels == c].double())
            self.centres[c], self.counts[c] = u.mean(0), len(u)
            correction = int(len(u) > 1)  # one image has a covariance of 0
            covariance = torch.cov(u.T, correction=correction).view(u.shape[1], -1)
            diagonal = covariance.diagonal()
            d = len(diagonal)
            rest = (covariance.sum() - diagonal.sum()) / max(1, d * (d - 1))
            own = (diagonal.mean() - rest) * _eye(covariance)
            shrunk = covariance + self.shrinkage * rest + self.shrinkage * own
            # where nothing varies, as in a single image: no correlation
            shrunk = shrunk + torch.diag((shrunk.diagonal() <= 0).to(shrunk))
            scale = shrunk.diagonal().rsqrt()
            correlation = shrunk * scale[:, None] * scale
            self.precisions[c] = (
                torch.linalg.inv(correlation)
                if self.shrinkage
                else torch.linalg.pinv(correlation, hermitian=True)  # may be singular
            )

    def distances(self, features: Tensor, classes: int) -> Tensor:
        """Squared Mahalanobis distances [N, classes] of features [N, d].

        Vectors and means are L2-normalised first.
        """
        u = functional.normalize(root(features.to(self.centres)), dim=1)
        centres = functional.normalize(self.centres[:classes], dim=1)
        rows = []
        for centre, precision in zip(centres, self.precisions[:classes]):
            away = u - centre
            rows.append((away @ precision * away).sum(1))
        return torch.stack(rows, dim=1)

    def nbytes(self) -> dict[str, int]:
        return {
            "class means": self.centres[self.counts > 0].nbytes,
            "covariances": self.precisions[self.counts > 0].nbytes,
        }


def root(u: Tensor) -> Tensor:
    """u^(1/2), number by number; a negative one keeps its sign."""
    return u.sign() * u.abs().sqrt()


def linear_drift(before: Tensor, after: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
    """W [d, d] with W F_{t-1}(x) close to F_t(x) over D_t, by least squares; b = 0
    (LDC, FCS's calibration).

    before, after [N, d]: features of the new task's images under F_{t-1} and F_t; means
    [classes, d]. Slightly drawn towards the identity, so that directions which the new
    classes never use stay where they are.
    """
    before, moved = before.double(), after.double() - before.double()
    gram, eye = before.T @ before, _eye(before.T @ before)
    ridge = 1e-2 * gram.diagonal().mean() * eye
    change = torch.linalg.solve(gram + ridge, before.T @ moved).T
    return (eye + change).float(), torch.zeros_like(means)


# What can be known of old classes' drift from new images alone:
# {word: function(before, after, means) -> W, b of Memory.move}
DRIFTS = {"linear": linear_drift}


@dataclass(frozen=True)
class Room:
    """What a memory is built for."""

    classes: int
    shape: tuple[int, ...]  # of F(x): (d,) or (C, H, W)
    images: tuple[int, ...]  # of all training images: [N, H, W, C], in bytes


def _gan(config: Config, room: Room) -> GAN:
    if config.cut == FEATURES:
        return GAN(
            room.classes,
            room.shape[0],
            config.latent_dim,
            config.generator_hidden,
            config.initial_projection,
            signed=signed(config),
        )
    return SpatialGAN(
        room.classes,
        room.shape,
        config.latent_dim,
        config.generator_parameters,
        images=config.cut == 0,
    )


# The column: {word: function(config, room) -> its memory}
MEMORIES: dict[str, Callable[[Config, Room], Memory]] = {
    "none": lambda config, room: Memory(),
    "real": lambda config, room: AllImages(math.prod(room.images)),
    "exemplars": lambda config, room: Exemplars(
        room.classes, config.exemplars, math.prod(room.images[1:])
    ),
    "means": lambda config, room: ClassMeans(room.classes, room.shape[0]),
    "translated": lambda config, room: Translated(
        room.classes, room.shape[0], config.likeness
    ),
    "covariances": lambda config, room: Covariances(
        room.classes, room.shape[0], config.shrinkage
    ),
    "gaussian": lambda config, room: Gaussians(
        room.classes,
        room.shape[0],
        config.gaussian,
        not signed(config) and config.gaussian_clamp,
        signed=signed(config),
    ),
    "mixture": lambda config, room: Mixtures(
        room.classes, room.shape[0], config.mixture_components, signed=signed(config)
    ),
    "gan": _gan,
    "flow": lambda config, room: Flow(
        room.classes,
        room.shape[0],
        config.generator_hidden,
        config.flow_steps,
        config.flow_solver,
        signed=signed(config),
    ),
}


def build_memory(
    config: Config,
    classes: int,
    shape: tuple[int, ...],
    seed: int,
    *,
    images: tuple[int, ...] = (0, 0, 0, 0),
) -> Memory:
    """The config's memory for `classes` classes and F(x) of `shape` (d,) or (C, H, W).

    images: the shape of all training images. Values depend on `seed` alone. Raises
    UserError for a class that does not declare what it does.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        memory = MEMORIES[config.memory](config, Room(classes, shape, images))
    memory.check(follows=config.drift != "none")
    return memory


def _eye(matrix: Tensor) -> Tensor:
    return torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
