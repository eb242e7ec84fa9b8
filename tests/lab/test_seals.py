"""Checksums in records and analyses: what is damaged, or has none, is refused."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from helpers_core import ROOT, tiny

from gfrlib.cli import main
from gfrlib.config import UserError
from gfrlib.lab import analyses, experiments, records, seals

COMMITTED = ROOT / "data" / "records"
QUICK = dict(
    split=(3, 2, 2), epochs_base=1, generator_steps_base=2, generator_steps_later=2
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The home folder and record of one run with a sheet of images, trained once."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GFR_HOME", str(home))
        record = experiments.run_or_load(tiny("mergan", **QUICK))
        return home, record


@pytest.fixture
def path(made, tmp_path, monkeypatch) -> Path:
    """The record in a copy of that folder."""
    home = shutil.copytree(made[0], tmp_path / "home")
    monkeypatch.setenv("GFR_HOME", str(home))
    return home / made[1].path.relative_to(made[0])


def edited(path: Path, change) -> None:
    """Change a JSON file, and leave its checksum as it was."""
    kept = json.loads(path.read_text())
    change(kept)
    path.write_text(json.dumps(kept))


# The checksum itself ------------------------------------------------------------------


def test_a_checksum_is_of_the_content_and_not_of_its_layout():
    fields = {"b": [1, 2.5, None], "a": {"x": "é", "y": 1e-9}}
    found = seals.checksum(fields)
    assert found == seals.checksum({"a": {"y": 1e-9, "x": "é"}, "b": [1, 2.5, None]})
    assert found == seals.checksum(json.loads(seals.sealed(fields)))
    for other in ({**fields, "c": 1}, {**fields, "b": [1, 2, None]}, {"a": 1}):
        assert seals.checksum(other) != found


def test_a_checksum_is_that_of_the_canonical_text():
    text = b'{"a":1,"b":"x"}'
    found = seals.checksum({"b": "x", "a": 1, "checksum": "anything"})
    assert found == hashlib.sha256(text).hexdigest()


# Records and what lies beside them ----------------------------------------------------


def test_all_three_files_are_sealed(path):
    record = records.whole(path)
    for file in (path, analyses.beside(path, "json")):
        kept = json.loads(file.read_text())
        assert list(kept)[-1] == "checksum" and not seals.is_damaged(kept)
    assert analyses.sheet(path, record.analysis).startswith(b"\x89PNG")
    assert len(record.analysis["sheet"]) == 64


def test_a_record_with_another_number_is_refused(path):
    edited(path, lambda kept: kept["losses"][0].update(step=8))
    with pytest.raises(UserError, match="differs from its checksum"):
        records.load(path)


def test_an_analysis_with_another_number_is_refused(path):
    edited(analyses.beside(path, "json"), lambda kept: kept.update(drift=[]))
    with pytest.raises(UserError, match="analysis.json' is damaged"):
        _ = records.load(path).analysis
    record = records.load(path)
    with pytest.raises(UserError, match="is damaged"):
        records.whole(path)
    assert record.status == "loaded", "the record itself can still be read"


@pytest.mark.parametrize("share", [0, 0.5, 0.999])
def test_a_cut_analysis_is_one_sentence(path, share):
    file = analyses.beside(path, "json")
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
    with pytest.raises(UserError, match="is damaged"):
        _ = records.load(path).analysis


def test_another_sheet_is_refused(path):
    file = analyses.beside(path, "png")
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match="png' is damaged"):
        records.whole(path)


def test_a_record_without_a_checksum_is_refused_in_one_sentence(path, capsys):
    """Also one that does not say that it was kept with one."""
    for change in (
        lambda kept: kept.pop("checksum"),
        lambda kept: kept["provenance"].pop("sealed"),
    ):
        edited(path, change)
        with pytest.raises(UserError, match="has lost its checksum"):
            records.load(path)
    assert main(["records"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1 and "refused. The record" in said[0]


def test_the_analysis_of_a_sealed_record_must_be_sealed(path):
    edited(analyses.beside(path, "json"), lambda kept: kept.pop("checksum"))
    with pytest.raises(UserError, match="is damaged"):
        records.whole(path)


def test_a_quick_record_with_a_damaged_analysis_is_made_again(path):
    config = records.load(path).config
    edited(analyses.beside(path, "json"), lambda kept: kept.update(drift=[]))
    assert records.find(config, (3, 2, 2)) is None
    again = experiments.run_or_load(config)
    assert again.status == "computed now" and records.whole(path)
    assert again.analysis == records.load(path).analysis


def test_parts_that_are_added_later_keep_the_sheet(path):
    config = records.load(path).config
    experiments.run_or_load(config, analyse="projection")
    record = records.whole(path)
    assert "projection" in record.analysis and "sheet" in record.analysis


def test_every_committed_record_is_sealed():
    files = sorted(COMMITTED.glob("*.json"))
    kept = {f.name: json.loads(f.read_text()) for f in files}
    assert kept and [name for name, one in kept.items() if seals.is_damaged(one)] == []


# One bad record among others ----------------------------------------------------------


def test_one_bad_record_hides_no_other(path, capsys, made):
    other = path.with_name(path.name.replace("-s0-", "-s1-"))
    shutil.copy(path, other)
    path.write_bytes(path.read_bytes()[:-5])
    assert main(["records"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and "refused" in lines[0] and "loaded" in lines[1]
    assert main(["compare", "digits", "digits"]) == 0
    heard = capsys.readouterr()
    assert "average incremental" in heard.out
    assert path.name in heard.err and "left out" in heard.err
    other.unlink()
    assert main(["compare", "digits", "digits"]) == 2
    heard = capsys.readouterr()
    assert path.name in heard.err and len(heard.err.splitlines()) == 1
