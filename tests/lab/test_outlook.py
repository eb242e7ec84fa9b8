"""How long runs take, told before: what is counted is what a run does."""

import numpy as np
import pytest
import torch
from helpers_core import SMALL, load_tasks, tiny, train

from gfrlib import cli, networks, training
from gfrlib.engine.machine import Machine
from gfrlib.lab import analysis, datasets, experiments, outlook, weights
from gfrlib.pretrained import of_network

IMAGES = 1261  # of the seven classes of SMALL


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("GFR_HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.fixture
def pretrained(home):
    """A file of weights of a small ResNet-18 for grey images."""
    shape = tiny(network="resnet18", width=4)
    network = networks.build_network(shape, (1, 8, 8), 3)
    moments = torch.tensor([0.5]), torch.tensor([0.25])
    path = home / "some.pt"
    weights.save(path, of_network(network, *moments, "a test"))
    return path


def images_read(config, monkeypatch) -> int:
    """Images that the first stage reads without gradients in a run that is observed."""
    read = []
    build = training.build

    def watched(*args):
        network, *others = build(*args)
        own = network.stages[0]

        def note(module, inputs, out):
            if module is own and not torch.is_grad_enabled():  # no copy of it
                read.append(len(inputs[0]))

        own.register_forward_hook(note)
        return network, *others

    stream = load_tasks(config)
    with monkeypatch.context() as patch:
        patch.setattr(training, "build", watched)
        observer = analysis.Observer(config, stream, {"drift"}, Machine.of(config))
        train(config, observe=observer)
    return sum(read)


@pytest.mark.parametrize(
    "method, more",
    [
        ("finetune", {}),
        ("gfr-gaussian", {}),
        ("gfr", {}),
        ("gfr-flow", {}),
        ("gfr-mixture", {}),
        ("frozen", {}),
        ("fecam", {}),
        ("fetril", {}),
        ("joint", {}),
        ("gfr-gaussian-drift", {}),
        ("gfr-gaussian", {"penalty": "frozen"}),
        ("icarl-cnn", {}),
        ("lucir", {}),
    ],
)
def test_the_images_counted_are_those_that_are_read(method, more, monkeypatch):
    config = tiny(method, **SMALL, **more)
    counted = outlook.images_looked_at(config, load_tasks(config))
    read = images_read(config, monkeypatch)
    copied = config.drift != "none" or config.head == "cosine"
    rel = 0.25 if copied else 0.1  # a copy of it reads, unwatched
    assert counted == pytest.approx(read, rel=rel)


def test_of_task_0_more_images_are_analysed():
    assert [analysis.looked_at(k) for k in range(3)] == [40, 20, 20]


@pytest.mark.parametrize("method", ["frozen", "fecam", "gfr-gaussian"])
def test_a_pretrained_extractor_that_is_frozen_reads_each_image_once(
    method, pretrained, monkeypatch
):
    given = {**SMALL, "weights": str(pretrained), "penalty": "frozen"}
    config = experiments.settings("quick", method, epochs_task=1, device="cpu", **given)
    stream = load_tasks(config)
    assert outlook.images_looked_at(config, stream) == IMAGES
    stream.known.clear()
    assert images_read(config, monkeypatch) == IMAGES


def test_seconds_are_steps_and_images_and_nothing_is_counted_twice(pretrained):
    def asked(*methods, **more):
        configs = [
            experiments.settings("quick", m, **{**SMALL, "device": "cpu", **more})
            for m in methods
        ]
        one, two = dict(speed=lambda *a: 1.0), dict(look=lambda *a: 0.0)
        steps = outlook.seconds(configs, **one, **two)
        both = outlook.seconds(configs, **one, look=lambda *a: 10.0)
        return steps, (both - steps) / 10

    steps, images = asked("finetune")
    more_steps, more_images = asked("finetune", "gfr-gaussian")
    assert more_steps < 2 * steps, "task 0 is shared"
    assert more_images > 2 * images, "Gaussians are fitted to features"
    frozen = dict(weights=str(pretrained), penalty="frozen")
    assert (
        asked("frozen", **frozen)[1] == asked("frozen", "fecam", **frozen)[1] == IMAGES
    )


def test_measuring_changes_no_run():
    config = tiny("gfr-gaussian", **SMALL)
    before = train(config).weights
    assert outlook.seconds([config]) > 0
    assert train(config).weights == before


def test_an_image_is_timed_in_a_shape_that_was_seen_before(monkeypatch):
    """cuDNN tries its kernels for each new shape, and that is no time of a run."""
    config, sizes = tiny("gfr"), []
    normalise = type(load_tasks(config)).normalise
    monkeypatch.setattr(
        type(load_tasks(config)),
        "normalise",
        lambda self, images: (sizes.append(len(images)), normalise(self, images))[1],
    )
    assert outlook.seconds_per_image(config, load_tasks(config)) > 0
    assert len(sizes) == 2 and sizes[0] == sizes[1]


def test_the_command_tells_it_and_trains_nothing(capsys, home):
    words = ["run", "--method", "gfr-gaussian", "--epochs-base", "1", "--dry-run"]
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert said.startswith("The run takes about ")
    assert said.endswith(" seconds here, at the speed measured just now.\n")
    assert not list(home.rglob("done.pt")) and not list(home.rglob("*.json"))
    assert cli.main(words[:-1]) == 0
    capsys.readouterr()
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert said == "The run is recorded already: there is nothing to train.\n"


def test_a_long_run_of_the_readers_own_images_says_so_before(capsys, home, monkeypatch):
    digits = datasets.packed("digits")
    arrays = {name: getattr(digits, name) for name in datasets.ARRAYS}

    np.savez(home / "mine.npz", **arrays)
    assert cli.main(["data", "mine", str(home / "mine.npz")]) == 0
    monkeypatch.setattr(outlook, "seconds", lambda configs, **_: 200.0)
    short = ["--method", "finetune", "--epochs-base", "1", "--epochs-task", "1"]
    for dataset in ("mine", "digits"):
        capsys.readouterr()
        assert cli.main(["run", "--dataset", dataset, *short]) == 0
        said = capsys.readouterr().err
        expected = "The run takes about 3 minutes here, at the speed measured just now."
        assert (expected in said) == (dataset == "mine")


@pytest.mark.parametrize(
    "seconds, said",
    [(0.2, "1 second"), (89, "89 seconds"), (200, "3 minutes"), (9000, "2 hours")],
)
def test_durations_in_words(seconds, said):
    assert outlook.in_words(seconds) == f"about {said}"
