"""Presets: named sets of settings, from seconds on a laptop to the paper's own."""

# What every machine makes in seconds, and what is the reader's own: made again wherever
# the code is another; records are kept in the reader's cache, never in the repository.
LIVE = ("quick", "example", "photos")

# A preset says what it takes, the rest are the defaults: for losses and generator the
# paper's where it speaks and its code agrees (where the two differ, book/differences.md
# says which is followed), for data, network and epochs those of `quick`.
PRESETS = {
    # every reader, offline, and the tests: scikit-learn's digits; all values ours
    "quick": dict(
        dataset="digits", base=4, tasks=3, network="cnn", width=16, epochs_base=30,
        epochs_task=20, batch_size=32, generator_hidden=128, latent_dim=32,
        generator_steps_base=400, generator_steps_later=450, feature_views=8,
        generator_batch=32, generator_learning_rate=4e-3, critic_steps=3, threads=1,
    ),
    # the running example: as quick, but two later tasks, a narrower F that ends in 16
    # features, so that later classes need what task 0 did not teach, and later
    # tasks and generators train longer (the search: data/example-search.csv); all ours
    "example": dict(
        dataset="digits", base=4, tasks=2, network="cnn", width=8, bottleneck=16,
        epochs_base=30, epochs_task=100, batch_size=32, generator_hidden=128,
        latent_dim=32, generator_steps_base=1000, generator_steps_later=1000,
        feature_views=8, generator_batch=32, generator_learning_rate=4e-3,
        critic_steps=3, threads=1,
    ),
    # some thousand photographs of the reader's own (--dataset), and a pretrained
    # extractor (--weights): fine-tuned in minutes on two cores; all values ours
    "photos": dict(
        dataset="digits", base=6, tasks=2, network="resnet18", width=16,
        epochs_base=8, epochs_task=6, batch_size=32, learning_rate=1e-3,
        learning_rate_task=5e-4, schedule="cosine", precision="auto",
        generator_hidden=256, latent_dim=64, generator_steps_base=1000,
        generator_steps_later=1000, feature_views=2, generator_learning_rate=2e-3,
        critic_steps=3,
    ),
    # a 2-core machine, real CIFAR-100; all values ours, what they reduce stands in the
    # chapter
    "slim": dict(
        dataset="cifar100", base=50, tasks=5, network="resnet18", width=16,
        epochs_base=24, epochs_task=6, batch_size=64, learning_rate=2e-3,
        learning_rate_task=5e-4, schedule="cosine", generator_hidden=256,
        latent_dim=64, generator_steps_base=2000, generator_steps_later=3200,
        feature_views=2, generator_learning_rate=2e-3, threads=1,
    ),
    # the paper's networks, its code's batch, the schedule of slim: some hours on two
    # cores that have bf16 arithmetic. No rate was searched: task 0 takes the paper's
    # 1e-3
    "medium": dict(
        dataset="cifar100", base=50, tasks=5, network="resnet18", width=64,
        epochs_base=24, epochs_task=6, batch_size=128, learning_rate=1e-3,
        learning_rate_task=5e-4, schedule="cosine", precision="auto",
        generator_steps_base=2000, generator_steps_later=3200, feature_views=2,
        generator_learning_rate=1e-3,
    ),
    # Section 5: CIFAR-100, ResNet-18, 201 epochs a task, 501 for the GAN
    "paper": dict(
        dataset="cifar100", base=50, tasks=5, network="resnet18", width=64,
        epochs_base=201, epochs_task=201, feature_views=8, precision="auto",
    ),
}  # fmt: skip
# Convolutional generators take far longer a step: fewer, where seconds count (ours).
SHORT = dict(
    generator_batch=64, critic_steps=2, generator_steps_base=1200,
    generator_steps_later=1600, generator_learning_rate=5e-4,
)  # fmt: skip
SPATIAL = {
    "quick": dict(
        generator_parameters=60_000, generator_steps_base=200,
        generator_steps_later=200, generator_learning_rate=1e-3,
    ),
    "slim": SHORT,
    "medium": SHORT,
}  # fmt: skip
