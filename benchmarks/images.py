"""Batches of 224 x 224 crops: packed arrays beside torchvision's ImageFolder.

The arrays resident and streamed; the folder read by a DataLoader. It is generated: 20
classes x 60 JPEG files of 500 x 375, 10 of them faulty, as the real thing has them, and
as rough as to take the some 110 KB a file that ImageNet's take (138 GB in 1.28
million): a smooth file is decoded much faster.
"""

import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from gfrlib import tasks
from gfrlib.config import make_config
from gfrlib.lab import datasets, shards

BATCH, EPOCHS = 64, 3
ROUGH = 24  # standard deviation of the noise: 110 KB a file


def generate(top: Path, faulty: int = 10) -> None:
    """The folder: train/ with 60 files a class, val/ with 5.

    `faulty` training files are cut off or no image.
    """
    rng = np.random.default_rng(0)
    for part, count in (("train", 60), ("val", 5)):
        for c in range(20):
            place = top / part / f"n{c:08d}"
            place.mkdir(parents=True)
            for i in range(count):
                small = Image.fromarray(
                    rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
                )
                smooth = np.asarray(small.resize((500, 375), Image.Resampling.BICUBIC))
                rough = (
                    (smooth + rng.normal(0, ROUGH, (375, 500, 1)))
                    .clip(0, 255)
                    .astype(np.uint8)
                )
                Image.fromarray(rough).save(place / f"{i}.JPEG", "JPEG", quality=90)
    for k in range(faulty):
        file = top / "train" / f"n{2 * k:08d}" / f"{k}.JPEG"
        file.write_bytes(file.read_bytes()[:900] if k % 2 else b"not an image")


def ours(stream) -> float:
    """Images per second: rows drawn, cut, mirrored, normalised; as `theirs`, the first
    epoch left out.
    """
    rng, count = torch.Generator().manual_seed(0), len(stream.train_labels)
    for epoch in range(1 + EPOCHS):
        if epoch == 1:
            began, seen = time.perf_counter(), 0
        batches = torch.randperm(count, generator=rng).split(BATCH)
        for rows, following in zip(batches, (*batches[1:], None)):
            if following is not None and hasattr(stream.train_images, "ahead"):
                images = stream.train_images[rows]
                stream.train_images.ahead(following)
            else:
                images = stream.train_images[rows]
            stream.normalise(stream.augment(images, stream.draw(len(rows), rng)))
            if epoch:
                seen += len(rows)
    return seen / (time.perf_counter() - began)


def theirs(top: Path) -> float:
    """Images per second of the usual loop, two workers, the first epoch left out."""
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(224),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    loader = DataLoader(
        ImageFolder(str(top / "train"), transform),
        BATCH,
        shuffle=True,
        num_workers=2,
        persistent_workers=True,
    )
    for _ in loader:
        pass
    began, seen = time.perf_counter(), 0
    for _ in range(EPOCHS):
        for x, _ in loader:
            seen += len(x)
    return seen / (time.perf_counter() - began)


def main() -> dict:
    """Images per second of all three, seconds of both starts, what was left out."""
    with tempfile.TemporaryDirectory() as place:
        os.environ["GFR_HOME"] = place
        top = Path(place) / "imagenet"
        generate(top)
        began = time.perf_counter()
        packing = shards.pack("imagenet-bench", top)
        packed_in = time.perf_counter() - began
        began = time.perf_counter()
        shards.pack("imagenet-bench", top)
        found = {
            "first start": packed_in,
            "second start": time.perf_counter() - began,
            "faults": len(packing.faults),
            "images": sum(packing.images.values()),
        }
        config, packed = (
            make_config("quick", "gfr", base=10, tasks=1),
            datasets.packed("imagenet-bench"),
        )
        for name, limit in (("resident", 10**12), ("streamed", 1)):
            os.environ["GFR_RESIDENT_BYTES"] = str(limit)
            found[name] = ours(tasks.build(config, packed, torch.device("cpu")))
        for file in packing.faults:
            (top / file).unlink()  # ImageFolder would stop at them
        found["torchvision"] = theirs(top)
    return found


if __name__ == "__main__":
    print(json.dumps(main()))
