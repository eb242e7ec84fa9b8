"""How alike the networks of a run are, layer by layer (Figure 2)."""

import numpy as np
import torch
from torch import nn

from gfrlib import similarity
from gfrlib.batches import EVALUATION_BATCH
from gfrlib.engine.phase import Phase
from gfrlib.lab.replayed import rounded
from gfrlib.networks import Network
from gfrlib.tasks import Tasks

IMAGES = 5000  # test images of a task that similarity is measured on, at most
ROWS = 5000  # rows of activations, at most: with fewer images, more places of each
ALL_PAIRS = 12  # with more tasks only task 0 is compared, not every pair


class Layers:
    """M_t against M_k on task k's test images; in `entries`.

    For all k < t; with more than ALL_PAIRS tasks for task 0 alone.
    """

    def __init__(self, stream: Tasks):
        self.stream = stream
        self.entries: list[dict] = []
        # task k -> its activations when it had just been learned
        self.learned: dict[int, dict[str, np.ndarray]] = {}

    def compare(self, t: int, network: Network, phase: Phase) -> None:
        """Add an entry for every layer and every earlier task that is compared."""
        self.learned[t] = self._activations(network, t, phase)
        every = len(self.stream.sizes) <= ALL_PAIRS
        for k in range(t):
            if k in self.learned and (k == 0 or every):
                for layer, now in self._activations(network, k, phase).items():
                    about = {"after": t, "task": k, "layer": layer, "rows": len(now)}
                    then = self.learned[k][layer]
                    images = min(len(self.stream.test_index(k)), len(now))
                    self.entries.append(about | _measured(now, then, images))

    @torch.no_grad()
    def _activations(
        self, network: Network, k: int, phase: Phase
    ) -> dict[str, np.ndarray]:
        """{layer: [rows, channels]} for test images of task k.

        Rows are sampled places of every block, and the logits of the task's classes.
        The last block is taken after its pooling, place by place. Images, places and
        their order are always the same.
        """
        stream, index = self.stream, self.stream.test_index(k)
        # sorted by class, so every class is in
        index = index[:: -(-len(index) // IMAGES)]
        own = stream.classes(k)
        rows: dict[str, list] = {}
        for chosen in index.split(EVALUATION_BATCH):
            with phase.autocast():
                x = stream.normalise(stream.test_images[chosen])
                for number, stage in enumerate(network.stages, 1):
                    x = stage(x)
                    found = _places(_maps(x, stage), len(index))
                    rows.setdefault(f"block {number}", []).append(found)
                logits = network.head(x)[:, own.start : own.stop]
            rows.setdefault("classifier", []).append(logits.float().cpu().numpy())
        return {layer: np.concatenate(parts) for layer, parts in rows.items()}


def _maps(x: torch.Tensor, stage: nn.Module) -> np.ndarray:
    """[B, channels, side, side] of a stage's output, which may be flattened."""
    if x.ndim != 4:
        [*_, last] = stage.modules()
        linear = isinstance(last, nn.Linear)  # a bottleneck has no places
        side = 1 if linear else max(1, round((x.shape[1] / stage_width(stage)) ** 0.5))
        x = x.view(len(x), -1, side, side)
    return x.float().cpu().numpy()


def _places(maps: np.ndarray, images: int) -> np.ndarray:
    """[rows, channels]: as many places of each image as ROWS allows, chosen once."""
    places = max(1, min(maps.shape[2] * maps.shape[3], ROWS // images))
    return similarity.pixels_as_rows(maps, at_most=places * len(maps), rng=0)


def _measured(now: np.ndarray, then: np.ndarray, images: int) -> dict:
    """All measures, SVCCA and CKA with their nulls; or the reason why there is none."""
    group = len(now) // images if len(now) % images == 0 else 1
    svcca, cka = similarity.svcca, similarity.linear_cka
    try:
        found = svcca(now, then, details=True)
        entry = {
            "svcca": found["similarity"],
            "kept": list(found["kept"]),
            "pwcca": similarity.pwcca(now, then),
            "cka": cka(now, then),
            "svcca_null": similarity.null(svcca, now, then, group=group, rng=0),
            "cka_null": similarity.null(cka, now, then, group=group, rng=0),
        }
    except ValueError as problem:
        # too few images for so many channels, or a layer that does not vary
        return {"problem": str(problem)}
    return rounded(entry)


def stage_width(stage: nn.Module) -> int:
    """Channels of a stage's last batch norm: those of its output, flattened or not."""
    norms = nn.modules.batchnorm._BatchNorm
    return [m.num_features for m in stage.modules() if isinstance(m, norms)][-1]
