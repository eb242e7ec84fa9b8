"""Which row to take: the decision guide at the end of the page *Verdicts*.

A `Case` is a situation of a practitioner, with the runs of this book that come closest.
The row with the best mean is named, with what the seeds do not tell from it; no row and
no number is typed. What no run is about stands in a list of its own.
"""

from dataclasses import dataclass, field

import numpy as np
from IPython.display import Markdown

from gfrlib.book import claims, results, verdict_page, words
from gfrlib.book.entries import TENS
from gfrlib.book.scales import COLD, ROWS, SCALES
from gfrlib.book.verdicts import Evidence
from gfrlib.config import METHODS, Config

# What may be kept beside the network itself; each allows what stands before it, too.
# The importances of weights (EWC, MAS) say nothing of single classes.
NOTHING, NUMBERS = "nothing of a class", "statistics or a generator"
IMAGES = f"{Config().exemplars} images a class"
KEPT = (NOTHING, NUMBERS, IMAGES)
MEMORIES = {"none": NOTHING, "exemplars": IMAGES}  # every other one is numbers
BEST = 5  # rows of a table of evidence
PAPERS = ("gfr", "gfr-gaussian")  # the method of the paper
# controls of this book that a reader may take, too: a frozen extractor with replay
FROZEN = tuple(row for row, how in ROWS.items() if how.get("penalty") == "frozen")
STARTS = {  # how the classes arrive: scale and split of the closest runs
    "a quarter of the classes first, 3 tasks follow": ("slim", "4 × 25"),
    "half of the classes first, 5 tasks follow": ("slim", "5 tasks"),
    "half of the classes first, 25 tasks follow": ("slim", "25 tasks"),
    "photographs, half first, 5 tasks follow": ("photographs, 64 px", "5 tasks"),
    "photographs, three equal tasks, an extractor pretrained on other ones": (
        *("pretrained", TENS[0]),
    ),
    "photographs, three equal tasks, from scratch": ("from scratch", TENS[0]),
    "a tenth of the classes first, 9 tasks follow": ("slim", COLD),
    "half first, 5 tasks follow, the paper's network": ("medium", "5 tasks"),
    "half first, 5 tasks follow, the paper's network and schedule": (
        "paper",
        "5 tasks",
    ),
    "photographs of 224 pixels": ("ImageNet-Subset", "5 tasks"),
    "1,000 classes": ("ImageNet-1000", "5 tasks"),
}
SHOWN = {  # (scale, split): label of what shows its runs
    ("slim", "4 × 25"): "after-frozen-table",
    ("slim", "5 tasks"): "fig-comparison-tasks",
    ("slim", "25 tasks"): "fig-comparison-tasks",
    ("photographs, 64 px", "5 tasks"): "imagenet-curves",
    ("pretrained", TENS[0]): "after-pretrained-section",
    ("from scratch", TENS[0]): "after-pretrained-section",
}
ALONE = {  # beside other rows of a chapter, shorter names do
    "frozen F, same memory": "Frozen F with replay from whole covariances",
    "frozen F + GAN": "Frozen F with replay from the GAN",
}
MEASURED = "half of the classes first, 5 tasks follow"  # whose costs are shown
UNSEEN = (  # what no record of this book covers
    "an extractor that was pretrained on a million images: the one of this book has "
    "seen 50 classes of small photographs",
    "data other than images, and streams that bring back a class",
    "networks other than ResNet-18 and a small one",
)


@dataclass(frozen=True)
class Case:
    """What may be kept of old classes (one of KEPT), and how classes arrive (STARTS).

    found     {row: its runs}, the best mean after the last task first
    borrowed  {row: the split that its runs are of}: rows whose last accuracy does not
              depend on how the later classes are split
    """

    keep: str
    start: str
    found: dict
    borrowed: dict = field(default_factory=dict)

    @property
    def known(self) -> bool:
        """Whether a row that makes use of what may be kept is recorded."""
        return any(keeps(row) == self.keep for row in self.found)

    @property
    def best(self) -> str:
        """The row with the best mean."""
        return next(iter(self.found))

    @property
    def others(self) -> list[str]:
        """The other rows, the next best first."""
        return list(self.found)[1:]

    def last(self, row: str) -> list[float]:
        """A row's accuracies after the last task, in percent, one a seed."""
        return results.last(self.found[row])

    def against(self, row: str) -> str:
        """What the seeds say of the claim that the best row is above this one."""
        return claims.verdict(self.last(self.best), self.last(row), "above")

    @property
    def tied(self) -> list[str]:
        """The rows that the seeds do not tell from the best one."""
        return [r for r in self.others if self.against(r) == claims.UNDECIDED]

    @property
    def close(self) -> list[str]:
        """The tied rows and, down to the last of them, those of too few seeds."""
        tied = self.tied
        end = self.others.index(tied[-1]) + 1 if tied else 0
        return [r for r in self.others[:end] if self.against(r) in claims.OPEN]

    @property
    def stopped(self) -> float:
        """What the best row's network ends at if it stops after task 0, in percent."""
        return float(np.mean([stopped(run) for run in self.found[self.best]]))


def method_of(row: str):
    """The Method of a row: a method's name, or one of FROZEN."""
    return METHODS[ROWS.get(row, {"method": row})["method"]]


def keeps(row: str) -> str:
    """What a row keeps of old classes: one of KEPT."""
    return MEMORIES.get(method_of(row).memory, NUMBERS)


def label(row: str) -> str:
    """What a row is called where it stands alone."""
    return ALONE.get(row) or words.label(row)


def frozen(row: str) -> bool:
    """Whether a row's extractor is never trained after task 0."""
    return row in FROZEN or method_of(row).penalty == "frozen"


def allowed(keep: str) -> list[str]:
    """The rows that keep no more than that; not joint training, which keeps it all."""
    known = KEPT[: KEPT.index(keep) + 1]
    rows = (*METHODS, *FROZEN)
    return [name for name in rows if name != "joint" and keeps(name) in known]


def case(keep: str, start: str, evidence: Evidence) -> Case:
    """The case with the runs that are recorded."""
    scale, split = STARTS[start]
    found = {row: evidence.runs(SCALES[scale], split, row) for row in allowed(keep)}
    known = {row: runs for row, runs in found.items() if runs}
    borrowed = {
        row: other
        for row in found
        if known and row not in known and indifferent(row)
        for other in same_base(scale, split)
        if evidence.runs(SCALES[scale], other, row)
    }
    for row, other in borrowed.items():
        known[row] = evidence.runs(SCALES[scale], other, row)
    by_mean = sorted(known, key=lambda row: -np.mean(results.last(known[row])))
    return Case(keep, start, {row: known[row] for row in by_mean}, borrowed)


def indifferent(row: str) -> bool:
    """Whether a row's last accuracy does not depend on how later classes are split.

    Its extractor is that of task 0, and it keeps statistics of each class by itself.
    """
    return frozen(row) and method_of(row).memory in ("means", "covariances")


def same_base(scale: str, split: str) -> list[str]:
    """The other splits of a scale with the same first task."""
    splits = SCALES[scale].splits
    base = splits[split].get("base")
    alike = [name for name, how in splits.items() if base and how.get("base") == base]
    return [name for name in alike if name != split]


def cases(evidence: Evidence) -> list[Case]:
    """Every case, by what may be kept."""
    return [case(keep, start, evidence) for keep in KEPT for start in STARTS]


def stopped(run) -> float:
    """The class-weighted accuracy over all classes, in percent, of knowing task 0 only.

    A network that stops after task 0 keeps its accuracy there and has no other.
    """
    return 100 * run.accuracy[0, 0] * run.task_sizes[0] / sum(run.task_sizes)


def later_seconds(run) -> float:
    """Seconds of a run in all tasks after the first, every phase."""
    phases = {entry["phase"] for entry in run.seconds}
    return sum(results.seconds(run, phase, "later") for phase in phases)


# The page -----------------------------------------------------------------------------


def score(case: Case, row: str) -> str:
    """'37.9 ± 0.5 %'; a single seed is named."""
    values = case.last(row)
    seeds = ", one seed" if len(values) == 1 else ""
    carried = f", of {case.borrowed[row]}" if row in case.borrowed else ""
    return f"{claims.mean_and_spread(values)}\u00a0%{seeds}{carried}"


def beside(case: Case) -> str:
    """What is not told from the best row, or else which row comes next."""
    if not case.others:
        return "no other row is recorded, so nothing is compared"
    rows = case.close or case.others[:1]
    named = "; ".join(f"{label(row)}, {score(case, row)}" for row in rows)
    if case.tied:
        return f"not told apart by the seeds: {named}"
    decided = case.against(rows[0]) == claims.HOLDS
    return f"next: {named} ({'decided' if decided else claims.ONE_SEED})"


def advice(case: Case) -> str:
    """The best row in bold; no advice where it has no rival, or stopping is better."""
    row, end = label(case.best), score(case, case.best)
    if np.mean(case.last(case.best)) < case.stopped:
        return (
            f"**none**: who never adds a class ends at {case.stopped:.1f}\u00a0%, "
            f"{row} at {end}"
        )
    return f"**{row}** ({end})" if case.others else f"open: {row} alone ({end})"


def leaders(known: list[Case], keep: str) -> set[str]:
    """The rows that are the best somewhere where that may be kept."""
    return {c.best for c in known if c.known and c.others and c.keep == keep}


def decision(known: list[Case]) -> Markdown:
    """The guide itself: a row a case, with the row to take."""
    lines = ["| you may keep; classes arrive | take |", "| --- | --- |"]
    for one in (one for one in known if one.known):
        take = advice(one)
        absent = leaders(known, one.keep) - set(one.found)
        names = "; ".join(sorted(label(row) for row in absent))
        absent = f"; not recorded here: {names}" if names else ""
        where = SHOWN.get(STARTS[one.start])
        shown = f" ({verdict_page.link(where)})" if where else ""
        small = f"<br><small>{beside(one)}{absent}{shown}</small>"
        lines.append(f"| **{one.keep}**; {one.start} | {take}{small} |")
    if len(lines) == 2:
        return Markdown("No run that could decide is recorded.")
    return Markdown("\n".join(lines))


def gained_by_images(known: list[Case]) -> Markdown:
    """Where keeping images is worth it, in a sentence for each start."""
    lines = []
    for one in (one for one in known if one.keep == IMAGES and one.known):
        with_images = next(row for row in one.found if keeps(row) == IMAGES)
        without = next((row for row in one.found if keeps(row) != IMAGES), None)
        if without:
            both = results.matched(one.found[with_images], one.found[without])
            lines.append(
                f"- {one.start}: {label(with_images)}, the best row with images, "
                f"against {label(without)}, the best without: "
                f"{claims.signed(*both)} points ({claims.verdict(*both, 'above')} for "
                "*above*)."
            )
    return Markdown("\n".join(lines) or "No row with images is recorded.")


def all_images(evidence: Evidence) -> Markdown:
    """Where all images may stay: joint training, for each start that has it."""
    ends = [
        f"{claims.mean_and_spread(results.last(runs))}\u00a0% ({start})"
        for start, (scale, split) in STARTS.items()
        if (runs := evidence.runs(SCALES[scale], split, "joint"))
    ]
    text = f"Joint training ends at {'; '.join(ends)}." if ends else "Not recorded."
    return Markdown(f"**All images may stay:** train again on all of them. {text}")


def machine(known: list[Case], start: str = MEASURED) -> list[dict]:
    """What the best rows of a start cost, and the paper's own, the frozen ones and
    those that keep nothing: a row a system, for `words.table`.
    """
    [one] = [c for c in known if (c.keep, c.start) == (IMAGES, start)]
    chosen = [*one.found][:BEST]
    cheap = [row for row in one.found if frozen(row)]
    return [
        {
            "system": label(row),
            "last (%)": claims.mean_and_spread(one.last(row)),
            "later tasks (s)": f"{np.mean([*map(later_seconds, one.found[row])]):.0f}",
            "kept for old classes": words.human(
                results.carried(one.found[row][0], without=("old network",))
            ),
        }
        for row in one.found
        if row in (*chosen, *PAPERS, *cheap) or keeps(row) == NOTHING
    ]


def unknown(known: list[Case]) -> Markdown:
    """Where this book has no evidence: starts without runs, and what it cannot set."""
    lines = []
    for start, (scale, split) in STARTS.items():
        lacking = [c.keep for c in known if c.start == start and not c.known]
        if len(lacking) == len(KEPT):
            lines.append(f"- {start} (*{scale}*, {split}): no run is recorded.")
        elif lacking:
            what = " or ".join(lacking)
            lines.append(f"- {start}: no row that keeps {what} is recorded.")
    return Markdown("\n".join([*(f"- {text}." for text in UNSEEN), *lines]))
