"""The head column: a list of linear blocks, one per task, and what competes in it.

All heads give logits [B, outputs]: of the classes seen, with `full_head` of all. They
differ in which outputs compete for a new image, and in what they do when a later task
begins.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from gfrlib import losses
from gfrlib.config import Config
from gfrlib.engine import distributed


class Head(nn.Module):
    """One softmax over all blocks: u [B, d] -> logits [B, classes]."""

    def __init__(self, features: int):
        super().__init__()
        self.features = features
        self.blocks = nn.ModuleList()

    @property
    def sizes(self) -> list[int]:
        """Number of classes of each block."""
        return [block.out_features for block in self.blocks]

    def grow(self, classes: int, seed: int) -> None:
        """Add a block for new classes: Section 4.3 extends V_{t-1} to V_t.

        Its values depend on `seed` alone.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            block = nn.Linear(self.features, classes)
        like = next(self.parameters(), None)
        self.blocks.append(block if like is None else block.to(like.device))

    def begin(self, real: tuple[Tensor, Tensor] | None, *, outputs_held: bool) -> None:
        """Before a task t >= 1 is learned.

        real is what `reads_features` asks for; outputs_held tells that the penalty
        itself holds the old outputs.
        """

    reads_features = False  # `begin` wants the old network's features of D_t

    def competing(
        self, logits: Tensor, labels: Tensor, first: int
    ) -> tuple[Tensor, Tensor]:
        """The logits that compete for new images, and the labels among them.

        `first` is the first new class, 0 in task 0.
        """
        return logits, labels

    def extra_losses(self, logits: Tensor, labels: Tensor, first: int) -> dict:
        """{name: loss} that this head adds from task 1 on."""
        return {}

    def forward(self, u: Tensor) -> Tensor:
        return torch.cat([block(u) for block in self.blocks], dim=1)


class PerTaskHead(Head):
    """One softmax a task: the cross-entropy of new images trains their own block alone
    (LwF, EWC, MAS); LwF's distillation trains the old ones, too.
    """

    def begin(self, real, *, outputs_held: bool) -> None:
        """Old blocks stay, unless the penalty holds them: only weight decay would
        move them.
        """
        if not outputs_held:
            self.blocks[:-1].requires_grad_(False)

    def competing(
        self, logits: Tensor, labels: Tensor, first: int
    ) -> tuple[Tensor, Tensor]:
        """The newest block's outputs."""
        return logits[:, first:], labels - first


class CosineHead(Head):
    """Rebalance's head: eta cos(u, w_c), without bias.

    eta is learned and begins at `head_scale` (LUCIR: `sigma`, 1).
    """

    reads_features = True

    def __init__(self, features: int, scale: float = 1.0):
        super().__init__(features)
        self.scale = nn.Parameter(torch.full((), scale))

    def grow(self, classes: int, seed: int) -> None:
        super().grow(classes, seed)
        self.blocks[-1].register_parameter("bias", None)

    def begin(self, real, *, outputs_held: bool) -> None:
        """The new classes' weights are imprinted, the old ones stay."""
        self.imprint(*real, first=sum(self.sizes[:-1]))
        self.blocks[:-1].requires_grad_(False)

    @torch.no_grad()
    def imprint(self, u: Tensor, labels: Tensor, first: int) -> None:
        """Weights of the newest block: the mean direction of each new class's features,
        as long as the old weights are.

        u [N, d] are features of the new task's images under the old network, labels
        [N] >= `first` (LUCIR's code, `--imprint_weights`).
        """
        old = torch.cat([block.weight for block in self.blocks[:-1]])
        length = torch.linalg.vector_norm(old, dim=1).mean()
        directions = functional.normalize(u, dim=1)
        classes = range(first, first + self.sizes[-1])
        means = torch.stack([directions[labels == c].mean(0) for c in classes])
        self.blocks[-1].weight.copy_(length * functional.normalize(means, dim=1))

    def extra_losses(self, logits: Tensor, labels: Tensor, first: int) -> dict:
        """Margin ranking on the cosines, a mean over the exemplars of all processes."""
        margin = losses.margin_ranking(logits / self.scale, labels, first)
        return {"margin": margin * distributed.weight_of((labels < first).sum())}

    def forward(self, u: Tensor) -> Tensor:
        u = functional.normalize(u, dim=1)
        cosines = [
            functional.linear(u, functional.normalize(block.weight, dim=1))
            for block in self.blocks
        ]
        return self.scale * torch.cat(cosines, dim=1)


# The column: {word: function(features, config) -> its head}
HEADS: dict[str, Callable[[int, Config], Head]] = {
    "single": lambda features, config: Head(features),
    "per-task": lambda features, config: PerTaskHead(features),
    "cosine": lambda features, config: CosineHead(features, config.head_scale),
}
