"""The welcome page's picture: all its parts, words that can be read, one file."""

import io
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pytest
from conftest import ROOT
from fakes import contrast, texts

sys.path.insert(0, str(ROOT / "book" / "_ext"))
import method_picture


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def test_white_words_read_on_the_modules():
    modules = (method_picture.NETWORK, method_picture.GENERATOR, method_picture.CRITIC)
    for color in modules:
        assert contrast(color, "white") >= 4.5, color


def test_the_picture_is_transparent():
    buffer = io.BytesIO()
    method_picture.method_picture().savefig(buffer, format="png", dpi=50)
    buffer.seek(0)
    assert plt.imread(buffer)[0, 0, 3] == 0  # a clear corner


def test_the_method_in_one_picture():
    figure = method_picture.method_picture()
    shown = texts(figure)
    for part in (
        "$F_{t-1}$",
        "$F_t$",
        "$G_{t-1}$",
        "$G_t$",
        "$H_t$",
        "$D_t$",
        r"$\hat{u}$",
        "feature distillation",
    ):
        assert part in shown, part
    assert (
        min(
            t.get_fontsize()
            for t in figure.findobj(matplotlib.text.Text)
            if t.get_text()
        )
        >= 10
    )
    assert (
        figure.get_figwidth() <= 5
    )  # so that 10-point words still have 10 pixels on a telephone
    files = []
    for _ in range(2):
        buffer = io.BytesIO()
        method_picture.method_picture().savefig(
            buffer, format="svg", bbox_inches="tight", metadata={"Date": None}
        )
        files.append(buffer.getvalue())
    assert files[0] == files[1] and len(files[0]) < 200_000
