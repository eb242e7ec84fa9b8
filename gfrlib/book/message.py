"""The message of the book in three sentences, from recorded runs.

Why feature replay works, when it does not, and what to use. A sentence without its runs
is left out.
"""

import numpy as np

from gfrlib.book import claims, guide, live, results, words
from gfrlib.book.scales import SCALES
from gfrlib.book.verdicts import Evidence

AT, FOUR = "slim", "4 × 25"


def message(evidence: Evidence) -> str:
    """The sentences whose runs are recorded, a paragraph each."""
    told = why(evidence), when_not(evidence), use(evidence)
    return "\n\n".join(filter(None, told))


def why(evidence: Evidence) -> str:
    """Why it works: features can be generated, and the extractor stays where it is."""
    ours, images, tuned = runs(evidence, FOUR, "gfr", "mergan", "finetune")
    analysed = [run for run in ours if run.analysis]
    if not (analysed and images and images[0].analysis and tuned):
        return ""
    made, drawn = (
        claims.mean_and_spread(results.recognised(some)[0][1])
        for some in (analysed, images)
    )
    moved = claims.mean_and_spread(results.drifted(analysed))
    one = " (one seed)" if len(images) == 1 else ""
    updates = [some[0].config.generator_steps_base for some in (images, ours)]
    fewer = ", whose generator had fewer updates" if updates[0] < updates[1] else ""
    return (
        "**What it needs:** features that can be generated, and an extractor that is "
        f"held. The first network recognises {made}\u00a0% of the features that "
        f"generative feature replay (GFR) makes, and {drawn}\u00a0%{one} of generated "
        f"images{fewer}; the features of old images move by {moved}\u00a0% of their "
        "length. "
        f"GFR ends at {last(ours)}\u00a0%, fine-tuning at {last(tuned)}\u00a0% "
        f"(CIFAR-100, {FOUR})."
    )


def when_not(evidence: Evidence) -> str:
    """When it does not: beside an extractor that is frozen, over the splits."""
    told = []
    for split in (FOUR, "5 tasks", "25 tasks"):
        ours, frozen = runs(evidence, split, "gfr", "frozen")
        if ours and frozen:
            told.append((split, *results.matched(ours, frozen)))
    if not told:
        return ""
    leads = "; ".join(f"{split}: {lead(*both)}" for split, *both in told)
    ahead = all(claims.verdict(*both, "above") == claims.HOLDS for _, *both in told)
    head = "Beside a frozen extractor" if ahead else "When it may not"
    text = (
        f"**{head}:** a frozen extractor with class means keeps every "
        f"feature. GFR's lead over it, in points: {leads}."
    )
    ours, still = runs(evidence, FOUR, "gfr", "frozen F + GAN")
    if ours and still:
        text += (
            " Where the frozen extractor has GFR's classifier and GAN, too, the lead "
            f"({FOUR}) is {lead(*results.matched(ours, still))}."
        )
    whole, gan = runs(evidence, FOUR, "gfr-gaussian-full", "gfr")
    if whole and gan:
        ends = results.last(whole), results.last(gan)
        if claims.verdict(*ends, "above") == claims.HOLDS:
            text += (
                " Nor is the GAN what makes it work: Gaussians with whole covariances "
                f"end at {last(whole)}\u00a0%, the GAN at {last(gan)}\u00a0%, each "
                "at its own learning rate."
            )
    return text


def use(evidence: Evidence) -> str:
    """What to use: the row that the guide names where no image may be kept."""
    known = [
        case
        for case in guide.cases(evidence)
        if case.keep == guide.NUMBERS and case.known and case.others
    ]
    if not known:
        return ""
    best = [case.best for case in known]
    first = max(dict.fromkeys(best), key=best.count)
    asked = [
        case for case in known if first in case.found and first not in case.borrowed
    ]
    won = [case for case in asked if case.best == first]
    # the guide's example: where the statistics of a frozen F fall behind
    against = ", and a case against it" if first in ("fecam", "frozen") else ""
    scores = "; ".join(
        f"{guide.score(case, first)}{unsettled(case)}: {case.start}" for case in won
    )
    kept = {
        scale: words.human(
            np.mean([results.carried(r, without=("old network",)) for r in some])
        )
        for scale in (AT, "medium")
        if (some := evidence.runs(SCALES[scale], "5 tasks", first))
    }
    price = " and ".join(f"{size} at `{scale}`" for scale, size in kept.items())
    price = f" It keeps {price} (CIFAR-100, 5 tasks)." if price else ""
    return (
        "**What to use** on photographs, where statistics may be kept and no image: "
        f"{guide.label(first)} ends first "
        f"in {len(won)} of the {len(asked)} settings in which it is recorded beside "
        f"others ({scores}).{price} "
        f"The {live.link('guide', 'guide')} has the others{against}."
    )


def unsettled(case: guide.Case) -> str:
    """What is left open between the best row and the next: ', a tie' or ', open'."""
    if case.tied:
        return ", a tie"
    several = len(case.last(case.best)) > 1  # one seed is named by the score
    open_ = several and case.against(case.others[0]) in claims.OPEN
    return ", open" if open_ else ""


def runs(evidence: Evidence, split: str, *rows: str) -> list[list]:
    """The runs of rows on a split of CIFAR-100, an empty list where there are none."""
    return [evidence.runs(SCALES[AT], split, row) for row in rows]


def last(some) -> str:
    """'35.1 ± 0.2': accuracy after the last task."""
    return claims.mean_and_spread(results.last(some))


def lead(first, second) -> str:
    """'+1.5 (one seed)': a difference, with what the seeds leave open."""
    word = claims.verdict(first, second, "above")
    note = f" ({word.removeprefix('open: ')})" if word in claims.OPEN else ""
    return f"{np.mean(first) - np.mean(second):+.1f}{note}"
