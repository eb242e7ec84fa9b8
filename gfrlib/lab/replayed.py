"""What the memory of a run replays: recognised, projected beside the real, shown."""

import copy
import io

import numpy as np
import torch
from torch import nn

from gfrlib.batches import EVALUATION_BATCH
from gfrlib.config import Config
from gfrlib.engine import augment
from gfrlib.engine.phase import Phase
from gfrlib.memory import Memory
from gfrlib.networks import Network, split
from gfrlib.tasks import Tasks

SHOWN = 8  # classes in the projection and on the sheet
POINTS = 40  # real and replayed features of each of them
JUDGED = 1000  # features that are judged, over all classes of task 0
SAMPLES = 6  # images of each class and kind on the sheet of generated images


class Replayed:
    """Called after every task; `recognised`, `samples` and `projection` fill up."""

    def __init__(self, config: Config, stream: Tasks):
        self.config, self.stream = config, stream
        self.recognised: list[dict] = []
        self.samples: dict[str, np.ndarray] = {}  # kind -> uint8 [B, H, W, C]
        self.projection: dict[str, dict] = {}
        self.first: Network | None = None  # after task 0; it judges what is replayed

    @property
    def shown(self) -> int:
        """Classes of task 0 that are shown."""
        return min(SHOWN, self.stream.sizes[0])

    @torch.no_grad()
    def judge(self, t: int, network: Network, memory: Memory, phase: Phase) -> None:
        """Share of what G_t replays for task 0 that the network of task 0 recognises.

        Recognised: taken for the class asked for. After the last task no GAN is trained
        any more, and where it is the first, too, none ever was. At cut 0 some of the
        images are kept for the sheet.
        """
        last = len(self.stream.sizes) - 1
        if t == 0:
            self.first = copy.deepcopy(network).eval()
        if t == last or self.first is None:
            return
        upper = split(self.first, self.config.cut)[1]
        rng, classes = phase.seeded("judge"), self.stream.sizes[0]
        c = torch.arange(classes, device=phase.device)
        c = c.repeat_interleave(max(1, JUDGED // classes))
        right = torch.cat(
            [
                upper(memory.sample(part, rng)).argmax(1) == part
                for part in c.split(EVALUATION_BATCH)
            ]
        )
        share = rounded(right.double().mean())
        self.recognised.append({"after": t, "of": classes, "share": share})
        if self.config.cut == 0 and t in (0, max(0, last - 1)):
            c = torch.arange(self.shown, device=phase.device)
            images = memory.sample(c.repeat_interleave(SAMPLES), rng)
            self.samples[f"replayed after task {t}"] = self.pixels(images)

    def pixels(self, x: torch.Tensor) -> np.ndarray:
        """Normalised images [B, C, H, W] as uint8 [B, H, W, C]."""
        images = x.permute(0, 2, 3, 1).float() * self.stream.std + self.stream.mean
        return (255 * images).round().clamp(0, 255).byte().cpu().numpy()

    def about_samples(self) -> dict:
        """What the sheet shows; {} without image replay."""
        if not self.samples:
            return {}
        return {
            "classes": self.stream.class_names[: self.shown],
            "columns": SAMPLES,
            "kinds": ["real", *self.samples],
        }

    def sheet(self) -> bytes | None:
        """A PNG of real and generated images; None without image replay.

        A row a class of task 0, SAMPLES columns a kind.
        """
        if not self.samples:
            return None
        from PIL import Image

        kinds = [self._real_images(), *self.samples.values()]
        grid = np.concatenate([_block(kind, self.shown) for kind in kinds], axis=1)
        image = Image.fromarray(grid[..., 0] if grid.shape[2] == 1 else grid)
        buffer = io.BytesIO()
        image.save(buffer, "PNG", optimize=True)
        return buffer.getvalue()

    def _real_images(self) -> np.ndarray:
        """The first test images of every class shown, as the network sees them; where
        a class has fewer, they come again.
        """
        stream, index = self.stream, self.stream.test_index(0)
        labels = stream.test_labels[index]
        rows = [torch.nonzero(labels == c)[:SAMPLES, 0] for c in range(self.shown)]
        rows = [own.repeat(-(-SAMPLES // len(own)))[:SAMPLES] for own in rows]  # of few
        real = stream.test_images[index[torch.cat(rows)]]
        real = augment.centre(real, stream.crop) if stream.crop else real
        # grey, to a pretrained network of three channels
        return real.expand(-1, -1, -1, stream.shape[0]).cpu().numpy()

    @torch.no_grad()
    def project(
        self,
        t: int,
        memory: Memory,
        upper: nn.Module,
        real: torch.Tensor,
        labels: torch.Tensor,
        phase: Phase,
    ) -> None:
        """t-SNE of real features of task 0 under F_t beside those replayed for them.

        real [N, d], labels [N]. After the last task no GAN is trained any more, so that
        it is G_{T-1} that is seen there, and nothing in a run of one task. What enters
        below the last cut is taken through the stages above it, `upper`.
        """
        last = len(self.stream.sizes) - 1
        if t not in (0, last) or last == 0 and memory.trained:
            return
        shown = range(self.shown)
        keep = torch.cat([torch.nonzero(labels == c)[:POINTS, 0] for c in shown])
        real, labels = real[keep], labels[keep]
        c = torch.arange(self.shown, device=labels.device).repeat_interleave(POINTS)
        replayed = memory.sample(c, phase.seeded("projection"))
        replayed = upper(replayed).float()
        points = _in_the_plane(torch.cat([real, replayed]))
        dims = real.std(0).topk(min(4, real.shape[1])).indices
        self.projection[str(t)] = {
            "real": rounded(points[: len(real)]),
            "real_class": labels.tolist(),
            "replayed": rounded(points[len(real) :]),
            "replayed_class": c.tolist(),
            "dimensions": dims.tolist(),
            "real_values": rounded(real[:, dims].T),
            "replayed_values": rounded(replayed[:, dims].T),
            "class_std": {
                "real": rounded(_within(real, labels)),
                "replayed": rounded(_within(replayed, c)),
            },
        }


def _in_the_plane(u: torch.Tensor) -> torch.Tensor:
    """t-SNE of features [N, d]: [N, 2]."""
    from sklearn.manifold import TSNE

    perplexity = min(30, len(u) // 4)
    if u.shape[1] == 1:  # its start needs two dimensions
        u = torch.cat([u, torch.zeros_like(u)], dim=1)
    tsne = TSNE(random_state=0, perplexity=perplexity, init="pca", max_iter=500)
    return torch.from_numpy(tsne.fit_transform(u.cpu().numpy()))


def _block(images: np.ndarray, classes: int) -> np.ndarray:
    """[classes * SAMPLES, H, W, C], sorted by class, as one image, a row a class."""
    _, high, wide, channels = images.shape
    rows = images.reshape(classes, SAMPLES, high, wide, channels)
    rows = rows.transpose(0, 2, 1, 3, 4)
    return rows.reshape(classes * high, SAMPLES * wide, channels)


def _within(u: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean over dimensions of the standard deviation inside each class."""
    groups = [u[labels == c] for c in labels.unique()]
    # of a single row it is 0
    return torch.stack([v.std(0, correction=int(len(v) > 1)).mean() for v in groups])


def rounded(value):
    """Plain values, every float in them with four significant digits."""
    value = value.tolist() if isinstance(value, torch.Tensor) else value
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
