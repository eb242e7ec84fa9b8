"""The page *Verdicts*: what recorded runs say of every claim of the paper.

`Evidence` finds the runs, `judge` asks every claim at every scale, and the rest turns
the answers into Markdown: no number of it is written by hand.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from gfrlib.book import claims, costs, paper, results, scales, words
from gfrlib.book.claims import Claim
from gfrlib.book.scales import SCALES, Scale
from gfrlib.config import make_config
from gfrlib.engine.store import root
from gfrlib.lab import grids

SEEDS = 3  # looked for at each scale
SAME = (("slim", "medium"), ("slim", "photographs, 64 px"))  # pairs that are compared


# What was found -----------------------------------------------------------------------


class Evidence:
    """The recorded runs of rows; each is looked for once.

    find(preset, rows, seeds, **settings) gives {row: [Record, ...]}, as
    `results.recorded`.
    """

    def __init__(self, find: Callable = results.recorded):
        self.find, self._known = find, {}

    def runs(self, scale: Scale, split: str, row: str) -> list:
        """The runs of a row at a scale, one a seed; none where nothing is recorded."""
        key = scale.name, split, row
        if key not in self._known:
            own = scales.row_settings(row) if split in scale.splits else None
            found = {}
            if own is not None:
                shared = scale.settings_of(split)
                classes = {"classes": scale.classes} if scale.classes else {}
                found = self.find(scale.preset, {row: own}, SEEDS, **classes, **shared)
            self._known[key] = found.get(row, [])
        return self._known[key]


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
        return claims.verdict(self.first, self.second, self.claim.kind)

    @property
    def known(self) -> bool:
        """Whether both sides are recorded."""
        return self.verdict != claims.MISSING


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
            if claim.data == "objects":
                found.append(Judged(claim, split, "objects", *of_objects(claim)))
            found += [
                ask(claim, split, scale, evidence)
                for scale in SCALES.values()
                if scale.data == claim.data and split in scale.splits
            ]
    return found


# Table 1 is about objects: they are built, with the sizes of the `paper` preset -------

SIDES = {paper.CIFAR: (100, 32), paper.SUBSET: (100, 256), paper.WHOLE: (1000, 256)}


def size_of(item: str) -> int:
    """Bytes of what a claim about memory compares, such as 'GAN, ImageNet-1000'."""
    what, _, name = item.partition(", ")
    if what == "24 images":
        return 24 * 256**2 * 3
    classes, side = SIDES[name]
    if what == "exemplars":
        return costs.exemplar_bytes(classes, side)
    if what == "GAN of images":
        return costs.memory_bytes("mergan", classes, (3, side, side))
    return costs.memory_bytes("gfr", classes)


def of_objects(claim: Claim) -> tuple[list[float], list[float]]:
    """Both sides in percent of the second."""
    first, second = (size_of(row) for row in claim.pair)
    return [100 * first / second], [100.0]


# Words and tables ---------------------------------------------------------------------


def measured(answer: Judged) -> str:
    """'47.0 ± 0.3 against 39.2 ± 0.5: +7.8; 3 seeds'; of memory its bytes."""
    if not answer.known:
        return ""
    if answer.claim.data == "objects":
        return " against ".join(words.human(size_of(row)) for row in answer.claim.pair)
    both = [claims.mean_and_spread(v) for v in (answer.first, answer.second)]
    gap = claims.signed(answer.first, answer.second)
    counts = sorted({len(answer.first), len(answer.second)}, reverse=True)
    seeds = "1 seed" if counts == [1] else f"{' and '.join(map(str, counts))} seeds"
    return f"{both[0]} against {both[1]}: {gap}; {seeds}"


def printed(claim: Claim) -> str:
    """The numbers that the paper prints for the two sides, or a dash."""
    numbers = ["–" if n is None else str(n) for n in claim.printed]
    return " against ".join(numbers) or "–"


def quantity(claim: Claim) -> str:
    """What is compared, in words."""
    both = dict.fromkeys(
        claims.QUANTITIES[side.quantity][0] for side in (claim.first, claim.second)
    )
    lead = "lead in " if claim.first.minus else ""
    return lead + " against ".join(both)


def cell(answer: Judged) -> str:
    """The verdict and, below it, what was measured."""
    if not answer.known:
        return claims.MISSING
    return f"**{answer.verdict}**<br>{measured(answer)}"


def markdown(rows: list[dict]) -> str:
    """Rows of texts as a Markdown table; a bar in a text stands escaped."""
    if not rows:
        return ""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "\n".join(
        "| " + " | ".join(str(text).replace("|", "\\|") for text in line) + " |"
        for line in lines
    )


def by_claim(answers: list[Judged]) -> dict:
    """{(claim, split): {scale: answer}}, in the order of the paper."""
    found: dict = {}
    for answer in answers:
        found.setdefault((answer.claim, answer.split), {})[answer.scale] = answer
    return found


def part_table(answers: list[Judged]) -> str:
    """The claims of one part: the verdict and the values at every scale with runs.

    A claim that no scale answers is left out, and so is a scale without any answer.
    """
    columns = [s for s in scale_names(answers) if _answers(answers, s)]
    rows = [
        {
            "claim": f"{claim.text} {_small(split, quantity(claim))}",
            **{
                heading(scale): cell(at[scale]) if scale in at else ""
                for scale in columns
            },
            "the paper prints": printed(claim),
            "shown in": f"[](#{claim.figure})",
        }
        for (claim, split), at in by_claim(answers).items()
        if any(answer.known for answer in at.values())
    ]
    return markdown(rows)


def _small(*about: str) -> str:
    return f"<br><small>{'; '.join(text for text in about if text)}</small>"


def scale_names(answers: list[Judged]) -> list[str]:
    """The scales that were asked, in their order."""
    return list(dict.fromkeys(answer.scale for answer in answers))


def _answers(answers: list[Judged], scale: str) -> list[Judged]:
    return [answer for answer in answers if answer.scale == scale and answer.known]


def heading(scale: str) -> str:
    """A column's title: the scale, and that its heights are not the paper's."""
    if scale == "objects":
        return "built here"
    return scale + (_small("smaller: no height") if smaller(scale) else "")


def smaller(scale: str) -> bool:
    """Whether runs of a scale are of another size than the paper's."""
    return SCALES[scale].preset != "paper" or SCALES[scale].stand_in


# The parts of the page ----------------------------------------------------------------


def summary(answers: list[Judged]) -> str:
    """How many claims are answered in which way, a row a scale, ours apart."""
    rows = []
    for scale in scale_names(answers):
        for ours in (False, True):
            asked = [a for a in answers if (a.scale, a.claim.ours) == (scale, ours)]
            count = Counter(answer.verdict for answer in asked)
            if asked:
                rows.append(
                    {
                        "scale": scale,
                        "whose": "our questions" if ours else "the paper's claims",
                        "asked": len(asked),
                        **{verdict: count[verdict] for verdict in claims.VERDICTS},
                    }
                )
    return markdown(rows)


def headline(answers: list[Judged]) -> str:
    """One sentence: how many claims, and how many are answered, and how."""
    of_paper = {k: at for k, at in by_claim(answers).items() if not k[0].ours}
    known = [a for at in of_paper.values() for a in at.values() if a.known]
    somewhere = {(a.claim, a.split) for a in known}
    count = Counter(answer.verdict for answer in known)
    kinds = ", ".join(
        f"{count[verdict]} *{verdict}*"
        for verdict in claims.VERDICTS
        if verdict != claims.MISSING
    )
    return (
        f"The list holds **{len(of_paper)} claims of the paper** (one asked on three "
        f"splits counts three times). Runs answer {len(somewhere)} of them, some at "
        f"several scales; of these {len(known)} verdicts: {kinds}. The other "
        f"{len(of_paper) - len(somewhere)} are not recorded at any scale."
    )


def failing(answers: list[Judged]) -> str:
    """The paper's claims that do not hold somewhere, as a list."""
    lines = [
        f"- {claim.where}, {split or 'memory'}: {claim.text}. "
        + "; ".join(f"{a.scale}: {measured(a)}" for a in at.values() if _fails(a))
        + "."
        for (claim, split), at in by_claim(answers).items()
        if not claim.ours and any(map(_fails, at.values()))
    ]
    return "\n".join(lines) or "None of those that are recorded."


def _fails(answer: Judged) -> bool:
    return answer.verdict == claims.FAILS


def changes(first: str, second: str, evidence: Evidence) -> str:
    """The claims of accuracies that two scales answer differently, as a table.

    Asked are all claims of both scales' data on the splits that both have.
    """
    data = {SCALES[name].data for name in (first, second)}
    asked: dict = {}
    for claim in (claim for part in paper.PARTS.values() for claim in part):
        if claim.data in data:
            for split in claim.splits:
                key = claim.first, claim.second, claim.kind, split
                asked.setdefault(key, (claim, split))
    pairs = [
        [ask(claim, split, SCALES[name], evidence) for name in (first, second)]
        for claim, split in asked.values()
    ]
    both = [pair for pair in pairs if all(answer.known for answer in pair)]
    if not both:
        return f"No claim is recorded both at {first} and at {second} yet."
    rows = [
        {
            "claim": f"{one.claim.text} {_small(one.split)}",
            **{answer.scale: cell(answer) for answer in (one, other)},
        }
        for one, other in both
        if one.verdict != other.verdict
    ]
    same = f"{len(both) - len(rows)} of {len(both)} claims that are recorded at both "
    return f"{same} have the same verdict at {first} and {second}.\n\n{markdown(rows)}"


def sizes() -> str:
    """What the scales are: images, width, epochs, and whether heights compare."""
    rows = []
    for scale in SCALES.values():
        config = make_config(scale.preset, "gfr", **scale.settings)
        rows.append(
            {
                "scale": scale.name,
                "images": scale.images,
                "preset": scale.preset,
                "network": f"{config.network}, width {config.width}",
                "epochs, task 0 and later": f"{config.epochs_base} + "
                f"{config.epochs_task}",
                "compare with the paper": "the order" if smaller(scale.name) else
                "order and height",
            }
        )  # fmt: skip
    return markdown(rows)


# What is missing ----------------------------------------------------------------------


def grid_files() -> dict:
    """{identity of a run: the grid file that makes it}, of the files in `grids/`."""
    found: dict = {}
    for path in sorted((root() / "grids").glob("*.yaml")):
        for config in grids.read(path):
            found.setdefault(str(config.identity()), f"grids/{path.name}")
    return found


def missing(answers: list[Judged], evidence: Evidence) -> str:
    """What no scale's runs answer yet: a row a scale, with what records it."""
    files, rows = grid_files(), []
    for scale in scale_names(answers):
        open_ = [a for a in answers if a.scale == scale and not a.known]
        if not open_ or scale == "objects":
            continue
        lacking = _lacking(open_, SCALES[scale], evidence)
        where = Counter(files.get(str(c.identity()), "") for c in lacking)
        made = [f"`python -m gfrlib grid {name}`" for name in where if name]
        single = [c for c in lacking if str(c.identity()) not in files]
        made += [f"`{words.command(config)}`" for config in single[:1]]
        more = f" and {len(single) - 1} like it" if len(single) > 1 else ""
        rows.append(
            {
                "scale": scale,
                "not answered": len(open_),
                "runs that lack": len(lacking),
                "what records them": "<br>".join(made) + more,
            }
        )
    return markdown(rows) or "Nothing: every claim is recorded at every scale."


def _lacking(open_: list[Judged], scale: Scale, evidence: Evidence) -> list:
    """The Configs (seed 0) of the rows without runs, each once."""
    found = {}
    for answer in open_:
        for side in (answer.claim.first, answer.claim.second):
            split = side.split or answer.split
            for row in filter(None, (side.row, side.minus)):
                if not evidence.runs(scale, split, row):
                    for config in scales.configs(scale, split, row):
                        found[str(config.identity())] = config
    return list(found.values())


def looked_at() -> str:
    """What no record decides, with what shows it."""
    return markdown(
        [
            {"claim": text, "where": where, "shown in": f"[](#{figure})"}
            for text, where, figure in paper.LOOKED_AT
        ]
    )
