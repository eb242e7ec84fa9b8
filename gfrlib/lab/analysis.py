"""What needs weights, computed while a run passes by and written beside its record, so that the book needs none."""

import copy
import io

import numpy as np
import torch

from gfrlib import similarity
from gfrlib.batches import EVALUATION_BATCH
from gfrlib.config import Config
from gfrlib.engine import augment
from gfrlib.engine.machine import Machine
from gfrlib.engine.phase import Phase
from gfrlib.networks import Network, split
from gfrlib.replay import Memory
from gfrlib.tasks import Tasks

PER_CLASS = 20  # test images of each class that are looked at for drift
SHOWN = 8  # classes in the projection
POINTS = 40  # real and replayed features of each of them
IMAGES, ROWS = (
    5000,
    5000,
)  # test images of a task, and rows of activations, at most, that similarity is measured on
ALL_PAIRS = 12  # with more tasks than these, only task 0 is compared, not every pair
SAMPLES = 6  # images of each class and kind on the sheet of generated images


class Observer:
    """Called after every task: keeps a few features and statistics; `result()` is the analysis."""

    def __init__(self, config: Config, tasks: Tasks):
        self.config, self.tasks = config, tasks
        self.then: list[
            torch.Tensor
        ] = []  # features of task k's test sample when task k had just been learned
        self.first: list[
            torch.Tensor
        ] = []  # class means of the same, and of the memory
        self.drift, self.logits, self.projection = [], [], {}
        self.learned: dict[
            int, dict[str, np.ndarray]
        ] = {}  # activations for task k when it had just been learned
        self.similarity, self.recognised, self.samples = [], [], {}
        self.first_network: Network | None = (
            None  # the network after task 0, which judges what is replayed
        )

    def __call__(self, t: int, network: Network, memory: Memory) -> None:
        config = self.config
        phase = Phase("analysis", t, config.seed, Machine.of(config))
        network.eval()
        extractor, classifier = split(network, len(network.stages))
        now, labels = [], []
        for k in range(t + 1):
            u, y = self._features(extractor, k, phase)
            now.append(u)
            labels.append(y)
        missing = t + 1 - len(self.then) - 1
        self.then += [None] * missing + [now[t]]
        rows = []
        for k in range(t + 1):
            if self.then[k] is None:
                continue
            moved = torch.linalg.vector_norm(now[k] - self.then[k], dim=1)
            means = [
                torch.stack([u[labels[k] == c].mean(0) for c in labels[k].unique()])
                for u in (now[k], self.then[k])
            ]
            scale = torch.linalg.vector_norm(self.then[k], dim=1).mean()
            rows.append(
                {
                    "task": k,
                    "features": _r(moved.mean() / scale),
                    "class_means": _r(
                        torch.linalg.vector_norm(means[0] - means[1], dim=1).mean()
                        / scale
                    ),
                }
            )
        self.drift.append({"after": t, "of": rows})
        if config.penalty != "frozen":
            self.logits.append(
                {
                    "after": t,
                    **self._logits(
                        network, classifier, torch.cat(now), torch.cat(labels), t
                    ),
                }
            )
            if config.memory != "real":
                self._similarity(t, network, phase)
        if memory.trained:
            self._judge(t, network, memory, phase)
        if (
            memory.replays
            and config.memory != "translated"
            and self.then[0] is not None
        ):
            self._project(
                t,
                memory,
                torch.nn.Sequential(*network.stages[config.cut :]),
                now[0],
                labels[0],
                phase,
            )

    def _features(self, extractor, k: int, phase) -> tuple[torch.Tensor, torch.Tensor]:
        index, tasks = self.tasks.test_index(k), self.tasks
        labels = tasks.test_labels[index]
        rank = torch.arange(len(labels), device=labels.device) - torch.searchsorted(
            labels, labels
        )
        index = index[
            rank < (PER_CLASS if k or not self._shown() else max(PER_CLASS, POINTS))
        ]
        chunks = []
        with torch.no_grad(), phase.autocast():
            for chosen in index.split(EVALUATION_BATCH):
                images = tasks.test_images[chosen]
                chunks.append(extractor(tasks.normalise(images)).float())
        return torch.cat(chunks), tasks.test_labels[index]

    @torch.no_grad()
    def _activations(self, network: Network, k: int, phase) -> dict[str, np.ndarray]:
        """{layer: [rows, channels]} for test images of task k: sampled places of every block, and the logits of its classes.

        The last block is taken after its pooling, place by place. Images, places and their order are always the same.
        """
        tasks, index = self.tasks, self.tasks.test_index(k)
        index = index[
            :: -(-len(index) // IMAGES)
        ]  # sorted by class, so every class is in
        rows: dict[str, list] = {}
        for chosen in index.split(EVALUATION_BATCH):
            images = tasks.test_images[chosen]
            with phase.autocast():
                x = tasks.normalise(images)
                for number, stage in enumerate(network.stages, 1):
                    x = stage(x)
                    side = (
                        1
                        if x.ndim == 4
                        else max(1, round((x.shape[1] / stage_width(stage)) ** 0.5))
                    )
                    maps = (
                        (x if x.ndim == 4 else x.view(len(x), -1, side, side))
                        .float()
                        .cpu()
                        .numpy()
                    )
                    places = max(
                        1, min(maps.shape[2] * maps.shape[3], ROWS // len(index))
                    )
                    rows.setdefault(f"block {number}", []).append(
                        similarity.pixels_as_rows(
                            maps, at_most=places * len(maps), rng=0
                        )
                    )
                own = tasks.classes(k)
                rows.setdefault("classifier", []).append(
                    network.head(x)[:, own.start : own.stop].float().cpu().numpy()
                )
        return {layer: np.concatenate(parts) for layer, parts in rows.items()}

    def _similarity(self, t: int, network: Network, phase) -> None:
        """How alike M_t and M_k are on task k's test images, layer by layer, for tasks k < t (Figure 2), with the null."""
        self.learned[t] = self._activations(network, t, phase)
        for k in range(t):
            if k not in self.learned or k > 0 and len(self.tasks.sizes) > ALL_PAIRS:
                continue
            for layer, now in self._activations(network, k, phase).items():
                then = self.learned[k][layer]
                images = min(len(self.tasks.test_index(k)), len(now))
                group = len(now) // images if len(now) % images == 0 else 1
                entry = {"after": t, "task": k, "layer": layer, "rows": len(now)}
                try:
                    found = similarity.svcca(now, then, details=True)
                    entry |= {
                        "svcca": found["similarity"],
                        "kept": list(found["kept"]),
                        "pwcca": similarity.pwcca(now, then),
                        "cka": similarity.linear_cka(now, then),
                        "svcca_null": similarity.null(
                            similarity.svcca, now, then, group=group, rng=0
                        ),
                        "cka_null": similarity.null(
                            similarity.linear_cka, now, then, group=group, rng=0
                        ),
                    }
                except ValueError as problem:  # too few images for so many channels, or a layer that does not vary
                    entry["problem"] = str(problem)
                self.similarity.append(
                    {
                        n: float(f"{v:.4g}") if isinstance(v, float) else v
                        for n, v in entry.items()
                    }
                )

    @torch.no_grad()
    def _judge(self, t: int, network: Network, memory: Memory, phase) -> None:
        """Share of what G_t replays for task 0's classes that the network of task 0 takes for the class asked for.

        After the last task no GAN is trained any more. At cut 0 some of the images are kept for the sheet.
        """
        last = len(self.tasks.sizes) - 1
        if t == 0:
            self.first_network = copy.deepcopy(network).eval()
        if t == last and t > 0 or self.first_network is None:
            return
        upper = split(self.first_network, self.config.cut)[1]
        rng, classes = phase.seeded("judge"), self.tasks.sizes[0]
        c = torch.arange(classes, device=phase.device).repeat_interleave(
            max(1, 1000 // classes)
        )
        right = torch.cat(
            [
                upper(memory.sample(part, rng)).argmax(1) == part
                for part in c.split(EVALUATION_BATCH)
            ]
        )
        self.recognised.append(
            {"after": t, "of": classes, "share": _r(right.double().mean())}
        )
        if self.config.cut == 0 and t in (0, max(0, last - 1)):
            shown = torch.arange(self._shown(), device=phase.device).repeat_interleave(
                SAMPLES
            )
            self.samples[f"replayed after task {t}"] = self._pixels(
                memory.sample(shown, rng)
            )

    def _pixels(self, x: torch.Tensor) -> np.ndarray:
        """Normalised images [B, C, H, W] as uint8 [B, H, W, C]."""
        images = x.permute(0, 2, 3, 1).float() * self.tasks.std + self.tasks.mean
        return (255 * images).round().clamp(0, 255).byte().cpu().numpy()

    def sheet(self) -> bytes | None:
        """A PNG of real and generated images, a row a class of task 0, `SAMPLES` columns a kind; None without image replay."""
        if not self.samples:
            return None
        from PIL import Image

        tasks, shown = self.tasks, self._shown()
        labels = tasks.test_labels[tasks.test_index(0)]
        rows = torch.cat(
            [torch.nonzero(labels == c)[:SAMPLES, 0] for c in range(shown)]
        )
        real = tasks.test_images[tasks.test_index(0)[rows]]
        kinds = [
            (augment.centre(real, tasks.crop) if tasks.crop else real).cpu().numpy(),
            *self.samples.values(),
        ]
        h, w, channels = kinds[0].shape[1:]
        grid = np.concatenate(
            [
                k.reshape(shown, SAMPLES, h, w, channels)
                .transpose(0, 2, 1, 3, 4)
                .reshape(shown * h, SAMPLES * w, channels)
                for k in kinds
            ],
            axis=1,
        )
        buffer = io.BytesIO()
        Image.fromarray(grid[..., 0] if channels == 1 else grid).save(
            buffer, "PNG", optimize=True
        )
        return buffer.getvalue()

    def _shown(self) -> int:
        return min(SHOWN, self.tasks.sizes[0])

    @torch.no_grad()
    def _logits(self, network: Network, classifier, u, y, t: int) -> dict:
        """Per class seen: its mean logit over test images of other classes, its bias and its weight's length."""
        logits = classifier(u)
        edge = self.tasks.classes(t).start
        other = torch.ones_like(logits, dtype=torch.bool)
        inside = y < logits.shape[1]
        other[torch.arange(len(y), device=y.device)[inside], y[inside]] = False
        mean = (logits * other).sum(0) / other.sum(0).clamp_min(1)
        weight = torch.cat([b.weight for b in network.head.blocks])
        bias = torch.cat(
            [
                torch.zeros(len(b.weight), device=u.device)
                if b.bias is None
                else b.bias
                for b in network.head.blocks
            ]
        )
        old_images = y < edge
        best = {"on_old_images": {}, "on_new_images": {}}
        for name, rows in (
            ("on_old_images", logits[old_images]),
            ("on_new_images", logits[~old_images]),
        ):
            if len(rows) and edge:
                best[name] = {
                    "old_classes": _r(rows[:, :edge].amax(1).mean()),
                    "new_classes": _r(rows[:, edge:].amax(1).mean()),
                }
        return {
            "old_classes": edge,
            "mean_logit": _r(mean),
            "bias": _r(bias),
            "weight_norm": _r(torch.linalg.vector_norm(weight, dim=1)),
            "largest_logit": best,
        }

    @torch.no_grad()
    def _project(self, t: int, memory: Memory, upper, real, labels, phase) -> None:
        """t-SNE of real features of task 0's classes under F_t beside those that the memory replays for them.

        After the last task no GAN is trained any more, so that it is G_{T-1} that is seen there. What enters below the
        last cut is taken through the stages above it, `upper`.
        """
        from sklearn.manifold import TSNE

        last = len(self.tasks.sizes) - 1
        if t not in (0, last):
            return
        shown = self._shown()
        keep = torch.cat([torch.nonzero(labels == c)[:POINTS, 0] for c in range(shown)])
        rng = phase.seeded("projection")
        c = torch.repeat_interleave(torch.arange(shown, device=labels.device), POINTS)
        replayed = upper(memory.sample(c, rng)).float()
        both = torch.cat([real[keep], replayed]).cpu().numpy()
        points = TSNE(
            random_state=0, perplexity=min(30, len(both) // 4), init="pca", max_iter=500
        ).fit_transform(both)
        std = real[keep].std(0)
        dims = std.topk(min(4, real.shape[1])).indices
        self.projection[str(t)] = {
            "real": _r(torch.from_numpy(points[: len(keep)])),
            "real_class": labels[keep].tolist(),
            "replayed": _r(torch.from_numpy(points[len(keep) :])),
            "replayed_class": c.tolist(),
            "dimensions": dims.tolist(),
            "real_values": _r(real[keep][:, dims].T),
            "replayed_values": _r(replayed[:, dims].T),
            "class_std": {
                "real": _r(_within(real[keep], labels[keep])),
                "replayed": _r(_within(replayed, c)),
            },
        }

    def result(self) -> dict:
        """What lies beside the record: drift, logits, projection, similarity, and what is recognised of the replay."""
        samples = (
            {
                "classes": self.tasks.class_names[: self._shown()],
                "columns": SAMPLES,
                "kinds": ["real", *self.samples],
            }
            if self.samples
            else {}
        )
        return {
            "drift": self.drift,
            "logits": self.logits,
            "projection": self.projection,
            "similarity": self.similarity,
            "recognised": self.recognised,
            "samples": samples,
        }


def stage_width(stage: torch.nn.Module) -> int:
    """Channels of a stage's last batch norm: those of its output, flattened or not."""
    return [
        m.num_features
        for m in stage.modules()
        if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)
    ][-1]


def _within(u: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean over dimensions of the standard deviation inside each class."""
    return torch.stack([u[labels == c].std(0).mean() for c in labels.unique()])


def _r(value: torch.Tensor | list | float):
    """Four significant digits, as plain numbers."""
    value = value.tolist() if isinstance(value, torch.Tensor) else value
    return [_r(v) for v in value] if isinstance(value, list) else float(f"{value:.4g}")
