"""Questions that the paper does not ask: claims of this book's own, decided like its.

Their entries are read as those of `gfrlib.book.paper`.
"""

from gfrlib.book.entries import FOUR, TASKS, TENS, UNSEEN, read

BEYOND = read(
    """
the square (weight searched) is above the length (λ = 1), whole covariances
    above | gfr-squared | gfr-gaussian-full
the square is above a frozen F with nearest means
    above | gfr-squared | frozen
the square is above a frozen F with the same memory
    above | gfr-squared | frozen F, same memory
the square is above FeCAM
    above | gfr-squared | fecam
the square, whole covariances, is above GFR (GAN): distance and memory differ
    above | gfr-squared | gfr
""",
    where="Beyond the paper",
    figure="still-tested",
    splits=(*FOUR, *TASKS),
    ours=True,
)
BEYOND += read(
    """
whole covariances are above diagonal Gaussians
    above | gfr-gaussian-full | gfr-gaussian
whole covariances are above a frozen F with nearest means
    above | gfr-gaussian-full | frozen
FeCAM is above a frozen F with nearest means
    above | fecam | frozen
""",
    where="Beyond the paper",
    figure="comparison-covariances",
    splits=(*FOUR, *TASKS),
    ours=True,
)
BEYOND += read(
    """
the flow is above the GAN
    above | gfr-flow | gfr
the flow, followed by midpoint steps, is above the GAN
    above | gfr-flow, midpoint | gfr | 4 × 25
midpoint steps put the flow above ten Euler steps
    above | gfr-flow, midpoint | gfr-flow | 4 × 25
the flow is above whole covariances
    above | gfr-flow | gfr-gaussian-full
mixtures are above diagonal Gaussians
    above | gfr-mixture | gfr-gaussian
whole covariances are above mixtures
    above | gfr-gaussian-full | gfr-mixture
""",
    where="Beyond the paper",
    figure="fig-generator-recorded",
    splits=(*FOUR, "5 tasks", "25 tasks"),
    ours=True,
)
PRETRAINED = read(
    """
on unseen photographs, whole covariances are above a frozen F with the same memory
    above | gfr-gaussian-full | frozen F, same memory
on unseen photographs, whole covariances are above a frozen F with nearest means
    above | gfr-gaussian-full | frozen
on unseen photographs, whole covariances are above fine-tuning
    above | gfr-gaussian-full | finetune
on unseen photographs, whole covariances are above LwF
    above | gfr-gaussian-full | lwf
on unseen photographs, whole covariances are above FeCAM
    above | gfr-gaussian-full | fecam
on unseen photographs, GFR (GAN) is above a frozen F with the same memory
    above | gfr | frozen F + GAN
""",
    where="Beyond the paper",
    data=UNSEEN,
    figure="after-pretrained-section",
    splits=TENS,
    ours=True,
)
BEYOND += PRETRAINED
