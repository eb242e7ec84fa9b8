"""The page *Verdicts* as Markdown: no number of it is written by hand.

The functions take the answers of `verdicts.judge`; the chapter shows what they return.
"""

from collections import Counter

from IPython.display import Markdown

from gfrlib.book import claims, live, paper, scales, words
from gfrlib.book.claims import Claim
from gfrlib.book.scales import SCALES, Scale
from gfrlib.book.verdicts import OBJECTS, Evidence, Judged, at_both, size_of
from gfrlib.config import make_config

DECIDED = (claims.HOLDS, claims.FAILS, claims.DIRECTION)  # the seeds say so

# Words --------------------------------------------------------------------------------


def measured(answer: Judged) -> str:
    """'GFR, GAN 47.0 ± 0.3 against LwF 39.2 ± 0.5: +7.8 (6.9 to 8.7); 3 seeds'; of
    memory bytes.
    """
    if not answer.known:
        return ""
    if answer.claim.data == OBJECTS:
        return " against ".join(words.human(size_of(row)) for row in answer.claim.pair)
    both = [claims.mean_and_spread(v) for v in (answer.first, answer.second)]
    gap = claims.signed(answer.first, answer.second)
    counts = [*dict.fromkeys((len(answer.first), len(answer.second)))]
    seeds = "1 seed" if counts == [1] else f"{' and '.join(map(str, counts))} seeds"
    first, second = (f"{n} {v}".strip() for n, v in zip(names(answer.claim), both))
    return f"{first} against {second}: {gap}; {seeds}"


def names(claim: Claim) -> tuple[str, str]:
    """What the two sides are called; nothing where one row is compared with itself."""
    if claim.first.minus or claim.first.row == claim.second.row:
        return "", ""
    return words.label(claim.first.row), words.label(claim.second.row)


def printed(claim: Claim) -> str:
    """The numbers that the paper prints for the two sides, or a dash."""
    numbers = ["not printed" if n is None else str(n) for n in claim.printed]
    return " against ".join(numbers) or "–"


def quantity(claim: Claim) -> str:
    """What is compared, in words."""
    sides = (claim.first, claim.second)
    one, other = (claims.QUANTITIES[side.quantity][0] for side in sides)
    common, _, detail = other.rpartition(", ")
    if one != other:
        return f"{one} against {detail if one.startswith(common) else other}"
    return f"lead in {one}" if claim.first.minus else one


CHAPTERS = {  # the word in a label: its chapter
    "generator": 3, "cifar": 4, "where": 6, "images": 7, "extractor": 8,
    "comparison": 9, "imagenet": 10, "cost": 11, "after": 12, "still": 14,
}  # fmt: skip


def link(label: str) -> str:
    """'[chapter 9](#fig-comparison-tasks)': the figure or section of that label; a
    reader's own notebook has the chapter's name alone.
    """
    word = label.removeprefix("fig-").split("-")[0]
    return live.link(f"chapter\u00a0{CHAPTERS[word]}", label)


def table(rows: list[dict]) -> str:
    """Rows of texts as a Markdown table; a bar in a text stands escaped."""
    if not rows:
        return ""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "\n".join(
        "| " + " | ".join(str(text).replace("|", "\\|") for text in line) + " |"
        for line in lines
    )


def scale_names(answers: list[Judged]) -> list[str]:
    """The scales that were asked, from the smallest on."""
    asked = {answer.scale for answer in answers}
    return [name for name in (*SCALES, OBJECTS) if name in asked]


def smaller(scale: str) -> bool:
    """Whether runs of a scale are of another size than the paper's."""
    if scale == OBJECTS:
        return False
    return SCALES[scale].preset != "paper" or SCALES[scale].stand_in


# One part of the paper ----------------------------------------------------------------


def by_claim(answers: list[Judged]) -> dict[Claim, list[Judged]]:
    """{claim: its answers}, in the order of the paper."""
    found: dict = {}
    for answer in answers:
        found.setdefault(answer.claim, []).append(answer)
    return found


def part_table(answers: list[Judged]) -> str:
    """The recorded answers of one part, the verdict first; the claim once, above them.

    What no run answers is left out.
    """
    usual = most_common_quantity([answer for answer in answers if answer.known])
    rows = []
    for claim, own in by_claim(answers).items():
        said = f"{claim.text} ({link(claim.figure)})<br>"
        groups: dict[str, list] = {}
        for answer in (answer for answer in own if answer.known):
            line = f"{place(answer)}: {measured(answer)}"
            groups.setdefault(word(answer), []).append(line)
        for verdict, lines in groups.items():
            text = f"{said}<small>{'<br>'.join(lines)}</small>"
            rows.append({"verdict": verdict, "claim and numbers": text})
            said = ""
        more = about(claim, usual)
        if claim.printed:
            more = [f"the paper prints {printed(claim)}", *more]
        if groups and more:
            small = f"<br><small>{'<br>'.join(more)}</small>"
            rows[-1]["claim and numbers"] += small
    return table(rows)


def place(answer: Judged) -> str:
    """'slim, 5 tasks': where a claim was asked."""
    return ", ".join(filter(None, (answer.scale, answer.split)))


def word(answer: Judged) -> str:
    """The verdict, set off where the seeds decide; else which way the numbers point."""
    if answer.decided:
        return f"**{answer.verdict}**"
    if not answer.known:
        return answer.verdict
    if claims.difference(answer.first, answer.second) == 0:
        return f"{answer.verdict}<br><small>(so far level)</small>"
    way = "agrees" if answer.agrees else "disagrees"
    return f"{answer.verdict}<br><small>(so far it {way})</small>"


def most_common_quantity(answers: list[Judged]) -> str:
    """What most of the answered claims compare."""
    count = Counter(quantity(answer.claim) for answer in answers)
    return count.most_common(1)[0][0] if count else ""


def about(claim: Claim, usual: str) -> list[str]:
    """What else is to be said of a claim, in small print below it."""
    said = [] if claim.where in claim_parts(claim) else [claim.where]
    if claim.ours and not claim.text.startswith("our question"):
        said.append("our question")
    if quantity(claim) != usual:
        said.append(quantity(claim))
    return ["; ".join(said)] if said else []


def claim_parts(claim: Claim) -> str:
    """The title of the part that a claim stands in."""
    return next(title for title, some in paper.PARTS.items() if claim in some)


def heading(scale: str) -> str:
    """A column's title: the scale, and whether only the order can be compared."""
    return scale + ("<br><small>order only</small>" if smaller(scale) else "")


def part_note(answers: list[Judged]) -> str:
    """What is compared in a part, and what of it is not recorded."""
    known = [answer for answer in answers if answer.known]
    if not known:
        return f"None of the {len(answers)} questions here is answered by a run yet."
    splits = ", ".join(dict.fromkeys(a.split for a in known if a.split))
    text = f"Compared: {most_common_quantity(known)}"
    text += f", on {splits}." if splits else "."
    lacking = [name for name in scale_names(answers) if name not in scale_names(known)]
    silent = [
        c for c, own in by_claim(answers).items() if not any(a.known for a in own)
    ]
    text += f" Nothing of it is recorded at {', '.join(lacking)}." if lacking else ""
    if silent:
        left = words.counted(len(silent), "claim")
        text += f" Left out of the table: {left} without any run."
    return text


def part(answers: list[Judged], title: str) -> Markdown:
    """A part of the page, by its name in paper.PARTS: what is compared, and a table."""
    own = [answer for answer in answers if answer.claim in paper.PARTS[title]]
    return Markdown(f"{part_note(own)}\n\n{part_table(own)}")


# All of it ----------------------------------------------------------------------------


def summary(answers: list[Judged], ours: bool = False) -> Markdown:
    """How many claims are answered in which way, a row a scale; or our questions.

    Scales without any answer stand in a sentence.
    """
    rows, silent = [], []
    for scale in scale_names(answers):
        asked = [a for a in answers if (a.scale, a.claim.ours) == (scale, ours)]
        count = Counter(answer.verdict for answer in asked)
        counts = {verdict: count[verdict] for verdict in DECIDED}
        counts["open"] = sum(count[verdict] for verdict in claims.OPEN)
        counts[claims.MISSING] = count[claims.MISSING]
        if asked and len(asked) == count[claims.MISSING]:
            silent.append(scale)
        elif asked:
            rows.append({"scale": scale, **counts})
    none = f"\n\nNo claim is answered at {', '.join(silent)}." if silent else ""
    return Markdown(table(rows) + none)


def headline(answers: list[Judged]) -> str:
    """How many claims there are, how many runs decide, and how."""
    asked = [answer for answer in answers if not answer.claim.ours]
    known = [answer for answer in asked if answer.known]
    total = len({(answer.claim, answer.split) for answer in asked})
    somewhere = len({(answer.claim, answer.split) for answer in known})
    count = Counter(answer.verdict for answer in known)
    holds, fails, direction = (count[verdict] for verdict in DECIDED)
    one = [answer for answer in known if answer.verdict == claims.ONE_SEED]
    exact = sum(answer.claim.exact for answer in known)
    agree = sum(answer.agrees for answer in one)
    return (
        f"The paper makes **{total} comparisons** (a claim on a split of the classes); "
        f"runs of this book answer **{somewhere}** of them. With several scales these "
        f"are {len(known)} answers, {exact} of them counts of bytes, which need no "
        f"seeds. Decided: {holds} hold, "
        f"{fails} do not, {direction} hold without the margin. Open: {len(one)} with "
        f"one seed on a side ({agree} of them agree so far), {count[claims.UNDECIDED]} "
        "with more."
    )


def failing(answers: list[Judged]) -> Markdown:
    """The paper's claims that do not hold somewhere, or not as far, as a list."""
    return listed(a for a in answers if a.verdict in (claims.FAILS, claims.DIRECTION))


def doubtful(answers: list[Judged]) -> Markdown:
    """Those that are open, and whose numbers disagree with the claim, as a list."""
    return listed(a for a in answers if a.verdict in claims.OPEN and not a.agrees)


def listed(answers) -> Markdown:
    """The paper's claims among the answers: verdict, claim, its numbers and a link."""
    groups: dict[tuple, list] = {}
    for answer in (answer for answer in answers if not answer.claim.ours):
        numbers = f"{place(answer)}: {measured(answer)}"
        groups.setdefault((answer.verdict, answer.claim), []).append(numbers)
    lines = [
        f"- **{verdict}**: *{claim.text}* ({claim.where}, {link(claim.figure)}). "
        f"{'. '.join(numbers)}."
        for (verdict, claim), numbers in groups.items()
    ]
    return Markdown("\n".join(lines) or "None of those that are recorded.")


def changes(first: str, second: str, evidence: Evidence) -> Markdown:
    """The claims whose means point another way at the second scale, as a table."""
    both = at_both(first, second, evidence)
    if not both:
        return Markdown(
            f"No claim is recorded both at *{first}* and at *{second}* yet."
        )
    rows = [
        {
            "claim": f"{one.claim.text} ({one.split})",
            **{
                heading(answer.scale): f"{word(answer)}<br><small>{measured(answer)}"
                "</small>"
                for answer in (one, other)
            },
        }
        for one, other in both
        if one.agrees != other.agrees
    ]
    same = (
        f"{words.counted(len(both), 'claim')} can be answered both at *{first}* and at "
        f"*{second}*; the numbers point another way in {len(rows)} of them."
    )
    return Markdown(f"{same}\n\n{table(rows)}")


NETWORKS = {"resnet18": "ResNet-18", "cnn": "small network"}


def sizes() -> Markdown:
    """What the scales are: images, network, epochs."""
    rows = []
    for scale in SCALES.values():
        config = make_config(scale.preset, "gfr", **scale.settings)
        rows.append(
            {
                "scale": scale.name,
                "images": scale.images,
                "network": f"{NETWORKS[config.network]}, width {config.width}",
                "epochs": f"{config.epochs_base} + {config.epochs_task}",
            }
        )
    counted_here = "none: memories and exemplars are built, their bytes counted"
    objects = dict.fromkeys(rows[0], "–") | {"scale": OBJECTS, "images": counted_here}
    return Markdown(table([*rows, objects]))


# What is missing ----------------------------------------------------------------------


def missing(answers: list[Judged], evidence: Evidence) -> Markdown:
    """What no run answers yet: a row a scale, with what records it."""
    rows = []
    for scale in scale_names(answers):
        unanswered = [a for a in answers if a.scale == scale and not a.known]
        if not unanswered:
            continue
        lacking = _lacking(unanswered, SCALES[scale], evidence)
        lines = [
            line[2:] if line.startswith("# ") else f"`{line}`"
            for line in words.made_by(lacking.values())
        ]
        rows.append(
            {
                "scale": scale,
                "comparisons without an answer": len(unanswered),
                "runs that are missing (first seed)": len(lacking),
                "what records them": "<br>".join(lines),
            }
        )
    return Markdown(table(rows) or "Nothing: every claim is recorded everywhere.")


def _lacking(unanswered: list[Judged], scale: Scale, evidence: Evidence) -> dict:
    """{digest: Config} of the rows without runs, seed 0."""
    found = {}
    for answer in unanswered:
        for side in (answer.claim.first, answer.claim.second):
            split = side.split or answer.split
            for row in filter(None, (side.row, side.minus)):
                if not evidence.runs(scale, split, row):
                    for config in scales.configs(scale, split, row):
                        found[config.digest()] = config
    return found


def looked_at() -> Markdown:
    """What no record decides, with what shows it."""
    return Markdown(
        table(
            [
                {"claim": text, "where": where, "shown in": link(figure)}
                for text, where, figure in paper.LOOKED_AT
            ]
        )
    )


def data(answers: list[Judged]) -> list[dict]:
    """All answers as rows, for the CSV below the page's tables."""
    return [
        {
            "where": answer.claim.where,
            "claim": answer.claim.text,
            "kind": answer.claim.kind,
            "compared": quantity(answer.claim),
            "split": answer.split,
            "scale": answer.scale,
            "first": " ".join(f"{value:.3f}" for value in answer.first),
            "second": " ".join(f"{value:.3f}" for value in answer.second),
            "difference": claims.signed(answer.first, answer.second),
            "verdict": answer.verdict,
        }
        for answer in answers
    ]
