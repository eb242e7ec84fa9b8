"""Verdicts on a paper's claims: hand-made cases at and beside the thresholds."""

import pytest

from gfrlib.book import claims


@pytest.mark.parametrize(
    "kind, cases",
    [
        (
            "above",
            {
                5: "holds",
                2: "holds",
                1.9: "within 2 points",
                -1.9: "within 2 points",
                -2: "does not hold",
            },
        ),
        (
            "far above",
            {
                10: "holds",
                9.9: "above, not far",
                2: "above, not far",
                1.9: "within 2 points",
                -2: "does not hold",
            },
        ),
        (
            "level",
            {1.9: "holds", -1.9: "holds", 2: "does not hold", -9: "does not hold"},
        ),
        (
            "near",
            {9.9: "holds", -9.9: "holds", 10: "does not hold", -10: "does not hold"},
        ),
        ("not below", {9: "holds", 0: "holds", -1.9: "holds", -2: "does not hold"}),
    ],
)
def test_verdicts(kind, cases):
    of = {gap: claims.verdict([50 + gap, 50 + gap], [49, 51], kind) for gap in cases}
    assert of == cases and set(cases.values()) <= set(claims.VERDICTS)
    assert claims.verdict([], [50], kind) == "not recorded"


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="far above"):
        claims.verdict([1.0], [0.0], "better")


def test_a_table_by_hand():
    found = claims.table(
        [("a over b", "above", [40, 42], [30.0]), ("a over nothing", "above", [40], [])]
    )
    assert found.loc[0].tolist() == [
        "a over b",
        "41.0\u00a0±\u00a01.4",
        "30.0",
        "+11.0",
        "holds",
    ]
    assert found.loc[1].tolist() == ["a over nothing", "40.0", "–", "–", "not recorded"]


def test_an_empty_table_has_its_columns():
    assert list(claims.table([], "points")) == [
        "claim",
        "first (points)",
        "second (points)",
        "difference",
        "verdict",
    ]
