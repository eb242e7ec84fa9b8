"""What a network mixes up, against a case counted by hand."""

import dataclasses

import numpy as np
import pytest
from helpers_core import tiny

from gfrlib.book import mistakes
from gfrlib.config import make_config
from gfrlib.lab.experiments import load_tasks
from gfrlib.lab.records import Record


@pytest.fixture
def record():
    """Three classes of 4, 2 and 5 test images; class 2 is the last task's."""
    predicted = np.array([0, 2, 2, 1, 1, 1, 2, 0, 2, 0, 0])
    return Record(
        config=make_config("quick", "gfr", split=(2, 1)),
        class_names=["cat", "dog", "a fox with a very long name"],
        task_sizes=[2, 1],
        test_counts=[4, 2, 5],
        predictions=[None, predicted],
        **dict.fromkeys(("rules", "provenance"), {}),
        **dict.fromkeys(("losses", "seconds", "bytes_kept"), []),
        weights="",
    )


def test_pairs_are_counted_and_their_images_found(record):
    found = mistakes.confused(record)
    assert [(p.true, p.taken, p.rows) for p in found] == [
        (2, 0, (7, 9, 10)),
        (0, 2, (1, 2)),
        (0, 1, (3,)),
    ]
    assert [p.share for p in found] == [3 / 5, 2 / 4, 1 / 4]


def test_accuracy_of_each_class(record):
    assert mistakes.class_accuracy(record).tolist() == [25.0, 100.0, 40.0]
    ax = mistakes.class_bars(record)
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == ["cat", "a fox with a very long name", "dog"]
    widths = [bar.get_width() for bar in ax.patches]
    assert widths == [25.0, 40.0, 100.0]
    colors = [bar.get_facecolor() for bar in ax.patches]
    assert colors[0] == colors[2] != colors[1], "old classes and the new one"


def test_the_images_shown_are_those_answered_wrongly(record):
    stream = load_tasks(tiny(split=(2, 1)))
    figure = mistakes.confused_images(record, stream, pairs=2, each=2)
    axes = np.array(figure.axes).reshape(2, 5)
    shown = [
        [ax.images[0].get_array() if ax.images else None for ax in line]
        for line in axes
    ]
    pictures = stream.test_images[..., 0].numpy()
    for line, rows in zip(shown, ((7, 9, None, 0, 1), (1, 2, None, 6, 8))):
        for image, row in zip(line, rows):
            assert (image is None) == (row is None)
            assert row is None or np.array_equal(image, pictures[row])
    titles = [ax.texts[0].get_text() for ax in axes[:, 0]]
    assert titles == [
        "a fox with a very…, taken for cat: 3 of 5",
        "cat, taken for a fox with a very…: 2 of 4",
    ]
    right = dataclasses.replace(record, predictions=[None, record.labels()])
    assert mistakes.confused_images(right, stream) is None
