"""Films of drift: what the player draws is what the network does."""

import base64
import dataclasses
import json
import re

import numpy as np
import pytest
import torch
from conftest import ROOT

from gfrlib import training
from gfrlib.book import drift_film, drift_player, figures
from gfrlib.book.drift_film import Film, Look
from gfrlib.engine import machine
from gfrlib.lab import experiments

SHORT = dict(epochs_base=8, epochs_task=15, width=4)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """All films with a short schedule, made in a cache of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GFR_CACHE", str(tmp_path_factory.mktemp("cache")))
        steps = dict(generator_steps_base=6, generator_steps_later=6)
        made = drift_film.settings

        def short(*switches, **changes):
            more = steps if switches[1] == "gan" else {}
            return made(*switches, **{**SHORT, **more, **changes})

        patch.setattr(drift_film, "settings", short)
        found = drift_film.films()
        patch.setattr(drift_film, "_films", None)  # the second time they are loaded
        again = drift_film.films()
    for name, looks in found.items():
        for one, other in zip(looks, again[name], strict=True):
            assert torch.equal(one.points, other.points)
            assert one.accuracy == other.accuracy
    return found


def run(*switches, **changes) -> Film:
    config = drift_film.settings(*switches, **{**SHORT, **changes})
    return Film(config, experiments.load_tasks(config), None)


def test_films_are_made_on_the_cpu_beside_a_gpu(monkeypatch):
    """The player reads their tensors on the host: chapter 2 in Colab."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for switches in drift_film.FILMS.values():
        config = drift_film.settings(*switches)
        assert machine.resolve_device(config).type == "cpu"


def end_of_task_0(looks):
    return [look for look in looks if look.task == 0][-1]


def test_the_film_is_the_run_that_algorithm_1_makes(monkeypatch):
    """Looking on changes nothing: the same two-feature network, trained in one go."""
    film = run(True, "gaussian", False)
    config = drift_film.settings(True, "gaussian", False, **SHORT)
    stream = experiments.load_tasks(config)
    parts = drift_film.two_features(config, stream)
    monkeypatch.setattr(training, "build", lambda *_: (*parts, None))
    training.run(config, stream)
    for mine, other in zip(
        film.network.state_dict().values(), parts[0].state_dict().values(), strict=True
    ):
        assert torch.equal(mine, other)


def test_films_are_trained_with_the_presets_threads(monkeypatch):
    """A notebook has as many as there are processors, which wait for each other."""
    seen, look = set(), Film._look

    def counting(self, *where):
        seen.add(torch.get_num_threads())
        look(self, *where)

    monkeypatch.setattr(Film, "_look", counting)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    run(False, "none", False, epochs_base=1, epochs_task=1)
    assert seen == {1} and torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_points_and_head_give_the_accuracy_beside_them(monkeypatch):
    monkeypatch.setattr(drift_film, "POINTS", 10**6)  # all test images
    for look in run(True, "gaussian", False).looks:
        u = np.column_stack([look.points.numpy(), np.ones(len(look.points))])
        answers = (u @ look.head.numpy().T).argmax(1)
        right = answers == look.labels.numpy()
        classes = range(len(look.accuracy))
        by_hand = [100 * right[look.labels.numpy() == c].mean() for c in classes]
        assert look.accuracy == pytest.approx(by_hand, abs=1e-3)


def test_every_film_begins_alike_and_ends_with_all_classes(films):
    assert list(films) == list(drift_film.FILMS)
    beginning = [look for look in films["free none"] if look.task == 0]
    for looks in films.values():
        # of a short schedule, the first moments fall together
        assert len(looks) == len(films["free none"]) <= sum(drift_film.LOOKS)
        for one, other in zip(looks, beginning):
            assert torch.equal(one.points, other.points)
        steps = [(look.task, look.step) for look in looks]
        assert steps == sorted(set(steps)) and looks[-1].step == looks[-1].of
        assert len(looks[-1].accuracy) == sum(drift_film.SIZES)
        counts = torch.bincount(looks[-1].labels)
        assert counts.tolist() == [drift_film.POINTS] * sum(drift_film.SIZES)


def test_distillation_holds_features_and_replay_shows_old_classes_only(films):
    def moved(name):
        first, last = end_of_task_0(films[name]), films[name][-1]
        old = last.labels < drift_film.SIZES[0]
        return float((last.points[old] - first.points).norm(dim=1).mean())

    assert moved("held none") < 0.5 * moved("free none")
    assert films["held none"][-1].replayed is None
    last = films["held gaussian"][-1]
    assert len(last.replayed) == 5 * drift_film.CROSSES
    # what a Gaussian replays lies about the features that it was fitted to
    means = last.replayed.view(5, drift_film.CROSSES, 2).mean(1)
    before = end_of_task_0(films["held gaussian"])
    for c in range(4):
        own = before.points[before.labels == c]
        assert float((means[c] - own.mean(0)).norm()) < 3 * float(own.std(0).norm())


@pytest.mark.parametrize("looks, total", [(2, 7), (6, 120), (10, 9), (10, 800)])
def test_moments_reach_the_end(looks, total):
    found = drift_film.moments(looks, total)
    assert max(found) == total and min(found) >= 1 and len(found) <= looks - 1


def test_places_are_bytes_of_the_window():
    points = torch.tensor([[0.0, 1.0], [2.0, 3.0], [-9.0, 9.0]])
    text = drift_player.placed(points, (0.0, 1.0, 2.0))
    assert list(base64.b64decode(text)) == [0, 0, 255, 255, 0, 255]


def test_the_window_holds_what_is_held_and_not_what_flies_away(films):
    left, bottom, side = drift_film.window_of(films)
    held = torch.cat([look.points for look in films["held gaussian"]])
    low = torch.tensor([left, bottom])
    inside = ((held >= low) & (held <= low + side)).all(1).float().mean()
    assert inside > 0.95


def test_the_page_holds_every_film_in_little_room(films):
    names = ["</script>", "2", "7", "6", "0", "3"]
    text = drift_player.DriftPlayer(films, names).html()
    assert len(text) < 1_500_000
    assert text.count("</script>") == 2, "a class's name ends the script"
    body = re.search(r'<script type="application/json">(.*?)</script>', text, re.S)
    content = json.loads(body.group(1))
    assert content["classes"] == names and list(content["films"]) == list(films)
    look = content["films"]["held gaussian"][-1]
    assert sum(look["n"]) * 2 == len(base64.b64decode(look["p"]))
    assert sum(look["m"]) * 2 == len(base64.b64decode(look["r"]))
    assert look["a"] == [round(a) for a in films["held gaussian"][-1].accuracy]


def test_the_strip_shows_four_films(films):
    figure = figures.planes(films, ["4", "2", "7", "6", "0", "3"])
    titles = [ax.get_title(loc="left") or ax.get_title() for ax in figure.axes]
    percent = drift_film.final(films)
    assert len(titles) == 4
    assert titles[3] == f"Both: {percent['held gaussian']:.0f} %"
    assert [len(ax.texts) for ax in figure.axes] == [6 * drift_film.POINTS] * 4


def test_the_ground_is_what_the_head_answers():
    head = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])  # right: 0, left: 1
    look = Look(0, 1, 1, torch.zeros(1, 2), torch.zeros(1).long(), None, head, [100.0])
    ground = figures.planes.__wrapped__.__globals__["_answers"](head, (-1, 1, -1, 1))
    left, right = ground[:, :80], ground[:, 80:]
    assert (left == left[0, 0]).all() and (right == right[0, 0]).all()
    assert not (left[0, 0] == right[0, 0]).all()
    assert dataclasses.asdict(look)["of"] == 1


# On the welcome page ------------------------------------------------------------------


def executed_copy(*outputs) -> str:
    cells = [
        {
            "metadata": {"mystnb": {"image": {"alt": f"alt <{n}>"}}},
            "outputs": [{"data": d}],
        }
        for n, d in enumerate(outputs)
    ]
    return json.dumps({"cells": [{"metadata": {}}, *cells]})


def test_the_welcome_page_shows_what_chapter_2_computed(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "book/_ext")
    import welcome_player

    page = tmp_path / "_generated/player.md"
    welcome_player.write_player(tmp_path)
    assert page.read_text() == "", "not executed: the page still builds"
    player = {"text/html": ['<div class="gfr-player">', "it</div>"]}
    picture = {"image/svg+xml": "<svg>frames</svg>"}
    copy = tmp_path / welcome_player.CHAPTER
    copy.write_text(executed_copy({"image/svg+xml": "no"}, player, picture, player))
    welcome_player.write_player(tmp_path)
    text = page.read_text()
    assert text.count('<div class="gfr-player">it</div>') == 1
    assert "<noscript><img style=" in text
    assert 'src="../_static/drift.svg" alt="alt &lt;2&gt;"></noscript>' in text
    assert (tmp_path / "_static/drift.svg").read_text() == "<svg>frames</svg>"
    copy.write_text(executed_copy(player))
    welcome_player.write_player(tmp_path)
    assert "noscript" not in page.read_text() and "gfr-player" in page.read_text()


def test_accuracy_on_task_0_while_a_later_task_is_learned():
    def look(task, step, *accuracy):
        return Look(task, step, 9, None, None, None, None, list(accuracy))

    looks = [
        look(0, 0, 9, 9, 9, 9),
        look(1, 0, 100, 0, 50, 50, 7),
        look(1, 5, *5 * [4]),
    ]
    looks.append(look(2, 0, *6 * [1]))
    assert drift_film.on_task_0(looks) == [(0, 50), (5, 4)]
    assert drift_film.on_task_0(looks, 2) == [(0, 1)]
