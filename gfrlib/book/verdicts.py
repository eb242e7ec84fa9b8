"""What recorded runs say of every claim of the paper, at every scale.

`Evidence` finds the runs, `judge` asks the claims; `verdict_page` turns the answers
into the page *Verdicts*.
"""

from collections.abc import Callable
from dataclasses import dataclass

from gfrlib.book import claims, costs, paper, results, scales
from gfrlib.book.claims import Claim
from gfrlib.book.scales import SCALES, Scale

SEEDS = 3  # looked for at each scale
OBJECTS = "objects"  # what is built and counted, instead of runs


# What was found -----------------------------------------------------------------------


class Evidence:
    """The recorded runs of rows; each is looked for once.

    find  what stands for `results.recorded`: from a preset, rows, a number of seeds
          and settings it gives {row: [Record, ...]}
    live  the same for `quick` runs, one seed, such as `results.trained`; None: `find`
    """

    def __init__(self, find: Callable = results.recorded, live: Callable | None = None):
        self.find, self.live, self._known = find, live, {}

    def runs(self, scale: Scale, split: str, row: str) -> list:
        """The runs of a row at a scale, one a seed; none where nothing is recorded."""
        key = scale.name, split, row
        if key not in self._known:
            self._known[key] = self._look_for(scale, split, row)
        return self._known[key]

    def _look_for(self, scale: Scale, split: str, row: str) -> list:
        own = scales.row_settings(row) if split in scale.splits else None
        if own is None:
            return []
        shared = scale.settings_of(split)
        if scale.preset == "quick" and self.live:
            return self.live(scale.preset, {row: own}, 1, **shared)[row]
        if scale.classes:
            shared = {**shared, "classes": scale.classes}
        return self.find(scale.preset, {row: own}, SEEDS, **shared).get(row, [])

    def every(self) -> list:
        """All runs that were found, each once."""
        runs = [run for some in self._known.values() for run in some]
        return list({run.name: run for run in runs}.values())


@dataclass(frozen=True)
class Judged:
    """A claim on one split at one scale: its two groups of values, and the verdict."""

    claim: Claim
    split: str
    scale: str
    first: list
    second: list

    @property
    def verdict(self) -> str:
        """One of claims.VERDICTS."""
        about = self.claim
        return claims.verdict(self.first, self.second, about.kind, exact=about.exact)

    @property
    def known(self) -> bool:
        """Whether both sides are recorded."""
        return self.verdict != claims.MISSING

    @property
    def decided(self) -> bool:
        """Whether the seeds decide it."""
        return self.known and self.verdict not in claims.OPEN

    @property
    def agrees(self) -> bool:
        """Whether the difference of the means alone agrees with the claim."""
        about = self.claim
        lowest, highest = claims.agreeing(self.first, self.second, about.kind)
        return lowest < claims.difference(self.first, self.second) < highest


def ask(claim: Claim, split: str, scale: Scale, evidence: Evidence) -> Judged:
    """What the runs of one scale say of a claim on a split."""

    def runs_of(row, other_split):
        return evidence.runs(scale, other_split or split, row)

    return Judged(claim, split, scale.name, *claim.values(runs_of))


def judge(evidence: Evidence, parts: dict = paper.PARTS) -> list[Judged]:
    """Every claim on each of its splits at every scale that answers it."""
    found = []
    for claim in (claim for part in parts.values() for claim in part):
        for split in claim.splits:
            if claim.data == OBJECTS:
                found.append(Judged(claim, split, OBJECTS, *of_objects(claim)))
            found += [
                ask(claim, split, scale, evidence)
                for scale in SCALES.values()
                if scale.data == claim.data and split in scale.splits
            ]
    return found


# Table 1 is about objects: they are built, with the sizes of the `paper` preset -------


def size_of(item: str) -> int:
    """Bytes of what a claim about memory compares, such as 'GAN, ImageNet-1000'."""
    what, _, name = item.partition(", ")
    if what == "24 images":
        return 24 * 256**2 * 3
    classes, *_, side = costs.SETS[name]
    if what == "exemplars":
        return costs.exemplar_bytes(classes, side)
    return costs.memory_bytes("gfr", classes)


def of_objects(claim: Claim) -> tuple[list[float], list[float]]:
    """Both sides in percent of the second."""
    first, second = (size_of(row) for row in claim.pair)
    return [100 * first / second], [100.0]


# Two scales ---------------------------------------------------------------------------


def at_both(first: str, second: str, evidence: Evidence) -> list[tuple[Judged, Judged]]:
    """The answers of two scales to the claims that runs of both answer.

    Asked are all claims about the data of either scale, on the splits that both have.
    """
    data = {SCALES[name].data for name in (first, second)}
    asked: dict = {}
    for claim in (claim for part in paper.PARTS.values() for claim in part):
        for split in claim.splits if claim.data in data else ():
            key = claim.first, claim.second, claim.kind, split
            asked.setdefault(key, (claim, split))
    pairs = [
        tuple(ask(*question, SCALES[name], evidence) for name in (first, second))
        for question in asked.values()
    ]
    return [pair for pair in pairs if pair[0].known and pair[1].known]
