"""What the commands do with a trained network: keep it, and name classes with it."""

import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

from gfrlib.cli.progress import Progress
from gfrlib.config import Config, UserError
from gfrlib.engine import paths, values

TOGETHER = 100  # pictures that are read before they are answered


def check_options(options) -> Path | None:
    """The file that is to be written after a run, if any. Raises UserError for words
    that contradict each other, and for a file that cannot be written.
    """
    weights, network = options.save_weights, options.save_network
    if weights is None and network is None:
        if options.after is not None:
            raise UserError(
                "--after says which network --save-weights FILE or --save-network FILE "
                "keeps."
            )
        return None
    if weights is not None and network is not None:
        raise UserError(
            "--save-weights trains up to one task alone, and --save-network a whole "
            "run; leave one of them out."
        )
    if options.dry_run:
        what = "--save-network a network" if network else "--save-weights weights"
        raise UserError(
            f"--dry-run trains nothing, and {what} to keep; leave one of them out."
        )
    for word, given in (("--json", options.json), ("--analyse", options.analyse)):
        if weights is not None and given:
            raise UserError(f"--save-weights makes no record; leave out {word}.")
    what = "The file for the weights" if network is None else "The file for the network"
    path = paths.file_or_folder(weights if network is None else network, what)
    if path.is_dir() or not path.parent.is_dir():
        raise UserError(
            f"'{path}' cannot be written: give a file in a folder that exists."
        )
    if path.exists() and not zipfile.is_zipfile(path):
        raise UserError(
            f"'{path}' is there already, and holds no weights; name another file."
        )
    return path


def save_weights(config: Config, path: Path, options, progress: Progress) -> None:
    """Write the extractor after a task to a file that --weights takes."""
    from gfrlib.engine import distributed
    from gfrlib.lab import experiments, weights

    found = experiments.extractor_after(
        config, options.after, report=progress, notice=progress.notice
    )
    progress.close()
    if distributed.rank() > 0:
        return
    weights.save(path, found)
    print(
        f"{path}: a ResNet-18 of width {found.width}, stem {found.stem}, SHA-256 "
        f"{found.sha256[:8]}; {found.source}"
    )


def save_network(record, path: Path, options, progress: Progress) -> str:
    """Write the network of a run after a task; returns a line about the file."""
    from gfrlib import training
    from gfrlib.engine import distributed
    from gfrlib.lab import datasets, experiments, saved

    found = experiments.network_after(
        record.config, options.after, report=progress, notice=progress.notice
    )
    if distributed.rank() > 0:
        return ""
    last = found.about["task"] == len(record.task_sizes) - 1
    if last and training.weight_checksum(found.network) != record.weights:
        progress.notice(
            "Trained again here, the network has other weights than when the run was "
            "recorded; its answers may differ from the record's."
        )
    if found.about["read"] is None and datasets.is_own(record.config.dataset):
        progress.notice(
            "how this data set's image files were read is not known (arrays, or packed "
            "by older code); pictures are turned as their EXIF orientation says"
        )
    saved.save(path, found)
    count = values.counted(len(found.class_names), "class", "classes")
    return f"{path}: a network that tells {count} apart; {found.about['source']}"


def classify(options) -> None:
    """Print the class of each picture; one that cannot be read is named, and the
    others are answered. Raises UserError at the end where there was one.
    """
    from gfrlib.lab import saved

    pictures = [file for given in options.images for file in _files(given)]
    network = saved.load(paths.given(options.file, "The network"))
    rows, unread = [], 0
    for path, answer in _answered(network, pictures):
        if isinstance(answer, UserError):
            unread += 1
            rows.append({"path": str(path), "error": str(answer)})
            print(answer, file=sys.stderr, flush=True)
            continue
        best = [{"class": c, "probability": p} for c, p in answer.best]
        rows.append({"path": str(path), "class": answer.chosen, "best": best})
        if not options.json:
            print(f"{values.line(str(path))}: {answer}")
    if options.json:
        rule, classes = network.config.prediction, network.class_names
        about = {"rule": rule, "task": network.about["task"], "classes": classes}
        json.dump({**about, "images": rows}, sys.stdout)
        print()
    if unread:
        raise UserError(
            f"{unread} of {values.counted(len(pictures), 'picture')} could not be "
            "read, as said above; all others are answered."
        )


def _files(given: str) -> list[Path]:
    """A picture, or all in a folder. Raises UserError."""
    from gfrlib.lab import surveys

    path = paths.file_or_folder(given, "The picture")
    if not path.exists():
        raise UserError(f"'{path}' does not exist; give pictures, or folders of them.")
    if not path.is_dir():
        return [path]
    found = surveys.images(path)
    if not found:
        raise UserError(f"The folder '{path}' holds no pictures.")
    return found


def _answered(network, pictures: list[Path]) -> Iterator[tuple]:
    """Each path with its answer, or with the UserError of one that cannot be read."""

    def read(path: Path):
        try:
            return network.read(path)
        except UserError as problem:
            return problem

    for start in range(0, len(pictures), TOGETHER):
        some = pictures[start : start + TOGETHER]
        found = [read(path) for path in some]
        images = [image for image in found if not isinstance(image, UserError)]
        answers = iter(network.classify(images))
        for path, image in zip(some, found):
            yield path, image if isinstance(image, UserError) else next(answers)
