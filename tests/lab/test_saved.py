"""A network in a file: its answers are those of the run, and nothing of a bad file is
executed or half believed.
"""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_core import SMALL, TINY, environment, generated
from PIL import Image
from test_weights import Payload

from gfrlib import cli, prediction
from gfrlib.book import shapes
from gfrlib.config import UserError, make_config
from gfrlib.lab import datasets, experiments, saved, shards
from gfrlib.lab.decoding import Rules
from gfrlib.lab.runs import load_tasks
from gfrlib.networks import build_network

NAMES = ("disc", "square", "ladder", "checkers")
SHORT = dict(epochs_base=25, epochs_task=3, width=8, device="cpu", base=2, tasks=2)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A folder of its own for packed data, weights, stages and records."""
    monkeypatch.setenv("GFR_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("GFR_CACHE", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def tiny(method: str = "gfr", **changes):
    return make_config("quick", method, **{**TINY, **SMALL, **changes})


def through_a_file(config, after=None) -> saved.Saved:
    saved.save("network.pt", experiments.network_after(config, after))
    return saved.load("network.pt")


def chosen(network, images) -> list[str]:
    return [answer.chosen for answer in network.classify(images)]


def recorded(record, t: int = -1) -> list[str]:
    return [record.class_names[c] for c in record.predictions[t]]


# The run's own answers ----------------------------------------------------------------

RULES = {
    "finetune": {},
    "joint": {},
    "lwf": {},
    "ewc": dict(prediction="concat-logits"),
    "mas": dict(prediction="over-chance"),
    "lucir": {},
    "icarl-nme": {},
    "frozen": {},
    "fecam": {},
    "gfr": {},
    "gfr-gaussian": dict(prediction="nearest-mean"),
    "gfr-gaussian-full": dict(bottleneck=5),
    "block-2": dict(full_head=True),
}


@pytest.mark.parametrize("method", RULES)
def test_the_saved_network_answers_as_the_run_did(method):
    config = tiny(method, epochs_base=4, **RULES[method])
    record = experiments.run_or_load(config)
    network = through_a_file(config)
    stream = load_tasks(config)
    images = stream.test_images[stream.test_labels < 7].numpy()
    answers = network.classify(images)
    assert [answer.chosen for answer in answers] == recorded(record)
    assert len(set(recorded(record))) > 1  # no network that always says one thing
    assert network.class_names[:7] == record.class_names
    few = [[c for c, _ in answer.best] for answer in answers]
    assert all(len(set(names)) == 3 for names in few)
    gives = config.prediction in ("softmax", "max-prob")
    for answer in answers:
        shares = [p for _, p in answer.best]
        assert gives == all(isinstance(p, float) for p in shares)
        assert not gives or shares == sorted(shares, reverse=True) and shares[0] <= 1


def test_the_rules_tell_networks_apart(monkeypatch):
    """The test above can fail: by another rule the same networks answer otherwise."""
    config = tiny("icarl-nme", epochs_base=4)
    record = experiments.run_or_load(config)
    network = through_a_file(config)
    stream = load_tasks(config)
    images = stream.test_images[stream.test_labels < 7].numpy()
    softmax = prediction.PREDICTIONS["softmax"]
    monkeypatch.setitem(prediction.PREDICTIONS, config.prediction, softmax)
    assert chosen(network, images) != recorded(record)


@pytest.mark.parametrize("method", ["frozen", "lwf", "fecam"])
def test_probabilities_are_the_rules_own(method):
    config = tiny(method)
    network = through_a_file(config)
    images = load_tasks(config).test_images[:20].numpy()
    stream, net = network.stream, network.network
    with torch.no_grad():
        logits = net(stream.normalise(torch.from_numpy(images)))
    heads = [head.softmax(1) for head in logits.split([3, 2, 2], 1)]
    for row, answer in zip(torch.cat(heads, 1).tolist(), network.classify(images)):
        of = dict(zip(network.class_names, row))
        for name, p in answer.best:
            assert p == pytest.approx(of[name], abs=1e-6) if method == "lwf" else not p


def test_after_a_task_it_knows_the_classes_until_then():
    config = tiny("frozen")
    record = experiments.run_or_load(config)
    network = through_a_file(config, 1)
    assert network.class_names == record.class_names[:5]
    stream = load_tasks(config)
    images = stream.test_images[stream.test_labels < 5].numpy()
    assert chosen(network, images) == recorded(record, 1)
    later = stream.test_images[(stream.test_labels >= 5)].numpy()
    assert set(chosen(network, later)) <= set(record.class_names[:5])
    with pytest.raises(UserError, match="no task 3 in this run; they are 0 to 2"):
        experiments.network_after(config, 3)


def test_no_image_is_in_the_file():
    network = through_a_file(tiny("icarl-nme"))
    images = load_tasks(network.config).train_images
    assert not any(name.startswith("memory") for name in network.state)
    assert {v.dtype for v in network.state.values()} <= {torch.float32, torch.int64}
    content = Path("network.pt").read_bytes()
    lit = [x.numpy().tobytes() for x in images[:200] if (x > 0).sum() > 20]
    assert len(lit) > 100 and not any(x in content for x in lit)


@pytest.mark.parametrize("method", ["gfr", "gfr-gaussian-full", "block-2"])
def test_a_softmax_needs_no_memory(method):
    network = through_a_file(tiny(method))
    assert all(name.startswith("network.") for name in network.state)


def test_stages_that_are_gone_are_trained_again_which_is_said(home):
    config, told = tiny("finetune"), []
    record = experiments.run_or_load(config)
    experiments.network_after(config, notice=told.append)
    assert told == []
    shutil.rmtree(home / "data/cache/stages")
    network = experiments.network_after(config, notice=told.append)
    assert told == [
        "The network of this run is not kept in the cache: it is trained now."
    ]
    images = load_tasks(config).test_images.numpy()
    assert chosen(network, images[: len(record.predictions[-1])]) == recorded(record)


# Picture files ------------------------------------------------------------------------


def odd_pictures(folder) -> None:
    """Among drawn pictures: a turned one, large ones, grey, transparent and palette."""
    rng = np.random.default_rng(0)
    turned = Image.Exif()
    turned[0x0112] = 6
    for part in ("train", "test"):
        for name in NAMES:
            place = folder / part / name
            big = [shapes.picture(name, rng).resize((90, 70)) for _ in range(5)]
            big[0].save(place / "turned.jpg", exif=turned)
            big[1].convert("L").save(place / "grey.png")
            clear = big[2].copy()
            clear.putalpha(120)
            clear.save(place / "clear.png")
            big[3].convert("P").save(place / "palette.gif")
            big[4].resize((640, 500)).save(place / "large.jpg")


@pytest.fixture
def folder(tmp_path):
    found = shapes.draw(tmp_path / "pictures", NAMES, train=20, test=8)
    odd_pictures(found)
    return found


def by_pixels(record, stream) -> dict:
    """{bytes of a test image: the class that the run has chosen}."""
    images = [image.tobytes() for image in stream.test_images.numpy()]
    return dict(zip(images, recorded(record), strict=True))


@pytest.mark.parametrize("way", ["add", "as stored", "shards", "crops"])
def test_files_go_the_way_of_packing(way, folder):
    rules = Rules(turned=way != "as stored", side=32, exact=True)
    if way in ("shards", "crops"):
        crop = 28 if way == "crops" else 0
        shards.pack("mine", folder, size=32, crop=crop, workers=1, rules=rules)
    else:
        datasets.add("mine", folder, rules=rules, notice=lambda line: None)
    assert datasets.rules_of("mine").turned == (way != "as stored")
    config = experiments.settings("quick", "frozen", dataset="mine", **SHORT)
    record = experiments.run_or_load(config)
    network = through_a_file(config)
    expected = by_pixels(record, load_tasks(config))
    files = sorted((folder / "test").rglob("*.*"))
    assert len(files) == len(NAMES) * 13
    # every file is, bit for bit, a test image of the run, and gets its answer
    found = {file: expected[network.read(file).tobytes()] for file in files}
    assert chosen(network, files) == list(found.values())
    assert len(set(found.values())) > 2
    right = [found[file] == file.parent.name for file in files]
    assert np.mean(right) > 0.4  # the names are those of the folders


def test_how_files_were_read_is_noted_once_the_folder_is_packed_again(folder):
    """Older code has not noted it; a set that differs by it alone is written anew."""
    from gfrlib.lab import stored

    add = lambda **how: datasets.add("mine", folder, notice=print, **how)  # noqa: E731
    add()
    before = stored.meta_of(datasets.folder() / "mine")
    older = {k: v for k, v in before.items() if k not in ("read", "content", "shapes")}
    stored.write_meta(datasets.folder() / "mine", older)
    assert datasets.rules_of("mine") is None
    add()
    assert datasets.rules_of("mine") == Rules()
    assert stored.meta_of(datasets.folder() / "mine") == before


@pytest.mark.parametrize("method", ["fecam", "gfr-gaussian-full"])
def test_pretrained_weights(method, folder, tmp_path):
    small = make_config("quick", network="resnet18", width=4)
    like_torchvision = build_network(small, (3, 24, 24), 0, stem="7x7-pool")
    torch.save(like_torchvision.state_dict(), "mine.pt")
    given = dict(dataset=str(folder), weights="mine.pt", base=2, tasks=2)
    config = experiments.settings(
        "photos", method, **given, epochs_base=2, epochs_task=2, device="cpu"
    )
    record = experiments.run_or_load(config)
    network = through_a_file(config)
    shutil.rmtree(tmp_path / "home")  # the file needs no weights beside it
    (tmp_path / "mine.pt").unlink()
    expected = by_pixels(record, load_tasks_of(record, config))
    files = sorted((folder / "test").rglob("*.*"))
    assert chosen(network, files) == [
        expected[network.read(file).tobytes()] for file in files
    ]


def load_tasks_of(record, config):
    """The stream that is still in memory."""
    from gfrlib.lab import runs

    names = runs.STREAM
    settings = tuple((name, getattr(config, name)) for name in names)
    content = record.provenance["content"]
    return runs._load(settings, content, "cpu")


def test_grey_digits_in_a_png(tmp_path):
    config = tiny("finetune", epochs_base=4)
    record = experiments.run_or_load(config)
    network, stream = through_a_file(config), load_tasks(config)
    count = len(record.predictions[-1])
    pick = range(0, count, 7)
    files = []
    for k in pick:
        files.append(tmp_path / f"{k}.png")
        Image.fromarray(stream.test_images[k, ..., 0].numpy()).save(files[-1])
        assert np.array_equal(network.read(files[-1]), stream.test_images[k].numpy())
    assert chosen(network, files) == [recorded(record)[k] for k in pick]
    # a colour picture is made grey, and a larger one smaller
    Image.open(files[0]).convert("RGB").save("colour.png")
    assert np.array_equal(network.read("colour.png"), network.read(files[0]))
    Image.new("RGB", (8, 8), (200, 100, 50)).save("brown.png")
    assert set(network.read("brown.png").flat) == {124}  # 0.299, 0.587 and 0.114
    Image.open(files[0]).resize((80, 80), Image.Resampling.BOX).save("large.png")
    found = network.read("large.png").astype(int)
    assert found.shape == (8, 8, 1)
    assert np.abs(found - network.read(files[0])).mean() < 20


def test_grey_images_in_three_channels():
    small = make_config("quick", network="resnet18", width=4)
    torch.save(build_network(small, (3, 24, 24), 0).state_dict(), "mine.pt")
    changes = dict(split=(3, 2), epochs_base=1, epochs_task=1, device="cpu")
    config = experiments.settings("quick", "frozen", weights="mine.pt", **changes)
    record = experiments.run_or_load(config)
    network, stream = through_a_file(config), load_tasks(config)
    images = stream.test_images[: len(record.predictions[-1])].numpy()
    assert images.shape[-1] == 1 and chosen(network, images) == recorded(record)


def test_arrays_and_paths_and_what_they_may_not_be(tmp_path):
    network = through_a_file(tiny("finetune"))
    image = load_tasks(network.config).test_images[0].numpy()
    Image.fromarray(image[..., 0]).save("a.png")
    one = network.classify(image)
    assert len(one) == 1 and network.classify([]) == []
    for same in ([image], image[None], "a.png", tmp_path / "a.png", ["a.png"]):
        assert network.classify(same) == one
    for other in (image.astype(float), image[:4], image[..., 0], np.zeros((2, 9))):
        with pytest.raises(UserError, match=r"is an array of uint8 \[8, 8, 1\]"):
            network.classify([other])
    with pytest.raises(UserError, match="is no readable image"):
        network.classify("nothing.png")


def test_a_picture_is_no_square():
    packed = generated(4, per_class=6, size=8)
    arrays = {
        f"{part}_{what}": getattr(packed, f"{part}_{what}")
        for part in ("train", "test")
        for what in ("images", "labels")
    }
    for part in ("train", "test"):
        arrays[f"{part}_images"] = arrays[f"{part}_images"][:, :6]
    np.savez("wide.npz", **arrays)
    config = experiments.settings("quick", "finetune", dataset="wide.npz", **SHORT)
    network = through_a_file(config)
    assert len(network.classify(arrays["test_images"])) == len(arrays["test_labels"])
    Image.new("RGB", (8, 6)).save("a.png")
    with pytest.raises(UserError, match="reads images of 6 x 8 pixels"):
        network.classify("a.png")


# Files that are none ------------------------------------------------------------------


def changed(path, change) -> None:
    """The file with what it holds changed, and saved again."""
    kept = torch.load(path, weights_only=True)
    torch.save(change(kept) or kept, path)


def change_about(kept, **words) -> None:
    about = {**json.loads(kept["about"]), **words}
    kept["about"] = json.dumps(about)
    kept["sha256"] = saved._checksum(kept["about"], kept["state"])


def another_bias(kept) -> None:
    kept["state"]["network.head.blocks.0.bias"][0] += 1e-3


BAD = {
    "one value": (another_bias, "differs from its checksum"),
    "one word": (
        lambda kept: kept.update(about=kept["about"].replace('"crop": 0', '"crop": 4')),
        "differs from its checksum",
    ),
    "no checksum": (lambda kept: kept.pop("sha256") and None, "do not fit together"),
    "another format": (
        lambda kept: kept.update(format="gfrlib network 2"),
        "its format is 'gfrlib network 2', not",
    ),
    "an extractor": (lambda kept: kept["state"], "holds weights alone"),
    "a list": (lambda kept: [1, 2], "its format is 'None'"),
    "a width": (
        lambda kept: change_about(
            kept, config={**json.loads(kept["about"])["config"], "width": 4000}
        ),
        "its tensors are not those of its settings",
    ),
    "settings of other code": (
        lambda kept: change_about(
            kept, config={**json.loads(kept["about"])["config"], "newer": 1}
        ),
        "do not fit together",
    ),
    "a class without a name": (
        lambda kept: change_about(kept, classes=["a"]),
        "do not fit together",
    ),
    "no means": (
        lambda kept: change_about(
            kept,
            config={**json.loads(kept["about"])["config"], "prediction": "nearest-mean",
                    "memory": "means"},
        ),
        "do not fit together",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a_file_that_was_changed_is_refused(what, capsys):
    change, said = BAD[what]
    through_a_file(tiny("finetune"))
    Image.new("L", (8, 8)).save("a.png")
    changed("network.pt", change)
    assert cli.main(["classify", "network.pt", "a.png"]) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1
    assert said in told.err and "run --save-network FILE writes one" in told.err


def test_every_cut_of_a_file_is_refused(tmp_path):
    through_a_file(tiny("finetune"))
    content = (tmp_path / "network.pt").read_bytes()
    for length in [*range(0, len(content), len(content) // 30), len(content) - 1]:
        (tmp_path / "cut.pt").write_bytes(content[:length])
        with pytest.raises(UserError, match="holds no network that classifies"):
            saved.load("cut.pt")
    for place in range(100, len(content), len(content) // 30):
        flipped = bytearray(content)
        flipped[place] ^= 16
        (tmp_path / "flipped.pt").write_bytes(flipped)
        try:
            found = saved.load("flipped.pt")
        except UserError:
            continue
        # padding and names of the archive mean nothing
        assert saved._checksum("", found.state) == saved._checksum(
            "", saved.load("network.pt").state
        )


@pytest.mark.parametrize("kind", ["archive", "bare"])
def test_nothing_in_a_file_is_executed(kind, tmp_path, capsys):
    bad = {"format": saved.FORMAT, "state": Payload(tmp_path / "executed")}
    if kind == "bare":
        (tmp_path / "bad.pt").write_bytes(pickle.dumps(bad))
    else:
        torch.save(bad, "bad.pt")
    Image.new("L", (8, 8)).save("a.png")
    assert cli.main(["classify", "bad.pt", "a.png"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "holds no network that classifies" in told
    assert not (tmp_path / "executed").exists()
    pickle.loads(pickle.dumps(bad))  # it would do something
    assert (tmp_path / "executed").is_dir()


def test_an_extractor_names_the_option_that_keeps_all(capsys):
    words = ["run", "--network", "resnet18", "--width", "4", "--epochs_base", "1"]
    words += ["--device", "cpu", "--save-weights", "f.pt"]
    assert cli.main(words) == 0
    Image.new("L", (8, 8)).save("a.png")
    assert cli.main(["classify", "f.pt", "a.png"]) == 2
    told = capsys.readouterr().err
    assert "holds weights alone" in told and "--save-network" in told


# The command line ---------------------------------------------------------------------

RUN = ["run", "--method", "finetune", "--epochs_base", "4", "--epochs_task", "1"]
RUN += ["--width", "8", "--device", "cpu", "--save-network", "net.pt"]


@pytest.fixture
def digits(tmp_path):
    """A folder with a picture of each of five digits, one hidden, one in a folder."""
    place = tmp_path / "digits"
    (place / "more").mkdir(parents=True)
    (place / ".hidden").mkdir()
    images = datasets.packed("digits").test_images
    for k in range(4):
        Image.fromarray(images[100 * k, ..., 0]).save(place / f"{k}.png")
    for other in (".no.png", ".hidden/5.png", "more/4.png"):
        Image.fromarray(images[400, ..., 0]).save(place / other)
    return place


def test_the_commands_lead_from_a_run_to_an_answer(digits, capsys):
    assert cli.main(RUN) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-1].startswith("net.pt: a network that tells 10 classes apart; finetune")
    assert out[0].endswith(": computed now")
    assert cli.main([*RUN, "--json"]) == 0  # of the record that is there
    assert json.loads(capsys.readouterr().out)["status"] == "loaded"
    assert saved.load("net.pt").about["task"] == 3
    assert cli.main(["classify", "net.pt", str(digits)]) == 0
    told = capsys.readouterr()
    lines = told.out.splitlines()
    names = [line.partition(":")[0] for line in lines]
    wanted = ["0.png", "1.png", "2.png", "3.png", "more/4.png"]
    assert names == [str(digits / name) for name in wanted] and told.err == ""
    network = saved.load("net.pt")
    for name, line in zip(names, lines):
        best = [f"{c} ({100 * p:.1f} %)" for c, p in network.classify(name)[0].best]
        assert line == f"{name}: {best[0]}, then {best[1]}, {best[2]}"


def test_an_order_has_no_percent(digits, capsys):
    words = [*RUN, "--after", "1"]
    words[2] = "frozen"
    assert cli.main(words) == 0
    assert "6 classes apart" in capsys.readouterr().out
    assert cli.main(["classify", "net.pt", str(digits / "0.png")]) == 0
    out = capsys.readouterr().out
    assert "%" not in out and ", then " in out and out.count("\n") == 1
    assert cli.main(["classify", "--json", "net.pt", str(digits / "0.png")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rule"] == "nearest-mean" and found["task"] == 1
    assert len(found["classes"]) == 6
    (row,) = found["images"]
    assert row["class"] == row["best"][0]["class"] and len(row["best"]) == 3
    assert all(best["probability"] is None for best in row["best"])


def test_a_picture_that_cannot_be_read_is_named_and_the_others_are_answered(
    digits, capsys
):
    cli.main(RUN)
    (digits / "1.png").write_text("no picture")
    capsys.readouterr()
    assert cli.main(["classify", "net.pt", str(digits), "--json"]) == 2
    told = capsys.readouterr()
    rows = json.loads(told.out)["images"]
    assert ["error" in row for row in rows] == [False, True, False, False, False]
    first, last = told.err.splitlines()
    assert first == rows[1]["error"] and "1.png' is no readable image (unknown" in first
    assert last.startswith("gfrlib: 1 of 5 pictures could not be read")


def test_many_pictures_are_read_a_hundred_at_a_time(digits, capsys, monkeypatch):
    from gfrlib.cli import trained

    cli.main(RUN)
    capsys.readouterr()
    cli.main(["classify", "net.pt", str(digits)])
    once = capsys.readouterr().out
    monkeypatch.setattr(trained, "TOGETHER", 2)
    cli.main(["classify", "net.pt", str(digits)])
    assert capsys.readouterr().out == once and once.count("\n") == 5


@pytest.mark.parametrize(
    "words, said",
    [
        (["classify", "no.pt", "a.png"], "'no.pt' cannot be read (No such file"),
        (["classify", "a.png", "a.png"], "holds no network that classifies"),
        (["classify", ".", "a.png"], "cannot be read (Is a directory)"),
        (["classify", "a.png"], "required: image"),
        (["classify", "a.png", "b.png"], "'b.png' does not exist; give pictures"),
        (["classify", "a.png", "empty"], "The folder 'empty' holds no pictures"),
        (["classify", "pipe", "a.png"], "is a device or a pipe"),
        (["run", "--save-network", "no/f.pt"], "a file in a folder that exists"),
        (["run", "--save-network", "a.png"], "is there already, and holds no weights"),
        (["run", "--save-network", "f.pt", "--dry-run"], "leave one of them out"),
        (
            ["run", "--save-network", "f.pt", "--save-weights", "g.pt"],
            "leave one of them out",
        ),
        (["run", "--after", "1"], "--save-network FILE"),
    ],
)
def test_bad_words_get_one_sentence(words, said, tmp_path, capsys):
    Image.new("L", (8, 8)).save("a.png")
    (tmp_path / "empty").mkdir()
    os.mkfifo("pipe")
    before = sorted(os.listdir("."))
    assert cli.main(words) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1 and said in told.err
    assert sorted(os.listdir(".")) == before


def test_a_task_that_is_not_there_is_refused_before_training(home, capsys):
    assert cli.main([*RUN, "--after", "9"]) == 2
    told = capsys.readouterr()
    assert "no task 9 in this run; they are 0 to 3" in told.err and told.out == ""
    assert not os.path.exists("net.pt") and not list(home.rglob("records/*.json"))


def test_another_process_gives_the_same_answers(tmp_path, digits, capsys):
    cli.main(RUN)
    capsys.readouterr()
    cli.main(["classify", "net.pt", str(digits)])
    ours = capsys.readouterr().out
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy("net.pt", elsewhere)
    theirs = subprocess.run(
        [sys.executable, "-m", "gfrlib", "classify", "net.pt", str(digits)],
        cwd=elsewhere,
        env=environment(elsewhere),
        capture_output=True,
        text=True,
        check=True,
    )
    assert theirs.stdout == ours
    assert not any(elsewhere.rglob("data"))
