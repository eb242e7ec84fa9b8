"""One pure function per equation.

Tensors in, scalar out; weights are applied by the caller. Cross-entropies, distances
and rankings are taken in float32 or wider; the others in the type that they are given,
in training float32, but for the alignment of maps and images (bfloat16 under bf16).
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

REFERENCE_BATCH = 128  # of the official code; batch-wide sums are rescaled to it


def classification(logits: Tensor, labels: Tensor) -> Tensor:
    """L_CE of Section 3.1, there a sum over the data: mean over the batch of
    -log softmax(logits)[label]. logits [B, C], labels [B].
    """
    return functional.cross_entropy(
        logits.to(torch.promote_types(logits.dtype, torch.float32)), labels
    )


def balanced_classification(new: Tensor, replayed: Tensor, f: float) -> Tensor:
    """(CE_new + f CE_replayed) / (f + 1): the two mean losses weighted by the number of
    tasks each stands for (code).
    """
    return (new + f * replayed) / (f + 1)


def feature_distillation(
    u: Tensor, u_old: Tensor, *, distance: str = "batch"
) -> Tensor:
    """L_FD, Equation 4: how far F_t(x) has moved from F_{t-1}(x). u, u_old [B, ...].

    batch   sqrt(sum over batch and dimensions of (u - u_old)^2) x sqrt(128 / B): the
            official code's torch.dist,
            rescaled so that the batch size is not a hidden weight
    sample  E_x ||u - u_old||_2, as Equation 4 is printed
    mse     mean over batch and dimensions of (u - u_old)^2
    cosine  mean over the batch of 1 - cos(u, u_old)
    Raises ValueError for another name.
    """
    wide = torch.promote_types(u.dtype, torch.float32)
    u, u_old = u.to(wide).flatten(1), u_old.to(wide).flatten(1)
    if distance == "batch":
        return torch.linalg.vector_norm(u - u_old) * (REFERENCE_BATCH / len(u)) ** 0.5
    if distance == "sample":
        return torch.linalg.vector_norm(u - u_old, dim=1).mean()
    if distance == "mse":
        return functional.mse_loss(u, u_old)
    if distance == "cosine":
        return (1 - functional.cosine_similarity(u, u_old, dim=1)).mean()
    raise ValueError(f"unknown distance '{distance}'")


def lwf_distillation(
    logits: Tensor, logits_old: Tensor, sizes: list[int], *, temperature: float = 2.0
) -> Tensor:
    """L_LwF, Section 3.2: sum over old heads j of -E_x sum_c y_old^j log y^j, one
    softmax per head.

    logits and logits_old [B, >= sum(sizes)]; sizes are the old heads'. Softened by the
    temperature, and scaled by its square so that its choice does not change the
    gradients' size (Hinton et al.; the paper names none).
    """
    wide = torch.promote_types(logits.dtype, torch.float32)
    heads, old_heads = (
        rows[:, : sum(sizes)].to(wide).split(sizes, dim=1)
        for rows in (logits, logits_old)
    )
    total = logits.new_zeros((), dtype=wide)
    for head, old in zip(heads, old_heads):
        total = (
            total
            - (
                (old / temperature).softmax(dim=1)
                * (head / temperature).log_softmax(dim=1)
            )
            .sum(dim=1)
            .mean()
        )
    return total * temperature**2


def critic(scores_real: Tensor, scores_fake: Tensor) -> Tensor:
    """Equation 1: E[D(c, G(c, z))] - E[D(c, F(x))], minimised over D. Scores [B]."""
    return scores_fake.mean() - scores_real.mean()


def generator(scores_fake: Tensor) -> Tensor:
    """Equation 2: -E[D(c, G(c, z))], minimised over G. Scores [B]."""
    return -scores_fake.mean()


def gradient_penalty(
    discriminator: Callable, labels: Tensor, real: Tensor, fake: Tensor, mix: Tensor
) -> Tensor:
    """WGAN-GP: E[(||grad_u D(c, u)||_2 - 1)^2] at u = mix real + (1 - mix) fake. real,
    fake [B, ...], mix [B, 1, ...] in [0, 1].

    The paper writes WGAN; its code adds this penalty with weight 10 (Gulrajani et al.
    2017).
    """
    u = (mix * real + (1 - mix) * fake).detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(
        discriminator(labels, u).sum(), u, create_graph=True
    )
    return ((torch.linalg.vector_norm(gradient.flatten(1), dim=1) - 1) ** 2).mean()


def replay_alignment(
    replayed: Tensor,
    replayed_old: Tensor,
    *,
    form: str = "code",
    old_classes: int | Tensor = 1,
) -> Tensor:
    """L_RA, Equation 3: G_t must replay what G_{t-1} replays for the same old class c
    and latent z. Both [B, ...].

    paper  sum over old classes of E_z ||G_t - G_{t-1}||^2, estimated from uniformly
           drawn classes: old_classes x mean
    code   the squared error summed over the batch (x 128 / B, so that the batch size is
           not a hidden weight)
    Raises ValueError for another name.
    """
    moved = replayed - replayed_old
    if moved.dtype == torch.float16:  # whose range the sum would leave
        moved = moved.float()
    squared = moved.square().flatten(1).sum(dim=1)  # [B]
    if form == "paper":
        return old_classes * squared.mean()
    if form == "code":
        return REFERENCE_BATCH * squared.mean()
    raise ValueError(f"unknown alignment '{form}'")


def flow_matching(velocity: Tensor, x: Tensor, z: Tensor) -> Tensor:
    """L_FM: mean over batch and dimensions of (v(x_s, s, c) - (x - z))^2, at x_s =
    s x + (1 - s) z on the straight path from noise z to a feature x. All [B, d].

    Conditional flow matching (Lipman et al. 2023, Equation 23 with sigma_min = 0). The
    minimiser is the mean of x - z over all paths through x_s, and its flow carries
    N(0, I) to the features.
    """
    return functional.mse_loss(velocity, x - z)


def velocity_alignment(velocity: Tensor, velocity_old: Tensor) -> Tensor:
    """Equation 3 in a flow's form (ours): v_t must repeat v_{t-1} for the old classes,
    where the old flow leads. Mean over batch and dimensions of (v_t - v_{t-1})^2.
    """
    return functional.mse_loss(velocity, velocity_old)


def margin_ranking(
    scores: Tensor, labels: Tensor, old: int, *, margin: float = 0.5, rivals: int = 2
) -> Tensor:
    """L_mr of Rebalance: an old image's own score must exceed those of its hardest new
    classes by a margin.

    scores [B, C] are cosines, not scaled; rows with labels < `old` are exemplars of old
    classes, the others do not count; the mean over exemplars and their `rivals` highest
    new classes, 0 where there are none (LUCIR, Equation 8).
    """
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    counts = (
        labels < old
    )  # a mask and no selection, whose size the host would have to wait for
    own = scores.gather(1, labels[:, None])
    hardest = scores[:, old:].topk(min(rivals, scores.shape[1] - old), dim=1).values
    return (functional.relu(margin - own + hardest) * counts[:, None]).sum() / (
        hardest.shape[1] * counts.sum()
    ).clamp_min(1)


def parameter_penalty(theta: Tensor, theta_old: Tensor, omega: Tensor) -> Tensor:
    """sum_i Omega_i (theta_i - theta_i*)^2 over all parameters [P].

    EWC takes half of it (Kirkpatrick et al. 2017), MAS the whole (Aljundi et al. 2018);
    the paper names both in Section 5.1 and Appendix B.
    """
    return (omega * (theta - theta_old).square()).sum()
