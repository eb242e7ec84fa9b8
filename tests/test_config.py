"""Settings: each declared once; what a run reads is what tells it from another."""

import dataclasses
import pickle

import numpy as np
import pytest
from helpers_core import SMALL, load_tasks, tiny, train

from gfrlib import heads, penalties, prediction, replay, training
from gfrlib.config import (
    DECLARED,
    DEFAULTS,
    Config,
    UserError,
    checked,
    choices,
    from_text,
    make_config,
)
from gfrlib.engine import values
from gfrlib.methods import COLUMNS, METHODS
from gfrlib.presets import PRESETS

# Read at the door or as a name, and never by what a stage computes.
AT_THE_DOOR = {"device", "threads", "preset"}


class Watched(Config):
    """A Config that notes which settings are read, but for its own book-keeping."""

    def __getattribute__(self, name):
        own = object.__getattribute__(self, "__dict__")
        if name in DECLARED and own.get("_watch", False):
            own["_read"].add(name)
        return object.__getattribute__(self, name)

    def identity(self):
        return self._aside(super().identity)

    def stage_settings(self, stage, *, first):
        return self._aside(
            lambda: super(Watched, self).stage_settings(stage, first=first)
        )

    def _aside(self, compute):
        own = object.__getattribute__(self, "__dict__")
        before, own["_watch"] = own.get("_watch", False), False
        try:
            return compute()
        finally:
            own["_watch"] = before


def read_by_a_run(config: Config) -> set[str]:
    """The settings that building the stream and training it read."""
    plain = {f.name: getattr(config, f.name) for f in dataclasses.fields(Config)}
    watched = Watched(**plain)
    object.__getattribute__(watched, "__dict__").update(_read=set(), _watch=True)
    with training.Machine.of(config).limited():
        training.run(watched, load_tasks(config))
    return watched.__dict__["_read"]


def varies(config: Config) -> set[str]:
    """Settings that the identity follows, as declared."""
    return {name for name, about in DECLARED.items() if about["read"](config)}


STREAM = {"dataset", "base", "tasks", "split", "class_order", "seed", "validation"}
STREAM |= {"mirror"}
CASES = {name: (name, {}) for name in METHODS} | {
    "gfr, alignment paper": ("gfr", dict(alignment="paper")),
    "gfr, alignment retrain": ("gfr", dict(alignment="retrain")),
    "frozen F, GAN": ("gfr", dict(penalty="frozen")),
    "frozen F, Gaussians": ("gfr-gaussian", dict(penalty="frozen")),
    "features, exemplars": ("icarl-cnn", dict(penalty="features")),
    "projection as in the code": ("gfr", dict(initial_projection="pytorch")),
    "importances as FACIL's": ("ewc", dict(importance="facil")),
    "FeCAM, shrunk twice": ("fecam", dict(shrinkage=3.0)),
    "flow by midpoints": ("gfr-flow", dict(flow_solver="midpoint")),
    "FeTrIL, by distance": ("fetril", dict(likeness="euclidean")),
    "GAN through a bottleneck": ("gfr", dict(bottleneck=6)),
    "Gaussians through a bottleneck": ("gfr-gaussian", dict(bottleneck=6)),
}
# Read by every run that can: these are in the identity where they are not the default,
# and a cut at which nothing enters or acts changes nothing (see below).
AT_THE_DEFAULT = {
    "drift",
    "compiled",
    "shrinkage",
    "flow_solver",
    "likeness",
    "initial_projection",
    "bottleneck",
    "mirror",
    "weights",
}


@pytest.mark.parametrize("case", CASES)
def test_the_identity_is_what_a_run_reads(case):
    """Field by field: nothing that is read is missing, nothing unread splits runs."""
    method, changes = CASES[case]
    config = tiny(method, **{**SMALL, "epochs_base": 1, **changes})
    read = read_by_a_run(config) - AT_THE_DOOR
    declared = varies(config)
    silent = {
        name for name in AT_THE_DEFAULT if getattr(config, name) == DEFAULTS[name]
    }
    assert read - declared - silent - {"cut"} == set(), "read, but not in the identity"
    # the stream's settings are read before the run, when the tasks are built
    # the stages' names hold the columns even where a function was looked up by them
    columns = {"penalty", "memory", "head", "prediction", "cut", "drift", "batch_norm"}
    unread = declared - read - STREAM - columns
    assert unread == set(), "in the identity, but never read"


@pytest.mark.parametrize(
    "method, one, other",
    [
        ("gfr", dict(alignment="paper"), dict(alignment_weight=0.5)),
        ("gfr", dict(alignment="retrain"), dict(alignment_weight=0.5)),
        ("joint", {}, dict(batch_norm="frozen")),
        ("frozen", {}, dict(batch_norm="train")),
        ("frozen", {}, dict(old_task_weighting=False)),
        ("finetune", {}, dict(cut=2)),
        ("finetune", {}, dict(penalty_weight=3.0, temperature=4.0)),
        ("finetune", {}, dict(device="cpu", threads=2)),
        ("gfr-gaussian", {}, dict(generator_hidden=64, exemplars=7)),
        ("gfr-gaussian", {}, dict(initial_projection="pytorch", shrinkage=3.0)),
        ("gfr", {}, dict(initial_convolutions="pytorch", likeness="euclidean")),
        ("block-3", {}, dict(initial_projection="pytorch")),
        ("gfr", {}, dict(mirror=False)),  # digits are never mirrored
    ],
)
def test_what_a_run_never_reads_does_not_split_it(method, one, other):
    a, b = (make_config("quick", method, **{**one, **c}) for c in ({}, other))
    assert a.digest() == b.digest() and a.difference(b) == {}


@pytest.mark.parametrize(
    "method, change",
    [
        ("gfr", dict(alignment_weight=0.5)),
        ("gfr", dict(batch_norm="train")),
        ("joint", dict(epochs_base=7)),
        ("frozen", dict(width=8)),
        ("gfr", dict(old_task_weighting=False)),
        ("gfr", dict(initial_projection="pytorch")),
        ("gfr", dict(network="resnet18", initial_convolutions="pytorch")),
        ("fecam", dict(shrinkage=3.0)),
        ("fetril", dict(likeness="euclidean")),
        ("gfr-flow", dict(flow_solver="midpoint")),
        ("gfr", dict(bottleneck=6)),
        ("mas", dict(importance="facil")),
        ("gfr", dict(dataset="mine", mirror=False)),
    ],
)
def test_what_a_run_reads_splits_it(method, change):
    a, b = make_config("quick", method), make_config("quick", method, **change)
    assert a.digest() != b.digest() and set(a.difference(b)) == set(change)


def test_a_cut_at_which_nothing_acts_changes_nothing():
    plain, cut = (train(tiny("finetune", **SMALL, cut=c)) for c in (4, 2))
    assert plain.weights == cut.weights


def test_every_word_of_a_column_has_its_function():
    nothing_added = {"none", "frozen"}
    assert set(penalties.PENALTIES) | nothing_added == set(COLUMNS["penalty"])
    assert set(replay.MEMORIES) == set(COLUMNS["memory"])
    assert set(heads.HEADS) == set(COLUMNS["head"])
    assert set(replay.DRIFTS) | {"none"} == set(COLUMNS["drift"])
    rules = set(prediction.PREDICTIONS) - {"task-aware"}
    assert rules == set(COLUMNS["prediction"])


@pytest.mark.parametrize("name", DECLARED)
def test_a_declaration_says_what_is_allowed(name):
    default, about = getattr(Config(), name), DECLARED[name]
    if choices(name):
        assert default in choices(name)
    if type(default) in (bool, str):
        assert not about["bounds"]
        return
    low, high = about["bounds"]  # every number has two
    assert type(low) is type(high) is (int if default == () else type(default))
    if default == ():
        return
    assert low <= default <= high
    assert high <= 1e30, "float32 holds it"
    # at their ends they are taken, beyond them refused, whatever else is set
    for value, beyond in ((low, low - 1 if low >= 0 else low * 2), (high, high * 2)):
        with pytest.raises(UserError, match=f"'{name}'"):
            make_config("quick", "gfr", **{name: beyond if beyond != low else -1})
        if name != "cut":
            assert getattr(make_config("quick", "gfr", **{name: value}), name) == value


def test_the_bounds_of_counts():
    for split, says in (
        ([0], "from 1 to 1000000, and 0 is none"),
        ([5, -1], "and -1 is none"),
        ([10**400], "a number of more than 40 digits is none"),
        ([1] * 10_001, "at most 10000 tasks, not 10001"),
        ([True], "is a list of class counts such as"),
        ([1.0], "is a list of class counts such as"),
        ("5,5", "is a list of class counts such as"),
    ):
        with pytest.raises(UserError, match=says) as caught:
            make_config("quick", "gfr", split=split)
        assert len(str(caught.value)) <= values.LONGEST


def test_split_and_base_are_two_ways_to_say_one_thing():
    for other in (dict(base=4), dict(tasks=1), dict(base=4, tasks=1)):
        with pytest.raises(UserError, match="'split' says the classes of every task"):
            make_config("quick", "gfr", split=(5, 5), **other)
    assert make_config("quick", "gfr", split=(), base=5, tasks=5).base == 5
    assert make_config("quick", "gfr", split=(5, 5)).split == (5, 5)


@pytest.mark.parametrize(
    "changes, says",
    [
        (dict(seed=2**32), "'seed' must be at most"),
        (dict(seed=-1), "must not be negative"),
        (dict(threads=100_000), "'threads' must be at most"),
        (dict(head_scale=1e300), "'head_scale' must be a number above 0"),
        (dict(alignment_weight=10**400), "must not be negative, infinite"),
        (dict(exemplars=10**20), "'exemplars' must be at most"),
        (dict(width=10**6), "'width' must be at most"),
        (dict(validation=0.95), "from 0 to 0.89, not"),
        (dict(cut=5), "'cut' counts stages"),
        (dict(learning_rate=float("nan")), "must be a number above 0"),
        (dict(seed=10**5000), "at most 4294967295, not a number of more than 40"),
        (dict(learning_rate=10**400), "above 0 .1e-30 to 1e30., not inf"),
        (dict(width=[10**5]), "'width' must be a whole number"),
        (dict(dataset="a\x1b[31m", base=0), "'base' must be at least 1"),
        (dict(penalty="\x1b[31m\n"), r"not '\\x1b\[31m\\n'"),
        (dict(widht=3), "did you mean width"),
        (dict(width="3"), "'width' must be a whole number"),
    ],
)
def test_out_of_bounds_is_one_sentence(changes, says):
    with pytest.raises(UserError, match=says) as caught:
        make_config("quick", "gfr", **changes)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "wrong, says",
    [
        (dict(base="4"), "'base' must be a whole number"),
        (dict(learning_rate="fast"), "'learning_rate' must be a number"),
        (dict(weights=3), "'weights' must be text"),
        (dict(split=(2.5, 3)), "'split' is a list of class counts"),
        (dict(seed=True), "'seed' must be a whole number"),
        (dict(mirror="no"), "'mirror' must be true or false"),
    ],
)
def test_a_config_made_by_hand_has_the_types_of_its_fields(wrong, says):
    with pytest.raises(UserError, match=says):
        checked(Config(**wrong))


def test_one_value_has_one_type_in_a_config_made_by_hand():
    found = checked(Config(learning_rate=1, split=[3, 3, 4], cut="features"))
    assert (found.learning_rate, found.split, found.cut) == (1.0, (3, 3, 4), 4)
    assert type(found.learning_rate) is float  # 1 and 1.0 would be two identities


def test_one_reading_of_text():
    assert from_text("split", "[25, 25]") == (25, 25)
    assert from_text("cut", "features") == 4 and from_text("width", "8") == 8
    assert from_text("learning_rate", "1e-3") == 1e-3
    with pytest.raises(UserError, match="takes true or false, not 'maybe'"):
        from_text("compiled", "maybe")
    # text stays as it stands, whatever it looks like
    for text in ("2021", "on", "~", "my data #2: set"):
        assert values.from_text(text, (str,)) == text
    assert values.from_text("1e-3", (float,)) == 1e-3
    assert values.from_text("none", (int, type(None))) is None
    assert values.from_text("4", (str, int)) == 4
    assert values.typed(3, (float,)) == 3.0
    for value, kinds in ((True, (int,)), ("3", (int,)), (3.0, (int,))):
        with pytest.raises(ValueError):
            values.typed(value, kinds)


@pytest.mark.parametrize(
    "text", ["1_0", "１０", "٣", " 1", "1 ", "0x10", "0b1", "1e3", "", "-", "9" * 41]
)
def test_a_whole_number_is_decimal_digits(text):
    with pytest.raises(UserError, match="takes a whole number"):
        from_text("seed", text)


@pytest.mark.parametrize("text", ["1_0.5", "１.5", " 1", "0x1p3", "", ".", "1e", "1,5"])
def test_a_number_is_written_in_decimal_digits(text):
    with pytest.raises(UserError, match="takes a number"):
        from_text("learning_rate", text)


def test_numbers_are_read():
    for text in ("1e-3", "+1E-03", ".001", "0.001", "1.e-3"):
        assert from_text("learning_rate", text) == 0.001
    assert from_text("seed", "+3") == 3 and from_text("seed", "-3") == -3
    assert from_text("seed", "007") == 7
    for text in ("25,25", "[25, 25]", "(25,25)", " 25 , 25 "):
        assert from_text("split", text) == (25, 25)
    assert from_text("split", "[]") == from_text("split", "()") == ()


def test_a_message_is_one_line_of_sane_length():
    """Whatever stands in it; a process that hands it on leaves it as it is."""
    for text in (
        "two\nlines\r\n",
        "\x1b[31mred\x07\x00\x9b",
        "right to left \u202e and \u2066 and \u2028",
        "half \ud800 a character",
        "x" * 10**6,
        "x y " * 10**5,
        "back\\slash [...]",
    ):
        said = str(UserError(text))
        assert said.isprintable() and len(said) <= values.LONGEST
        assert str(UserError(said)) == said
        assert str(pickle.loads(pickle.dumps(UserError(text)))) == said
    rng = np.random.default_rng(0)
    for lengths in rng.integers(
        1, 500, (100, 6)
    ):  # cut words within a text that is cut
        said = str(UserError(" ".join("x" * n for n in lengths)))
        assert str(UserError(said)) == said and len(said) <= values.LONGEST
    plain = "'grün' and 数字 and 😀 are text; take 'C:\\\\x'."
    assert str(UserError(plain)) == plain
    path = "/" + "/".join(["folder"] * 40)
    assert path in str(UserError(f"'{path}' is no file.")), "paths are not cut"


def test_a_row_with_marks_is_told_from_the_row_with_its_columns():
    squared = make_config("slim", "gfr-squared")
    by_hand = make_config(
        "slim", "gfr-gaussian", distance="mse", gaussian="full", penalty_weight=30.0
    )
    assert squared.identity() == by_hand.identity()
    assert squared.method == by_hand.method == "gfr-squared"
    diagonal = make_config("slim", "gfr-squared", gaussian="diagonal")
    assert diagonal.method == "gfr-gaussian"


@pytest.mark.parametrize("preset", PRESETS)
def test_whole_covariances_are_a_row_that_moves_no_digest(preset):
    """Runs made before it had a name are the same runs."""
    row = make_config(preset, "gfr-gaussian-full")
    by_hand = make_config(preset, "gfr-gaussian", gaussian="full")
    assert row.digest() == by_hand.digest()
    assert row.method == by_hand.method == "gfr-gaussian-full"
    assert make_config(preset, "gfr-gaussian").method == "gfr-gaussian"
