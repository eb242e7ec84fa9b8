"""What the two phases of training read: images of D_t, or features computed once."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gfrlib.conditions import fixed
from gfrlib.config import Config
from gfrlib.engine import distributed
from gfrlib.engine.phase import Phase
from gfrlib.networks import Network, split
from gfrlib.tasks import Tasks

EVALUATION_BATCH = 500
PIXELS_AT_ONCE = 500 << 12  # of an evaluation's batch: 500 images of 64 x 64
# bytes of kept features: of fewer views above it (one at least; known_features of none)
FEATURE_BUDGET = 2 << 30


class Batches:
    """Batches of a classifier's training, from `index` into the training images.

    Drawn for the whole batch; each process reads and augments its share of the rows.
    """

    def __init__(self, tasks: Tasks, index: Tensor, config: Config, phase: Phase):
        self.tasks, self.index, self.phase = tasks, index, phase
        self.labels = tasks.train_labels
        self.batch_size = min(config.batch_size, len(index))
        self.per_epoch = max(1, len(index) // config.batch_size)
        # images on disk are asked for by the host, which must not wait for a GPU's rows
        self.streamed = hasattr(tasks.train_images, "ahead")
        self.on_host = index.cpu() if self.streamed else None

    def rows(self, step: int, host: bool = False) -> Tensor:
        """Positions in `index` of a step's whole batch [B]."""
        return self.phase.epoch_rows(step, len(self.index), self.batch_size, host=host)

    def wanted(self, step: int) -> Tensor:
        """This process's share of a step's training images, for disk-backed ones."""
        return self.on_host[distributed.share(self.rows(step, host=True))]

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """What the extractor reads, [B, C, H, W], and its labels [B]."""
        rows, images = self.rows(step), self.tasks.train_images
        draws = distributed.share(self.tasks.draw(len(rows), self.phase.rng))
        chosen = self.index[distributed.share(rows)]
        found = images[self.wanted(step) if self.streamed else chosen]
        x = self.tasks.normalise(self.tasks.augment(found, draws))
        if self.streamed:  # begin to read the next batch
            images.ahead(self.wanted(step + 1))
        return x, self.labels[chosen]

    def extractor(self, extractor: nn.Module) -> nn.Module:
        """The module that makes features of what `batch` gives."""
        return extractor


class FeatureBatches(Batches):
    """The same for a frozen extractor: its features were computed once [N, d]."""

    def __init__(self, tasks: Tasks, index: Tensor, config: Config, phase: Phase, real):
        super().__init__(tasks, index, config, phase)
        self.features, self.labels = real

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Features [B, d] and labels [B]."""
        rows = distributed.share(self.rows(step))
        return self.features[rows], self.labels[rows]

    def extractor(self, extractor: nn.Module) -> nn.Module:
        return nn.Identity()


def feature_source(
    network: Network, tasks: Tasks, t: int, config: Config, phase: Phase
) -> tuple[int, Callable]:
    """(N, a function from row numbers below N to features and labels) of D_t.

    rows [B] -> this process's share of u [B, ...] and labels [B]. At the last cut some
    augmented views are computed once and kept; below it, where they are large, with
    every batch.
    """
    if config.cut == len(network.stages):
        views = config.feature_views
        features, labels = real_features(network, tasks, t, config, phase, views=views)
        return len(labels), lambda rows: distributed.share(features[rows], labels[rows])
    network.eval()
    index, (extractor, _) = tasks.train_index(t), split(network, config.cut)

    @torch.no_grad()
    def real(rows):
        rows, draws = distributed.share(rows, tasks.draw(len(rows), phase.rng))
        images = tasks.augment(tasks.train_images[index[rows]], draws)
        with phase.autocast():
            u = extractor(tasks.normalise(images)).float()
        return u, tasks.train_labels[index[rows]]

    return len(index), real


@torch.no_grad()
def real_features(
    network: Network, tasks: Tasks, t: int, config: Config, phase: Phase, views: int = 0
) -> tuple[Tensor, Tensor]:
    """u = F_t(x) of all x in D_t and their labels: [N, d], [N], in eval mode.

    With `views` > 0, of so many augmented views, `views` times as many rows; where they
    exceed the byte budget, of as many as fit (at least one).
    """
    network.eval()
    index = tasks.train_index(t)
    if fixed(config) and not views:
        features = known_features(network, tasks, "train", t, phase)
        return features, tasks.train_labels[index]
    fit = FEATURE_BUDGET // (len(index) * network.features * 4)
    kept = max(1, min(views, fit))
    (extractor, _), images = split(network, config.cut), tasks.train_images
    found = []
    for view in range(kept):
        draws = tasks.draw(len(index), phase.seeded(f"view {view}")) if views else None
        found.append(features_of(extractor, tasks, images, index, phase, draws))
    return torch.cat(found), tasks.train_labels[index].repeat(kept)


@torch.no_grad()
def features_of(
    extractor: nn.Module,
    tasks: Tasks,
    images,
    index: Tensor,
    phase: Phase,
    draws: Tensor | None = None,
) -> Tensor:
    """u [N, ...] of these rows of the tasks' training or test images.

    draws: how each is augmented (Tasks.draw), if it is.
    """
    chunks, numbers = [], torch.arange(len(index), device=index.device)
    for rows in numbers.split(at_once(tasks)):
        some = images[index[rows]]
        if draws is not None:
            some = tasks.augment(some, draws[rows])
        with phase.autocast():
            chunks.append(extractor(tasks.normalise(some)).float())
    return torch.cat(chunks)


def at_once(tasks: Tasks) -> int:
    """Images of an evaluation's batch: fewer where they are large."""
    _, high, wide = tasks.shape
    return max(1, min(EVALUATION_BATCH, PIXELS_AT_ONCE // (high * wide)))


@torch.no_grad()
def known_features(
    network: Network, tasks: Tasks, part: str, t: int, phase: Phase
) -> Tensor:
    """u [N, d] of task t's "train" or "test" images, in eval mode, computed once.

    Of an F that is never trained: every task and every row with the same weights finds
    them again, as long as they fit the byte budget.
    """
    key = (part, t, phase.half, torch.get_num_threads())
    if key in tasks.known:
        return tasks.known[key]
    network.eval()
    train = part == "train"
    images = tasks.train_images if train else tasks.test_images
    index = tasks.train_index(t) if train else tasks.test_index(t)
    extractor, _ = split(network, len(network.stages))
    found = features_of(extractor, tasks, images, index, phase)
    if sum(u.nbytes for u in (*tasks.known.values(), found)) <= FEATURE_BUDGET:
        tasks.known[key] = found
    return found
