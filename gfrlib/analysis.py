"""What needs weights, computed while a run passes by and written beside its record, so that the book needs none."""

import torch

from gfrlib import training
from gfrlib.config import Config
from gfrlib.networks import Network, split
from gfrlib.replay import Memory
from gfrlib.tasks import Tasks

PER_CLASS = 20  # test images of each class that are looked at for drift
SHOWN = 8  # classes in the projection
POINTS = 40  # real and replayed features of each of them


class Observer:
    """Called after every task: keeps a few features and statistics; `result()` is the analysis."""

    def __init__(self, config: Config, tasks: Tasks):
        self.config, self.tasks = config, tasks
        self.then: list[torch.Tensor] = []  # features of task k's test sample when task k had just been learned
        self.first: list[torch.Tensor] = []  # class means of the same, and of the memory
        self.drift, self.logits, self.projection = [], [], {}

    def __call__(self, t: int, network: Network, memory: Memory) -> None:
        config = self.config
        phase = training.Phase(config, t, "analysis", training.NoStore(), None)
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
            means = [torch.stack([u[labels[k] == c].mean(0) for c in labels[k].unique()]) for u in (now[k], self.then[k])]
            scale = torch.linalg.vector_norm(self.then[k], dim=1).mean()
            rows.append({"task": k, "features": _r(moved.mean() / scale),
                         "class_means": _r(torch.linalg.vector_norm(means[0] - means[1], dim=1).mean() / scale)})
        self.drift.append({"after": t, "of": rows})
        if config.penalty != "frozen":
            self.logits.append({"after": t, **self._logits(network, classifier, torch.cat(now), torch.cat(labels), t)})
        if memory.replays and config.memory != "translated" and self.then[0] is not None:
            self._project(t, memory, torch.nn.Sequential(*network.stages[config.cut:]), now[0], labels[0], phase)

    def _features(self, extractor, k: int, phase) -> tuple[torch.Tensor, torch.Tensor]:
        index, tasks = self.tasks.test_index(k), self.tasks
        labels = tasks.test_labels[index]
        rank = torch.arange(len(labels), device=labels.device) - torch.searchsorted(labels, labels)
        index = index[rank < (PER_CLASS if k or not self._shown() else max(PER_CLASS, POINTS))]
        chunks = []
        with torch.no_grad(), phase.autocast():
            for images in tasks.test_images[index].split(training.EVALUATION_BATCH):
                chunks.append(extractor(tasks.normalise(images)).float())
        return torch.cat(chunks), tasks.test_labels[index]

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
        bias = torch.cat([torch.zeros(len(b.weight), device=u.device) if b.bias is None else b.bias
                          for b in network.head.blocks])
        old_images = y < edge
        best = {"on_old_images": {}, "on_new_images": {}}
        for name, rows in (("on_old_images", logits[old_images]), ("on_new_images", logits[~old_images])):
            if len(rows) and edge:
                best[name] = {"old_classes": _r(rows[:, :edge].amax(1).mean()),
                              "new_classes": _r(rows[:, edge:].amax(1).mean())}
        return {"old_classes": edge, "mean_logit": _r(mean), "bias": _r(bias),
                "weight_norm": _r(torch.linalg.vector_norm(weight, dim=1)), "largest_logit": best}

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
        points = TSNE(random_state=0, perplexity=min(30, len(both) // 4), init="pca", max_iter=500).fit_transform(both)
        std = real[keep].std(0)
        dims = std.topk(min(4, real.shape[1])).indices
        self.projection[str(t)] = {
            "real": _r(torch.from_numpy(points[: len(keep)])), "real_class": labels[keep].tolist(),
            "replayed": _r(torch.from_numpy(points[len(keep):])), "replayed_class": c.tolist(),
            "dimensions": dims.tolist(), "real_values": _r(real[keep][:, dims].T), "replayed_values": _r(replayed[:, dims].T),
            "class_std": {"real": _r(_within(real[keep], labels[keep])), "replayed": _r(_within(replayed, c))}}

    def result(self) -> dict:
        """What lies beside the record: drift, logits, projection."""
        return {"drift": self.drift, "logits": self.logits, "projection": self.projection}


def _within(u: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean over dimensions of the standard deviation inside each class."""
    return torch.stack([u[labels == c].std(0).mean() for c in labels.unique()])


def _r(value: torch.Tensor):
    """Four significant digits, as plain numbers."""
    if value.ndim == 0:
        return float(f"{value.item():.4g}")
    return [_r(v) for v in value]
