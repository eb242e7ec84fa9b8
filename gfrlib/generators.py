"""The trained memories: a GAN, as in the paper, and a flow; their loops are in
generator_training.py.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from gfrlib.memory import Memory, state_bytes, within
from gfrlib.networks import (
    Discriminator,
    Generator,
    SpatialDiscriminator,
    SpatialGenerator,
    Velocity,
    widest,
)


class GAN(Memory):
    """G(c, z) and D(c, u) of Appendix D, trained by generator_training.train_gan.

    Both are carried from task to task.
    """

    trained = True
    replays = True
    signed = False  # whether features may be negative

    def __init__(
        self,
        classes: int,
        features: int,
        latent_dim: int,
        hidden: int,
        projection: str = "normal",
        *,
        signed: bool = False,
    ):
        super().__init__()
        self.signed = signed
        self.generator = Generator(classes, latent_dim, hidden, features, signed=signed)
        self.discriminator = Discriminator(classes, hidden, features, projection)
        self.drift: tuple[Tensor, Tensor] | None = None

    def latent(self, count: int, rng: torch.Generator) -> Tensor:
        """z ~ N(0, I): [count, latent_dim]."""
        device = self.discriminator.score.weight.device
        return torch.randn(
            count, self.generator.latent_dim, generator=rng, device=device
        )

    def sample(self, labels: Tensor, rng: torch.Generator) -> Tensor:
        """u-hat = G(c, z) for labels [B] -> [B, d], or maps or images [B, C, H, W]."""
        return self.replay(labels, self.latent(len(labels), rng))

    def replay(self, labels: Tensor, z: Tensor) -> Tensor:
        """G(c, z), moved along with the features where `move` was called."""
        u = self.generator(labels, z)
        if self.drift is None:
            return u
        W, b = self.drift
        return within(u @ W.T + b[labels], self.signed)

    def class_means(self, rng: torch.Generator) -> Tensor:
        """[classes, d]: the means of 100 replays a class."""
        classes = self.generator.classes
        labels = torch.arange(classes, device=rng.device).repeat_interleave(100)
        with torch.no_grad():
            return self.sample(labels, rng).view(classes, 100, -1).mean(dim=1)

    def move(self, W: Tensor, b: Tensor) -> None:
        self.drift = W, b

    def nbytes(self) -> dict[str, int]:
        return {
            "generator": state_bytes(self.generator),
            "discriminator": state_bytes(self.discriminator),
        }


class SpatialGAN(GAN):
    """G and D for images or feature maps u [C, H, W].

    Each has at most `parameters` parameters, at every cut, or the width 4.
    """

    def __init__(
        self,
        classes: int,
        shape: tuple[int, int, int],
        latent_dim: int,
        parameters: int,
        *,
        images: bool,
    ):
        Memory.__init__(self)

        def generator(width):
            return SpatialGenerator(classes, latent_dim, shape, width, images=images)

        def discriminator(width):
            return SpatialDiscriminator(classes, shape, width)

        self.generator = generator(widest(generator, parameters))
        self.discriminator = discriminator(widest(discriminator, parameters))
        self.drift = None


def euler(v: Callable, x: Tensor, s: Tensor, steps: int) -> Tensor:
    """x(s + 1/steps) along the arrow where the step begins. x [B, d], s [B, 1]."""
    return x + v(x, s) / steps


def midpoint(v: Callable, x: Tensor, s: Tensor, steps: int) -> Tensor:
    """x(s + 1/steps) along the arrow halfway, where half an Euler step leads."""
    half = 2 * steps
    return x + v(euler(v, x, s, half), s + 1 / half) / steps


def carried(v: Callable, z: Tensor, steps: int, solver: str = "euler") -> Tensor:
    """x(1) [B, d] of x(0) = z along dx/ds = v(x, s), in so many steps of a SOLVER.

    Raises KeyError for an unknown solver.
    """
    x = z
    for k in range(steps):
        x = SOLVERS[solver](v, x, torch.full_like(z[:, :1], k / steps), steps)
    return x


SOLVERS = {"euler": euler, "midpoint": midpoint}


class Flow(Memory):
    """A flow: dx/ds = v(x, s, c) carries noise x(0) = z ~ N(0, I) to a feature x(1).

    Flow matching with straight paths (Lipman et al. 2023; Liu et al. 2023, rectified
    flow), trained by generator_training.train_flow and carried from task to task. x are
    features less task 0's mean and by its spread in every dimension (dead ones vary
    less); these moments stay. Where features are not `signed`, negative ones become 0.

    A sample takes `steps` steps of a `solver` (SOLVERS). Few Euler steps end in a cloud
    that is too narrow: of the width sigma of a class, in units of all features' width,
    10 steps keep 0.88 at sigma = 1 and 0.62 at 0.1, even where v is exact. 5 midpoint
    steps, which ask v as often, keep all but a thousandth at 1, and 0.88 at 0.1.
    """

    trained = True
    replays = True

    def __init__(
        self,
        classes: int,
        features: int,
        hidden: int,
        steps: int,
        solver: str = "euler",
        *,
        signed: bool = False,
    ):
        super().__init__()
        self.steps, self.solver, self.signed = steps, solver, signed
        self.velocity = Velocity(classes, hidden, features)
        self.register_buffer("shift", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))

    def standardise(self, features: Tensor) -> None:
        """Take the moments of features u [N, d]."""
        self.shift.copy_(features.mean(0))
        spread = features.std(0, correction=0)
        # a dead feature would be divided by 0
        self.scale.copy_(spread.clamp_min(1e-2 * float(spread.mean()) + 1e-8))

    def inward(self, u: Tensor) -> Tensor:
        """x of features u."""
        return (u - self.shift) / self.scale

    def latent(self, count: int, rng: torch.Generator) -> Tensor:
        """z ~ N(0, I): [count, d]."""
        shape = (count, len(self.shift))
        return torch.randn(shape, generator=rng, device=self.shift.device)

    def sample(self, labels: Tensor, rng: torch.Generator) -> Tensor:
        """labels [B] -> features [B, d]."""
        return self.replay(labels, self.latent(len(labels), rng))

    def replay(self, labels: Tensor, z: Tensor) -> Tensor:
        """The features [B, d] to which the flow carries z [B, d]."""

        def v(x: Tensor, s: Tensor) -> Tensor:
            return self.velocity(labels, x, s)

        x = carried(v, z, self.steps, self.solver)
        return within(x * self.scale + self.shift, self.signed)

    def nbytes(self) -> dict[str, int]:
        return {"flow": state_bytes(self)}
