"""One epoch of task 0 as most code writes it: PIL, transforms, a DataLoader."""

import json
import sys
import time

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.ours import STEPS, limited, step_seconds
from gfrlib.lab import datasets, experiments
from gfrlib.networks import build_network

WARM = 3  # steps that do not count, of either


class Images(Dataset):
    """Arrays as PIL images through the usual transforms."""

    def __init__(self, images, labels):
        self.images, self.labels = images, labels
        self.transform = transforms.Compose(
            [
                transforms.ToPILImage(),
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.507, 0.487, 0.441), (0.267, 0.256, 0.276)),
            ]
        )

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.transform(self.images[i]), int(self.labels[i])


def plain(width: int, images: int) -> float:
    """Images per second of the plain loop, the first WARM steps left out.

    Network and Adam as ours.
    """
    config = experiments.settings("paper", "gfr", width=width)
    data = datasets.packed("cifar100")
    labels = np.asarray(data.train_labels)
    rows = np.concatenate([np.flatnonzero(labels == c)[:images] for c in range(50)])
    loader = DataLoader(
        Images(np.asarray(data.train_images[rows]), labels[rows]),
        config.batch_size,
        shuffle=True,
        num_workers=2,
        drop_last=True,
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = build_network(config, (3, 32, 32), 0)
    network.head.grow(50, 0)
    network = network.to(device, memory_format=torch.contiguous_format)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, weight_decay=2e-4)
    times = []
    while len(times) < WARM + STEPS:
        for x, y in loader:
            loss = torch.nn.functional.cross_entropy(
                network(x.to(device)), y.to(device)
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()  # as most loops do, for their progress bar
            times.append(time.perf_counter())
    return config.batch_size * (len(times) - WARM) / (times[-1] - times[WARM - 1])


def ours(width: int, images: int, precision: str) -> float:
    """Images per second of gfrlib's classifier phase in task 0."""
    config = experiments.settings("paper", "gfr", width=width, precision=precision)
    return config.batch_size / step_seconds(
        config, limited(config, images), 0, "classifier", images=images, warm=WARM
    )


if __name__ == "__main__":
    found_width, found_images = int(sys.argv[1]), int(sys.argv[2])
    print(
        json.dumps(
            {
                "plain": plain(found_width, found_images),
                **{p: ours(found_width, found_images, p) for p in ("float32", "bf16")},
            }
        )
    )
