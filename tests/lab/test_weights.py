"""Files of weights: brought in whole or not at all, and nothing in them is executed."""

import os
import pickle
import urllib.request
import zipfile

import numpy as np
import pytest
import torch
import torchvision
from helpers_core import SMALL, TINY, generated, same_predictions, train
from memory_store import MemoryStore, until_done
from PIL import Image

from gfrlib import cli, pretrained, training
from gfrlib.config import UserError, make_config
from gfrlib.engine import store
from gfrlib.lab import experiments, grids, records, weights
from gfrlib.lab.runs import load_tasks
from gfrlib.networks import build_network

SHORT = dict(epochs_base=2, epochs_task=1, device="cpu")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A folder of its own for packed data, weights, stages and records."""
    monkeypatch.setenv("GFR_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("GFR_CACHE", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A folder of images: four classes of coloured stripes, 24 x 24."""
    folder = tmp_path_factory.mktemp("photographs")
    packed = generated(4, per_class=12, size=24)
    for part in ("train", "test"):
        images, labels = (getattr(packed, f"{part}_{x}") for x in ("images", "labels"))
        for number, (image, label) in enumerate(zip(images, labels)):
            place = folder / part / f"class {label}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place / f"{number}.png")
    return folder


def network(seed: int = 0, width: int = 4) -> torch.nn.Module:
    config = make_config("quick", network="resnet18", width=width)
    return build_network(config, (3, 24, 24), seed)


@pytest.fixture
def file(tmp_path):
    """A bare state dict of ours, of width 4 with a 3x3 stem."""
    torch.save(network().state_dict(), tmp_path / "mine.pt")
    return tmp_path / "mine.pt"


def kept(home) -> list[str]:
    """What lies in the store of weights, unfinished files included."""
    return sorted(os.listdir(home / "data" / "weights")) if home.exists() else []


# What comes in ------------------------------------------------------------------------


def test_a_file_is_kept_by_its_content(file, home):
    config = experiments.settings("quick", "frozen", weights=str(file))
    (there,) = kept(home)
    assert there == f"{config.weights}.pt" and config.weights.startswith("mine-")
    assert (config.network, config.width, config.bottleneck) == ("resnet18", 4, 0)
    file.rename(file.with_name("other name!.pt"))
    again = experiments.settings("quick", "frozen", weights="other name!.pt")
    assert again.weights.startswith("other-name-") and again.digest() == config.digest()
    torch.save(network(seed=1).state_dict(), file)
    other = experiments.settings("quick", "frozen", weights=str(file))
    assert other.digest() != config.digest()


def test_a_known_name_needs_no_file(file, home):
    name = weights.resolve("mine.pt")
    file.unlink()
    assert weights.resolve(name) == name
    assert weights.load(name).name == name
    assert weights.resolve(str(home / "data" / "weights" / f"{name}.pt")) == name


def test_the_presets_network_gives_way(file):
    """`quick` has a small CNN, `example` a bottleneck: both follow from the weights."""
    for preset in ("quick", "example", "slim"):
        config = experiments.settings(preset, "gfr", weights=str(file))
        assert (config.network, config.width) == ("resnet18", 4)
        assert config.bottleneck == 0


@pytest.mark.parametrize(
    "given", [dict(width=8), dict(network="cnn"), dict(bottleneck=16)], ids=str
)
def test_a_setting_that_says_another_thing_is_refused(file, given):
    with pytest.raises(UserError, match=rf"'{next(iter(given))}' follows from"):
        experiments.settings("quick", "gfr", weights=str(file), **given)


def test_a_grid_takes_a_file(file, tmp_path):
    (tmp_path / "grid.yaml").write_text(
        "preset: quick\nruns:\n  - methods: [frozen, fecam]\n"
        "    settings: {weights: mine.pt}\n    seeds: [0, 1]\n"
    )
    configs = grids.read(tmp_path / "grid.yaml")
    assert len(configs) == 4 and len({config.weights for config in configs}) == 1


# What does not ------------------------------------------------------------------------


class Payload:
    """Unpickled by Python, it makes a folder."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


def write_bad(what: str, path) -> None:
    """A file that holds no weights."""
    state = network().state_dict()
    if what == "cut":
        torch.save(state, path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif what == "cut by a byte":
        torch.save(state, path)
        path.write_bytes(path.read_bytes()[:-1])
    elif what == "code":
        torch.save({**state, "more": Payload(path.with_name("executed"))}, path)
    elif what == "code, no archive":
        path.write_bytes(pickle.dumps(Payload(path.with_name("executed"))))
    elif what == "code in an old file":
        bad = {"state": Payload(path.with_name("executed"))}
        torch.save(bad, path, _use_new_zipfile_serialization=False)
    elif what == "a whole network":
        torch.save(network(), path)
    elif what == "resnet50":
        torch.save(torchvision.models.resnet50(weights=None).state_dict(), path)
    elif what == "NaN":
        state["stages.1.0.norm1.bias"][2] = torch.nan
        torch.save(state, path)
    elif what == "text":
        path.write_text("these are no weights\n")
    elif what == "empty":
        path.touch()
    elif what == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", b"cbuiltins\neval\n(S'1'\ntR.")
    elif what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "digits":
        np.savez(path.with_suffix(".npz"), weight=np.ones(3))
        path.with_suffix(".npz").rename(path)


BAD = {
    "cut": "it is cut short, damaged, or no file of PyTorch's",
    "cut by a byte": "it is cut short, damaged, or no file of PyTorch's",
    "code": "could run code, and is not opened (of a network save its state_dict())",
    "code, no archive": "it is cut short, damaged, or no file of PyTorch's",
    "code in an old file": "it holds Python objects, which could run code, and is not",
    "a whole network": "it holds Python objects, which could run code, and is not",
    "resnet50": "a ResNet-18 has no 'layer1.0.conv3.weight': it is another",
    "NaN": "'stages.1.0.norm1.bias' has values that are NaN or infinite",
    "text": "cut short, damaged, or no file of PyTorch's",
    "empty": "cut short, damaged, or no file of PyTorch's",
    "zip": "it ",
    "folder": "is a folder, and no file of weights",
    "pipe": "is a device or a pipe, and no file",
    "digits": "cut short, damaged, or no file of PyTorch's",
    "missing": "There are no weights 'bad.pt'; give a state dict",
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_file_gets_one_sentence(what, tmp_path, home, capsys):
    write_bad(what, tmp_path / "bad.pt")
    assert cli.main(["run", "--weights", "bad.pt"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("gfrlib: ")
    assert said.err.count("\n") == 1 and BAD[what] in said.err
    assert not (tmp_path / "executed").exists(), "the payload was executed"
    assert not (home / "data" / "weights").exists(), "something is kept of it"


def test_the_payload_would_do_something(tmp_path):
    """The test above can fail."""
    write_bad("code, no archive", tmp_path / "bad.pt")
    pickle.loads((tmp_path / "bad.pt").read_bytes())
    assert (tmp_path / "executed").is_dir()


def test_every_cut_of_a_file_is_refused(tmp_path, home):
    torch.save(network().state_dict(), tmp_path / "whole.pt")
    content = (tmp_path / "whole.pt").read_bytes()
    for length in range(0, len(content), len(content) // 40):
        (tmp_path / "cut.pt").write_bytes(content[:length])
        with pytest.raises(UserError, match="holds no weights for an extractor"):
            weights.resolve("cut.pt")
    assert not (home / "data" / "weights").exists()


def test_a_full_disk_leaves_nothing(file, home, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.os, "fsync", refuse)
    with pytest.raises(UserError, match="No space left.* or set GFR_HOME"):
        weights.resolve("mine.pt")
    assert kept(home) == []
    found = pretrained.of_network(network(), torch.zeros(3), torch.ones(3), "a test")
    with pytest.raises(UserError, match="No space left.*give a file where you may"):
        weights.save(home / "elsewhere.pt", found)
    assert not (home / "elsewhere.pt").exists()


def test_damage_in_the_store_is_noticed_and_mended(file, home):
    name = weights.resolve("mine.pt")
    path = home / "data" / "weights" / f"{name}.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # one bit of some weight
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"differs from its checksum.*bring its file"):
        weights.load(name)
    assert weights.resolve("mine.pt") == name
    assert weights.load(name).sha256.startswith(name.rpartition("-")[2])
    torch.save(network(seed=1).state_dict(), path)
    with pytest.raises(UserError, match="other weights than its name tells"):
        weights.load(name)


def test_a_name_that_is_not_here_is_told():
    config = make_config("quick", weights="elsewhere-01234567", network="resnet18")
    with pytest.raises(UserError, match="no weights 'elsewhere-01234567' here; bring"):
        load_tasks(config)


# torchvision's ------------------------------------------------------------------------


def test_without_a_network_one_sentence_says_what_to_do(home, monkeypatch, capsys):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr(urllib.request, "_opener", None)
    monkeypatch.setenv("TORCH_HOME", str(home / "torch"))
    assert cli.main(["run", "--weights", "imagenet"]) == 2
    told = capsys.readouterr()
    *_, said = told.err.splitlines()
    assert told.out == "" and "could not be downloaded (URLError)" in said
    assert "https://download.pytorch.org/models/resnet18" in said
    assert "give it as --weights FILE" in said
    assert not (home / "data" / "weights").exists()


def test_imagenet_is_downloaded_once(home, monkeypatch):
    net = torchvision.models.resnet18(weights=None)
    monkeypatch.setattr(weights, "download_imagenet", net.state_dict)
    config = experiments.settings("quick", "frozen", weights="imagenet")
    monkeypatch.setattr(weights, "download_imagenet", lambda: pytest.fail("again"))
    again = experiments.settings("quick", "frozen", weights="imagenet")
    assert config == again and config.width == 64
    found = weights.load(config.weights)
    assert found.source == "torchvision, ResNet18_Weights.IMAGENET1K_V1"
    assert found.stem == "7x7-pool"


def test_a_file_named_imagenet_is_not_torchvisions(tmp_path, monkeypatch):
    torch.save(network().state_dict(), tmp_path / "imagenet.pt")
    mine = weights.resolve("imagenet.pt")
    net = torchvision.models.resnet18(weights=None)
    monkeypatch.setattr(weights, "download_imagenet", net.state_dict)
    assert weights.resolve("imagenet") != mine


# Runs ---------------------------------------------------------------------------------


def test_the_whole_way_over_a_folder_of_images(photographs, file, home, capsys):
    """Pretrain on two classes, keep the extractor, continue on all: two rows."""
    here = ["--dataset", str(photographs), "--device", "cpu"]
    here += ["--epochs_base", "2", "--epochs_task", "1"]
    first = ["run", *here, "--split", "2", "--network", "resnet18", "--width", "4"]
    assert cli.main([*first, "--save-weights", "f.pt"]) == 0
    assert "a ResNet-18 of width 4, stem 3x3" in capsys.readouterr().out
    found = {}
    for method in ("frozen", "gfr-gaussian"):
        words = [
            "run",
            *here,
            "--split",
            "2,2",
            "--method",
            method,
            "--weights",
            "f.pt",
        ]
        for status in ("computed now", "loaded"):
            assert cli.main(words) == 0
            assert f": {status}" in capsys.readouterr().out
        config = experiments.settings(
            "quick", method, dataset=str(photographs), split=(2, 2), weights="f.pt",
            **SHORT,
        )  # fmt: skip
        found[method] = records.find(config, (2, 2))
    for record in found.values():
        about = record.provenance["pretrained"]
        assert about["name"] == record.config.weights and len(about["sha256"]) == 64
        assert about["sha256"].startswith(content_of(record))
        assert about["source"].startswith("gfr on photographs")
    assert found["frozen"].weights != found["gfr-gaussian"].weights
    assert found["frozen"].curve[0] > 0.5


def content_of(record) -> str:
    return record.config.weights.rpartition("-")[2]


def run_of(method: str, name: str, **changes):
    """A short run on the digits: grey images in an extractor of three channels."""
    settings = {**TINY, **SMALL, "weights": name, **changes}
    settings.pop("width")
    return experiments.settings("quick", method, **settings)


@pytest.mark.parametrize(
    "method, penalty",
    [("frozen", "frozen"), ("gfr-gaussian", "frozen"), ("gfr-gaussian", "features")],
)
def test_the_same_numbers_again_and_resumed(method, penalty, file):
    config = run_of(method, "mine.pt", penalty=penalty)
    first, again = train(config), train(config)
    assert first.weights == again.weights and first.losses == again.losses
    kept = MemoryStore(kills=lambda step: step % 5 == 1)
    resumed, kills = until_done(config, kept)
    assert kills >= 2 and kept.resumed
    assert resumed.weights == first.weights and resumed.losses == first.losses
    assert same_predictions(resumed.predictions, first.predictions)
    other = train(run_of(method, "mine.pt", penalty=penalty, seed=1))
    assert other.losses != first.losses


def test_frozen_rows_share_the_first_stage_and_others_another(file):
    kept = MemoryStore()
    for method in ("frozen", "fecam", "fetril"):
        train(run_of(method, "mine.pt"), kept)
    assert kept.trained.count((0, "classifier")) == 1
    train(run_of("gfr-gaussian", "mine.pt"), kept)
    train(run_of("lwf", "mine.pt"), kept)
    assert kept.trained.count((0, "classifier")) == 2
    torch.save(network(seed=1).state_dict(), "other.pt")
    train(run_of("frozen", "other.pt"), kept)
    assert kept.trained.count((0, "classifier")) == 3


def test_rows_of_one_process_compute_the_features_once(file):
    streams = [load_tasks(run_of(method, "mine.pt")) for method in ("frozen", "fecam")]
    assert streams[0] is streams[1]
    plain = load_tasks(run_of("frozen", ""))
    assert plain is not streams[0] and plain.pretrained is None
    assert plain.train_images is streams[0].train_images, "the images lie there once"


def test_grey_images_are_replayed_in_three_channels(file):
    config = run_of("mergan", "mine.pt", split=(2, 1), generator_parameters=20_000)
    record = experiments.run_or_load(config, analyse="samples")
    sheet = Image.open(record.path.with_suffix(".analysis.png"))
    assert sheet.mode == "RGB" and record.analysis["samples"]["kinds"][0] == "real"


# Keeping an extractor -----------------------------------------------------------------


def small(method: str = "gfr", **changes):
    settings = {**TINY, **SMALL, "network": "resnet18", "width": 4, **changes}
    return make_config("quick", method, **settings)


def test_what_is_kept_is_the_networks_own(home):
    networks = {}
    config = small("gfr-gaussian")
    training.run(
        config,
        load_tasks(config),
        observe=lambda t, net, memory: networks.update(
            {t: {name: value.clone() for name, value in net.state_dict().items()}}
        ),
    )
    for after in (0, 1):
        found = experiments.extractor_after(config, after)
        for name, value in found.state.items():
            assert torch.equal(value, networks[after][name]), name
        stream = load_tasks(config)
        assert found.mean == tuple(stream.mean.tolist()), "grey: one channel"
        assert f"after task {after}, seed 0" in found.source


def test_an_extractor_without_its_last_relu_is_refused(home):
    """Loaded into a run with another head, a ReLU would cut what it has learned."""
    with pytest.raises(UserError, match="ends without a ReLU, for its cosine head"):
        experiments.extractor_after(small("lucir"))


def test_the_first_tasks_extractor_is_the_runs_own_stage(home, monkeypatch):
    """No generator is trained for it, and a later run finds its stage."""
    config = small("gfr")
    before = experiments.extractor_after(config)
    phases = []
    record = experiments.run_or_load(
        config, report=lambda t, name, *_: phases.append((t, name))
    )
    assert (0, "generator") in phases and (0, "classifier") not in phases
    assert record.weights
    again = experiments.extractor_after(config)
    assert again.sha256 == before.sha256


@pytest.mark.parametrize(
    "words, said",
    [
        (["--save-weights", "f.pt"], "this run trains the small CNN"),
        (["--save-weights", "no/f.pt"], "a file in a folder that exists"),
        (["--save-weights", "."], "a file in a folder that exists"),
        (
            ["--save-weights", "f.pt", "--after", "9"],
            "no task 9 in this run; they are 0",
        ),
        (["--save-weights", "f.pt", "--after", "-1"], "--after"),
        (["--save-weights", "f.pt", "--json"], "leave out --json"),
        (["--after", "1"], "--after says which network --save-weights"),
    ],
)
def test_what_cannot_be_kept(words, said, tmp_path, capsys):
    assert cli.main(["run", *words]) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1
    assert not (tmp_path / "f.pt").exists()
