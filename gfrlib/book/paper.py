"""What Liu et al. 2020 claim: one entry a claim, in our words, with what decides it.

Chapters and the page *Verdicts* take their claims from here. All numbers here are the
paper's own. What runs say of a claim is in `gfrlib.book.verdicts`.
How an entry is written: `gfrlib.book.entries`. The book's own questions, which stand
beside the paper's claims: `gfrlib.book.beyond`.
"""

from gfrlib.book.beyond import BEYOND
from gfrlib.book.entries import FOUR, TASKS, read

CIFAR, SUBSET, WHOLE = "CIFAR-100", "ImageNet-Subset", "ImageNet-1000"

# What the paper prints ----------------------------------------------------------------

# CIFAR-100 in four tasks of 25 classes: accuracy (%) after each task
TABLE_2 = {
    "mergan": (82.4, 37.7, 17.8, 9.7),
    "block-1": (80.7, 41.6, 26.5, 20.1),
    "block-2": (80.7, 41.0, 26.5, 20.0),
    "block-3": (80.7, 51.1, 37.0, 26.6),
    "gfr": (80.7, 57.6, 48.2, 41.5),
}
TABLE_3 = {
    "EWC + GAN": (81.9, 40.8, 26.8, 21.2),
    "MAS + GAN": (81.9, 40.2, 26.0, 20.9),
    "distillation + GAN": (81.9, 58.4, 48.8, 42.2),
}
# CIFAR-100, ImageNet-Subset, ImageNet-1000
TABLE_1 = {
    "ResNet-18": ("42.8 Mb", "45 Mb", "45 Mb"),
    "20 exemplars a class": ("6.2 Mb", "375 Mb", "3.8 Gb"),
    # MeRGAN's and the paper's own: these two rows name no data set
    "G and D of images": ("8.5 Mb",) * 3,
    "G and D of features": ("4.5 Mb",) * 3,
}
JOINT = {CIFAR: 72.0, SUBSET: 77.6}  # last accuracy (%); captions of Figures 5 and 4

# Figures ------------------------------------------------------------------------------

_AT = dict(where="Figure 2", figure="fig-where-cifar", splits=FOUR)
FIGURE_2 = read(
    """
GFR keeps block 4 more alike than fine-tuning does
    above | gfr: block 4 | finetune: block 4
GFR keeps block 4 more alike than LwF does
    above | gfr: block 4 | lwf: block 4
GFR keeps block 4 more alike than image replay does
    above | gfr: block 4 | mergan: block 4
GFR keeps the classifier more alike than fine-tuning does
    above | gfr: classifier | finetune: classifier
fine-tuning: the first block stays more alike than the last
    above | finetune: block 1 | finetune: block 4
image replay: the first block stays more alike than the last
    above | mergan: block 1 | mergan: block 4
LwF keeps the classifier more alike than fine-tuning does
    above | lwf: classifier | finetune: classifier
fine-tuning keeps the lower blocks as alike as LwF does
    not below | finetune: blocks 1 to 3 | lwf: blocks 1 to 3
""",
    **_AT,
)
FIGURE_2 += read(
    """
GFR's block 4 is far more alike than shuffled images are
    far above | gfr: block 4 | gfr: shuffled
""",
    ours=True,
    **_AT,
)

_AT = dict(where="Figure 4", figure="imagenet-curves", data=SUBSET, splits=TASKS)
FIGURE_4 = read(
    """
GFR (GAN) is far above Rebalance
    far above | gfr | lucir
its lead over Rebalance is larger with 10 tasks than with 5
    above | gfr - lucir @ 10 tasks | gfr - lucir @ 5 tasks | 10 tasks
its lead over Rebalance is larger with 25 tasks than with 5
    above | gfr - lucir @ 25 tasks | gfr - lucir @ 5 tasks | 25 tasks
its lead over Rebalance is larger with 25 tasks than with 10
    above | gfr - lucir @ 25 tasks | gfr - lucir @ 10 tasks | 25 tasks
GFR (GAN) is above the Gaussians
    above | gfr | gfr-gaussian
the Gaussians are level with iCaRL-NME
    level | gfr-gaussian | icarl-nme | 5 tasks, 10 tasks
the Gaussians are far above iCaRL-NME
    far above | gfr-gaussian | icarl-nme | 25 tasks
the Gaussians are far above iCaRL-CNN
    far above | gfr-gaussian | icarl-cnn
GFR (GAN) is above iCaRL-NME
    above | gfr | icarl-nme
GFR (GAN) is above iCaRL-CNN
    above | gfr | icarl-cnn
GFR (GAN) is far above LwF
    far above | gfr | lwf
GFR (GAN) is far above EWC
    far above | gfr | ewc
GFR (GAN) is far above MAS
    far above | gfr | mas
iCaRL-CNN is above LwF
    above | icarl-cnn | lwf
iCaRL-CNN is above EWC
    above | icarl-cnn | ewc
iCaRL-CNN is above MAS
    above | icarl-cnn | mas
Rebalance is above LwF
    above | lucir | lwf
Rebalance is above EWC
    above | lucir | ewc
Rebalance is above MAS
    above | lucir | mas
""",
    **_AT,
)
FIGURE_4 += read(
    """
GFR (GAN) forgets less than Rebalance
    above | lucir: forgetting | gfr: forgetting
GFR (GAN) forgets less than the Gaussians
    above | gfr-gaussian: forgetting | gfr: forgetting
GFR (GAN) forgets less than iCaRL-NME
    above | icarl-nme: forgetting | gfr: forgetting
GFR (GAN) forgets less than iCaRL-CNN
    above | icarl-cnn: forgetting | gfr: forgetting
GFR (GAN) forgets less than LwF
    above | lwf: forgetting | gfr: forgetting
GFR (GAN) forgets less than EWC
    above | ewc: forgetting | gfr: forgetting
GFR (GAN) forgets less than MAS
    above | mas: forgetting | gfr: forgetting
""",
    **{**_AT, "figure": "imagenet-forgetting"},
)

FIGURE_4 += read(
    """
our question: GFR (GAN) is above a frozen F with nearest means
    above | gfr | frozen
our question: FeCAM is above GFR (GAN)
    above | fecam | gfr
our question: joint training is above GFR (GAN)
    above | joint | gfr | 5 tasks
""",
    printed={("joint", "gfr"): (JOINT[SUBSET], None)},
    ours=True,
    **_AT,
)

_AT = dict(where="Figure 5", figure="comparison-claims", splits=TASKS)
FIGURE_5 = read(
    """
GFR (GAN) is far above LwF
    far above | gfr | lwf
GFR (GAN) is far above EWC
    far above | gfr | ewc
GFR (GAN) is far above MAS
    far above | gfr | mas
GFR (GAN) is far above iCaRL-CNN
    far above | gfr | icarl-cnn
GFR (GAN) is far above iCaRL-NME
    far above | gfr | icarl-nme
GFR (GAN) is level with Rebalance (5 and 10 tasks)
    level | gfr | lucir | 5 tasks, 10 tasks
Rebalance is above GFR (GAN) (25 tasks; the paper: slightly)
    above | lucir | gfr | 25 tasks
Rebalance is above the Gaussians (the paper: slightly)
    above | lucir | gfr-gaussian
the Gaussians are not below iCaRL-NME
    not below | gfr-gaussian | icarl-nme
the Gaussians are not below iCaRL-CNN
    not below | gfr-gaussian | icarl-cnn
""",
    **_AT,
)
FIGURE_5 += read(
    """
our question: joint training is above GFR (GAN)
    above | joint | gfr | 5 tasks
""",
    printed={("joint", "gfr"): (JOINT[CIFAR], None)},
    ours=True,
    **_AT,
)
FIGURE_5 += read(
    """
GFR (GAN) is above fine-tuning
    above | gfr | finetune
""",
    where="Section 4.3, Figure 2",
    figure="images-table-2",
    splits=FOUR,
)
FIGURE_5 += read(
    """
our question: GFR (GAN) is above fine-tuning
    above | gfr | finetune
""",
    ours=True,  # the paper compares it there with LwF, EWC, MAS, iCaRL and Rebalance
    **_AT,
)
FIGURE_5 += read(
    """
our question: the Gaussians are far above LwF
    far above | gfr-gaussian | lwf
our question: FeCAM is above Rebalance
    above | fecam | lucir
""",
    ours=True,
    **{**_AT, "splits": (*TASKS, *FOUR)},
)
_AT = {**_AT, "figure": "comparison-covariances", "splits": (*TASKS, *FOUR)}
FIGURE_5 += read(
    """
our question: the GAN is above diagonal Gaussians
    above | gfr | gfr-gaussian
our question: GFR (GAN) is above a frozen F with nearest means
    above | gfr | frozen
our question: diagonal Gaussians are above a frozen F with nearest means
    above | gfr-gaussian | frozen
our question: FeCAM is above GFR (GAN)
    above | fecam | gfr
our question: whole covariances are above the GAN
    above | gfr-gaussian-full | gfr
""",
    ours=True,
    **_AT,
)

FIGURE_6 = read(
    """
GFR (GAN) is far above iCaRL-CNN
    far above | gfr | icarl-cnn
GFR (GAN) is far above iCaRL-NME
    far above | gfr | icarl-nme
GFR (GAN) is above Rebalance
    above | gfr | lucir
its lead over Rebalance is larger with 10 tasks than with 5
    above | gfr - lucir @ 10 tasks | gfr - lucir @ 5 tasks | 10 tasks
its lead over Rebalance is larger with 25 tasks than with 5
    above | gfr - lucir @ 25 tasks | gfr - lucir @ 5 tasks | 25 tasks
Rebalance forgets over 10 points more than GFR (GAN)
    far above | lucir: forgetting | gfr: forgetting
iCaRL-CNN forgets over 10 points more than GFR (GAN)
    far above | icarl-cnn: forgetting | gfr: forgetting
iCaRL-NME forgets over 10 points more than GFR (GAN)
    far above | icarl-nme: forgetting | gfr: forgetting
""",
    where="Figure 6",
    figure="imagenet-words",
    data=WHOLE,
    splits=TASKS,
)

FIGURE_7 = read(
    """
our question: replays of task 0 are recognised nearly as often at the end as at once
    near | gfr: at last | gfr: at once
""",
    where="Figure 7",
    figure="fig-generator-tsne-end",
    data=SUBSET,
    splits=TASKS,
    ours=True,  # how we read "the distributions ... are very close" (Appendix C)
)

# Tables and text ----------------------------------------------------------------------


def _printed(table: dict, row: str) -> dict:
    """{(row, other): the table's numbers after the last task}."""
    return {(row, other): (table[row][-1], table[other][-1]) for other in table}


_STORED, _MADE = TABLE_1["20 exemplars a class"], TABLE_1["G and D of features"]
CLAIMS_1 = read(
    """
CIFAR-100: 20 exemplars a class take more than G and D
    above | exemplars, CIFAR-100: bytes | GAN, CIFAR-100: bytes
ImageNet-Subset: 20 exemplars a class take far more than G and D
    far above | exemplars, ImageNet-Subset: bytes | GAN, ImageNet-Subset: bytes
ImageNet-1000: 20 exemplars a class take far more than G and D
    far above | exemplars, ImageNet-1000: bytes | GAN, ImageNet-1000: bytes
G and D take the same for 1,000 classes as for 100
    level | GAN, ImageNet-1000: bytes | GAN, ImageNet-Subset: bytes
G and D take as much as 24 images of 256 × 256 pixels
    near | GAN, ImageNet-Subset: bytes | 24 images: bytes
""",
    printed={
        **{
            (f"exemplars, {name}: bytes", f"GAN, {name}: bytes"): numbers
            for name, *numbers in zip((CIFAR, SUBSET, WHOLE), _STORED, _MADE)
        },
        ("GAN, ImageNet-1000: bytes", "GAN, ImageNet-Subset: bytes"): _MADE[1:],
        ("GAN, ImageNet-Subset: bytes", "24 images: bytes"): (_MADE[1], "24 images"),
    },
    where="Table 1",
    figure="cost-table-1",
    data="objects",
    splits=("",),
)

_AT = dict(where="Table 2", figure="images-table-2", splits=FOUR)
CLAIMS_2 = read(
    """
features far above Replay at block 3
    far above | gfr | block-3
features far above Replay at block 2
    far above | gfr | block-2
features far above Replay at block 1
    far above | gfr | block-1
features far above Image replay
    far above | gfr | mergan
""",
    printed=_printed(TABLE_2, "gfr"),
    **_AT,
)
CLAIMS_2 += read(
    """
our question: Replay at block 3 near fine-tuning
    near | block-3 | finetune
our question: Replay at block 2 near fine-tuning
    near | block-2 | finetune
our question: Replay at block 1 near fine-tuning
    near | block-1 | finetune
our question: Image replay near fine-tuning
    near | mergan | finetune
""",
    ours=True,
    **_AT,
)

_AT = dict(where="Table 3", figure="extractor-table-3", splits=FOUR)
CLAIMS_3 = read(
    """
distillation far above EWC + GAN
    far above | distillation + GAN | EWC + GAN
distillation far above MAS + GAN
    far above | distillation + GAN | MAS + GAN
""",
    printed=_printed(TABLE_3, "distillation + GAN"),
    **_AT,
)
CLAIMS_3 += read(
    """
our question: distillation above EWC + GAN, searched
    above | distillation + GAN | EWC + GAN, searched
our question: distillation above MAS + GAN, searched
    above | distillation + GAN | MAS + GAN, searched
our question: distillation above no penalty
    above | distillation + GAN | no penalty + GAN
our question: distillation above a frozen F
    above | distillation + GAN | frozen F + GAN
""",
    ours=True,
    **_AT,
)
CLAIMS_3 += read(
    """
our question: features drift further with EWC + GAN than with distillation
    above | EWC + GAN: drift | distillation + GAN: drift
our question: features drift further with MAS + GAN than with distillation
    above | MAS + GAN: drift | distillation + GAN: drift
""",
    ours=True,  # how we read "the generated features are closer to the real ones"
    **{**_AT, "where": "Appendix B"},
)

TEXT = read(
    """
fine-tuning favours new classes: far above old ones
    far above | finetune: new | finetune: old
with feature replay, no bias to new classes: old ones are not below them
    not below | gfr: old | gfr: new
""",
    where="Section 1",
    figure="cifar-old-new",
    splits=TASKS[:1],
)
TEXT += read(
    """
LwF keeps more of the old classes than fine-tuning
    above | lwf: old | finetune: old
GFR (GAN) is above LwF
    above | gfr | lwf
""",
    where="Sections 3.2 and 4.3",
    figure="after-frozen-table",
    splits=FOUR,
)
TEXT += read(
    """
our question: features are easier to replay than images: recognised far more often
    far above | gfr: at once | mergan: at once
""",
    where="Sections 1 and 6",
    figure="fig-images-cifar-judged",
    splits=FOUR,
    ours=True,  # how we read "considerably easier than accurately generating images"
)
TEXT += read(
    """
our question: on digits, image replay far above fine-tuning
    far above | mergan | finetune
""",
    where="Section 1",
    figure="fig-images-final",
    data="digits",
    splits=("4 + 3 × 2",),
    ours=True,
)

PARTS = {  # the paper from front to back
    "Figure 2": FIGURE_2,
    "Figure 4": FIGURE_4,
    "Figure 5": FIGURE_5,
    "Table 1": CLAIMS_1,
    "Table 2": CLAIMS_2,
    "Table 3": CLAIMS_3,
    "Figure 6": FIGURE_6,
    "Figure 7": FIGURE_7,
    "In the text": TEXT,
    "Beyond the paper": BEYOND,
}
# What no record decides: (what the paper says, where, label of what shows it here).
LOOKED_AT = (
    (
        "G and D of images take almost twice as much as those of features (8.5 MB): "
        "the paper gives no sizes, and those of ours are a choice",
        "Section 5.2",
        "cost-table-1",
    ),
    (
        "generated and real features of task 0 cover each other in a plane",
        "Figure 7",
        "fig-generator-tsne-end",
    ),
    (
        "holding outputs works less well where new images are far from old ones",
        "Section 3.2",
        "where-far",
    ),
    (
        "the method is efficient: the overhead of its generator is small",
        "Sections 1 and 6",
        "fig-cost-seconds",
    ),
)
