"""A data set is a tensor on the device, or streamed from the disk where it does not fit
(engine.streams); a task is an index into it.

Class orders, splits, batched augmentation.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gfrlib.config import Config, UserError
from gfrlib.engine import augment
from gfrlib.engine.streams import resident_or_streamed
from gfrlib.engine.values import counted
from gfrlib.pretrained import Pretrained

# Pad-and-crop in pixels, and whether a mirrored image keeps its meaning. CIFAR: Section
# 5 of the paper.
AUGMENTATION = {"digits": (1, False)}
PADDING_SHARE = 1 / 8  # 4 of 32 pixels
# of a data set that is cropped at random: mean and standard deviation are those of so
# many places in it, equally spaced
MOMENT_IMAGES = 5000


def class_order(name: str, num_classes: int, seed: int = 0) -> list[int]:
    """The original labels in their order of arrival.

    lucir   NumPy's seed-1993 shuffle, as LUCIR's code has it (CIFAR-100: 68, 56, 78, 8,
            ...); iCaRL's own code makes another order from that seed
    gfr     its inverse, which the official code really uses (CIFAR-100: 69, 23, 57, 12,
            ...); for ImageNet-Subset that of all 1,000 classes, which packing keeps
    sorted  0, 1, 2, ...
    random  a permutation drawn from `seed`
    Raises UserError for another name.
    """
    shuffled = np.random.RandomState(1993).permutation(num_classes)
    if name == "lucir":
        return shuffled.tolist()
    if name == "gfr":
        return np.argsort(shuffled).tolist()
    if name == "sorted":
        return list(range(num_classes))
    if name == "random":
        return np.random.RandomState(seed).permutation(num_classes).tolist()
    raise UserError(
        f"There is no class order '{name}'; choose lucir, gfr, sorted or random."
    )


def task_sizes(
    num_classes: int, base: int, tasks: int, split: tuple = ()
) -> tuple[int, ...]:
    """Class counts of all tasks: `base`, then `tasks` equal ones; or `split` itself,
    which may leave classes unused.

    Raises UserError where the classes do not divide or do not suffice.
    """
    if split:
        if min(split) < 1 or sum(split) > num_classes:
            raise UserError(
                f"The split {list(split)} needs {sum(split)} classes with at least 1 a "
                f"task, and the data set has {num_classes}; give counts that add up to "
                f"at most {num_classes}."
            )
        return tuple(split)
    if base < 1 or base > num_classes:
        raise UserError(
            f"The base is {base} classes, and the data set has {num_classes}; "
            f"choose a base from 1 to {num_classes}."
        )
    if tasks < 0 or (tasks == 0) != (base == num_classes):
        remedy = f"choose at least 1 task, or tasks = 0 with base = {num_classes}"
        if base == num_classes:
            remedy = "choose a smaller base, or tasks = 0"
        raise UserError(
            f"A base of {base} leaves "
            f"{counted(num_classes - base, 'class', 'classes')} for "
            f"{counted(tasks, 'task')}; {remedy}."
        )
    later = num_classes - base
    if tasks and later % tasks:
        fits = [n for n in range(1, later + 1) if later % n == 0]
        raise UserError(
            f"{counted(later, 'class', 'classes')} after a base of {base} "
            f"{'does' if later == 1 else 'do'} not divide into {tasks} equal tasks; "
            f"choose tasks from {fits}, or give the counts with split."
        )
    return (base, *[later // tasks] * tasks) if tasks else (base,)


def usual_split(num_classes: int, base: int = 0, tasks: int = 0) -> tuple[int, int]:
    """(base, tasks) that suit a data set; what is not 0 stays.

    Half of the classes come first, as in the paper, and what equal tasks leave over;
    then two equal tasks, or one where there are fewer than four classes. After a given
    base, the fewest equal tasks of 2 to 5, or one where no such number divides the
    rest. Whether what is given fits is for `task_sizes` to say. Raises UserError where
    no base is given, and the tasks would leave no class for it.
    """
    if base and not tasks:
        rest = num_classes - base
        tasks = next((n for n in range(2, 6) if rest > 0 and rest % n == 0), 1)
    tasks = tasks or (2 if num_classes > 3 else 1)
    if not base and tasks >= num_classes:
        raise UserError(
            f"{counted(num_classes, 'class', 'classes')} cannot be divided into a "
            f"first task and {tasks} more; choose at most {max(num_classes - 1, 0)} "
            "later tasks."
        )
    each = max(num_classes // 2 // tasks, 1)
    return base or num_classes - each * tasks, tasks


@dataclass
class Tasks:
    """The task stream: uint8 images on the device or streamed, labels as positions in
    the class order, sorted by position.
    """

    name: str
    sizes: tuple[int, ...]
    num_classes: int  # of the data set; the stream may use fewer
    class_names: list[str]  # in the class order
    train_images: Tensor  # uint8 [N, H, W, C]
    train_labels: Tensor  # int64 [N], ascending
    test_images: Tensor
    test_labels: Tensor
    mean: Tensor  # [C], of the training images in 0-1, or what pretraining took
    std: Tensor
    padding: int
    mirror: bool
    # side of random resized crops in training, of the centre in testing; 0: pad, crop
    crop: int = 0
    content: str = ""  # of the data set, where its name does not tell
    pretrained: Pretrained | None = None  # what F starts from
    # features of an extractor that is never trained, computed once (batches.py)
    known: dict = dataclasses.field(default_factory=dict, init=False, repr=False)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of what the network sees."""
        h, w = self.train_images.shape[1:3]
        return len(self.mean), self.crop or h, self.crop or w

    @property
    def stem(self) -> str:
        """The stem that a pretrained extractor has (networks.STEMS), or ""."""
        return self.pretrained.stem if self.pretrained else ""

    def starting_from(self, pretrained: Pretrained) -> "Tasks":
        """The same stream for a pretrained extractor.

        Images are normalised as those that it was trained on, where its file says how.
        Of grey ones it sees
        their channel as often as it reads channels.
        """
        device, shape = self.mean.device, (pretrained.channels,)
        mean, std = self.mean.expand(shape), self.std.expand(shape)
        if pretrained.mean:
            mean, std = (
                torch.tensor(moments, device=device)
                for moments in (pretrained.mean, pretrained.std)
            )
        return dataclasses.replace(self, mean=mean, std=std, pretrained=pretrained)

    def check(self, config: Config) -> None:
        """Raises UserError for a config that asks for another split; this stream may be
        its first tasks alone.
        """
        said = (1, 0, config.split) if config.split else (config.base, config.tasks)
        wanted = task_sizes(self.num_classes, *said)
        if wanted[: len(self.sizes)] != tuple(self.sizes):
            raise UserError(
                f"The stream has tasks of {list(self.sizes)} classes, and the config "
                "asks for another split; build the stream from this config "
                "(lab.runs.load_tasks)."
            )

    def classes(self, t: int) -> range:
        """Positions of task t's classes."""
        start = sum(self.sizes[:t])
        return range(start, start + self.sizes[t])

    def train_index(self, t: int) -> Tensor:
        """Indices of task t's training images, D_t."""
        return self._between(self.train_labels, self.classes(t))

    def test_index(self, t: int) -> Tensor:
        """Indices of the test images of task t."""
        return self._between(self.test_labels, self.classes(t))

    @staticmethod
    def _between(labels: Tensor, classes: range) -> Tensor:
        edges = torch.tensor([classes.start, classes.stop], device=labels.device)
        first, last = torch.searchsorted(labels, edges).tolist()
        return torch.arange(first, last, device=labels.device)

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 [B, H, W, C] -> float32 [B, C, H, W], less `mean` and by `std`, one a
        channel (channels-last in memory).

        With `crop` set, larger images are cut to their centre: what testing sees.
        """
        images = augment.centre(images, self.crop) if self.crop else images
        if images.shape[3] < len(self.mean):  # grey, for a network of three channels
            images = images.expand(-1, -1, -1, len(self.mean)).contiguous()
        return (
            images.to(torch.float32, copy=True)
            .div_(255)
            .sub_(self.mean)
            .div_(self.std)
            .permute(0, 3, 1, 2)
        )

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Augmentations for `count` images: augment.draw_shifts [count, 3], with `crop`
        set augment.draw_boxes [count, 5].
        """
        device = self.train_images.device
        if self.crop:
            return augment.draw_boxes(
                count, self.train_images.shape[1:3], self.mirror, generator, device
            )
        return augment.draw_shifts(count, self.padding, self.mirror, generator, device)

    def augment(self, images: Tensor, draws: Tensor) -> Tensor:
        """What was drawn, applied to uint8 [B, H, W, C]; uint8 again."""
        if self.crop:
            return augment.cut(images, draws, self.crop)
        return augment.shift(images, draws, self.padding)


def build(config: Config, packed, device: torch.device) -> Tasks:
    """The stream over `packed` arrays (see datasets.Packed), in the config's class
    order, split and validation share.
    """
    order = class_order(config.class_order, len(packed.class_names), config.seed)
    if config.class_order == "gfr" and packed.arrival:
        order = list(packed.arrival)
    sizes = task_sizes(len(order), config.base, config.tasks, config.split)
    train, train_rows = _positions(packed.train_labels, order)
    test, test_rows = _positions(packed.test_labels, order)
    test_source, test = packed.test_images, test[test_rows]
    if config.validation:
        names = [packed.class_names[c] for c in order]
        held = _held_out(train_rows, train, config.validation, names)
        test_source, test_rows, test = packed.train_images, held, train[held]
        train_rows = train_rows[~np.isin(train_rows, held)]
    images = resident_or_streamed(packed.train_images, train_rows, device)
    some = len(train_rows)
    some = min(some, MOMENT_IMAGES) if packed.crop else some
    few = np.linspace(0, len(train_rows) - 1, some).astype(int)
    mean, std = _moments(images, torch.from_numpy(few).to(device))
    usual = round(images.shape[1] * PADDING_SHARE), True
    padding, mirrors = AUGMENTATION.get(packed.name, usual)
    return Tasks(
        name=packed.name,
        sizes=sizes,
        num_classes=len(order),
        class_names=[packed.class_names[i] for i in order],
        train_images=images,
        train_labels=torch.from_numpy(train[train_rows]).to(device),
        test_images=resident_or_streamed(test_source, test_rows, device),
        test_labels=torch.from_numpy(test).to(device),
        mean=mean,
        std=std,
        padding=padding,
        mirror=mirrors and config.mirror,
        crop=packed.crop,
        content=packed.content,
    )


def _positions(labels: np.ndarray, order: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """(position in the class order of every image, -1 for a faulty one; the rows of the
    others, sorted by position).
    """
    position = np.where(labels < 0, -1, np.argsort(order)[labels])
    return position, np.argsort(position, kind="stable")[(position < 0).sum() :]


def _held_out(
    rows: np.ndarray, position: np.ndarray, share: float, names: list[str]
) -> np.ndarray:
    """The last share of each class's rows, which stands in for the test images: one at
    least, and not all. Raises UserError for a class that has one alone.
    """
    edges = np.flatnonzero(np.diff(position[rows])) + 1
    held = []
    for own in np.split(rows, edges):
        if len(own) == 1:
            raise UserError(
                f"The class '{names[position[own[0]]]}' has a single training image, "
                "so that none of it can be held out; leave out 'validation', or add "
                "images."
            )
        count = min(len(own) - 1, max(1, round(len(own) * share)))
        held.append(own[len(own) - count :])
    return np.concatenate(held)


def _moments(images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel, in 0-1, exactly: from how often each of
    the 256 values occurs.
    """
    values = torch.arange(256, dtype=torch.float64, device=images.device) / 255
    counts = torch.zeros(images.shape[3], 256, dtype=torch.int64, device=images.device)
    for some in rows.split(1000):
        chunk = images[some]
        for c in range(len(counts)):
            counts[c] += torch.bincount(chunk[..., c].reshape(-1), minlength=256)
    counts = counts.double()
    share = counts / counts.sum(1, keepdim=True)
    mean = share @ values
    std = ((values - mean[:, None]).square() * share).sum(1).sqrt()
    return mean.float(), std.float().clamp_min(1e-3)
