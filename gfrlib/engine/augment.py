"""Random augmentation of whole batches on the device: drawn, then applied."""

import math

import torch
from torch import Tensor
from torch.nn import functional


def draw_shifts(
    count: int,
    padding: int,
    mirror: bool,
    generator: torch.Generator,
    device: torch.device,
) -> Tensor:
    """int64 [count, 3]: two shifts from 0 to 2 padding (vertical first), mirrored."""
    where = {"generator": generator, "device": device}
    shift = torch.randint(0, 2 * padding + 1, (count, 2), **where)
    mirrored = torch.randint(0, 2, (count, 1), **where) * mirror
    return torch.cat([shift, mirrored], dim=1)


def shift(images: Tensor, draws: Tensor, padding: int) -> Tensor:
    """Zero-pad uint8 [B, H, W, C], crop back at the drawn shift, mirror where drawn."""
    b, h, w, _ = images.shape
    around = (0, 0, padding, padding, padding, padding)
    padded = functional.pad(images, around)  # [B, H + 2p, W + 2p, C]
    rows = draws[:, 0, None] + torch.arange(h, device=images.device)  # [B, H]
    columns = torch.arange(w, device=images.device).expand(b, w)
    columns = torch.where(draws[:, 2, None] == 1, w - 1 - columns, columns)
    columns = draws[:, 1, None] + columns  # [B, W]
    batch = torch.arange(b, device=images.device)[:, None, None]
    return padded[batch, rows[:, :, None], columns[:, None, :]]


def draw_boxes(
    count: int,
    shape: tuple[int, int],
    mirror: bool,
    generator: torch.Generator,
    device: torch.device,
) -> Tensor:
    """float32 [count, 5]: top, left, height, width in shares of `shape`, mirrored.

    As torchvision's RandomResizedCrop: area from 8 to 100 %, aspect ratio from 3/4 to
    4/3 (uniform in its logarithm), the first of ten tries that fits, else the largest
    centred square (torchvision's last way out of a square image is the same).
    """
    high, wide = shape
    where = {"generator": generator, "device": device}
    area = (0.08 + 0.92 * torch.rand(count, 10, **where)) * high * wide
    ratio = torch.exp((2 * torch.rand(count, 10, **where) - 1) * math.log(4 / 3))
    w, h = (area * ratio).sqrt() / wide, (area / ratio).sqrt() / high
    fits = (w <= 1) & (h <= 1)
    first, none = fits.int().argmax(dim=1, keepdim=True), ~fits.any(dim=1)
    w, h = (
        v.gather(1, first)[:, 0].masked_fill(none, min(shape) / side)
        for v, side in ((w, wide), (h, high))
    )
    top, left = torch.rand(2, count, **where).masked_fill(none, 0.5)
    mirrored = torch.randint(0, 2, (count,), **where) * mirror
    return torch.stack([top * (1 - h), left * (1 - w), h, w, mirrored.float()], dim=1)


def cut(images: Tensor, boxes: Tensor, side: int) -> Tensor:
    """The drawn boxes of uint8 [B, H, W, C], as [B, side, side, C] (bilinear).

    Boxes are rounded to whole pixels, and mirrored where drawn. On a CPU one box after
    the other, as torchvision's resized_crop with antialiasing, which is fastest there.
    On a GPU all at once and without antialiasing: that differs by more than rounding
    only where a box is larger than `side`.
    """
    (_, high, wide, _), (top, left, height, width, mirrored) = images.shape, boxes.T
    edges = torch.stack(
        [top * high, left * wide, (top + height) * high, (left + width) * wide], dim=1
    ).round()
    if images.device.type != "cpu":
        return _cut_at_once(images, edges, mirrored, side)
    found = images.new_empty(len(images), side, side, images.shape[3])
    for k, (top, left, bottom, right) in enumerate(edges.int().tolist()):
        box = images[k, top:bottom, left:right].permute(2, 0, 1)[None]
        box = functional.interpolate(
            box, size=(side, side), mode="bilinear", antialias=True
        )[0].permute(1, 2, 0)
        found[k] = box.flip(1) if mirrored[k] else box
    return found


def _cut_at_once(images: Tensor, edges: Tensor, mirrored: Tensor, side: int) -> Tensor:
    """All images in one step; edges [B, 4]: top, left, bottom, right in pixels."""
    lengths = images.shape[1:3] * 2
    # in shares of the image
    top, left, bottom, right = (edge / n for edge, n in zip(edges.T, lengths))
    # output coordinates -1..1 -> input coordinates -1..1
    theta = torch.zeros(len(images), 2, 3, device=images.device)
    theta[:, 0, 0] = (1 - 2 * mirrored) * (right - left)
    theta[:, 0, 2] = left + right - 1
    theta[:, 1, 1], theta[:, 1, 2] = bottom - top, top + bottom - 1
    grid = functional.affine_grid(
        theta, [len(images), images.shape[3], side, side], align_corners=False
    )
    # the centres of the box's outermost pixels: nothing from beyond is mixed in
    _, high, wide, _ = images.shape
    low = torch.stack([2 * left - 1 + 1 / wide, 2 * top - 1 + 1 / high], dim=1)
    last = torch.stack([2 * right - 1 - 1 / wide, 2 * bottom - 1 - 1 / high], dim=1)
    grid = grid.maximum(low[:, None, None]).minimum(last[:, None, None])
    boxes = functional.grid_sample(
        images.permute(0, 3, 1, 2).float(),
        grid,
        padding_mode="border",
        align_corners=False,
    )
    return boxes.round().clamp(0, 255).byte().permute(0, 2, 3, 1)


def centre(images: Tensor, side: int) -> Tensor:
    """The centre side x side of [B, H, W, C]; smaller images come back as they are."""
    top, left = (max(0, (n - side) // 2) for n in images.shape[1:3])
    return images[:, top : top + side, left : left + side]
