"""CCA of two 10,000 x 512 arrays: `gfrlib.similarity` beside google/svcca."""

import json
import sys
import time

import numpy as np

from gfrlib import similarity


def arrays(
    rows: int = 10_000, columns: int = 512, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Two full-rank arrays that share part of their directions, as two layers do."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(rows, columns // 2))
    return tuple(
        common @ rng.normal(size=(columns // 2, columns)) / columns**0.5
        + rng.normal(size=(rows, columns))
        for _ in range(2)
    )


def timed(function, repeats: int = 3) -> tuple[float, float]:
    """(value, seconds of the fastest of some calls)."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        value = function()
        seconds.append(time.perf_counter() - began)
    return value, min(seconds)


def main(folder: str | None) -> dict:
    """Value and seconds of both; google/svcca's is left out without a checkout."""
    x, y = arrays()
    value, seconds = timed(lambda: similarity.svcca(x, y, keep=1))
    found = {"ours": value, "ours_seconds": seconds}
    if folder:
        sys.path.insert(0, folder)
        import cca_core

        def theirs():
            found = cca_core.get_cca_similarity(
                x.T, y.T, epsilon=1e-10, compute_coefs=False, verbose=False
            )
            return float(np.mean(found["cca_coef1"]))

        found["theirs"], found["theirs_seconds"] = timed(theirs)
    return found


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1] if len(sys.argv) > 1 else None)))
