"""`hmoe reproduce`: what it refuses before any work, and what a check tells."""

from dataclasses import replace
from pathlib import Path

import pytest

from hmoe import cli, reproductions
from tests.reproductions import made
from tests.reproductions.test_store import change, stored


@pytest.fixture(autouse=True)
def _only_the_made_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in list(reproductions.REPRODUCTIONS):
        monkeypatch.delitem(reproductions.REPRODUCTIONS, name)
    monkeypatch.setitem(reproductions.REPRODUCTIONS, "made", made.MADE)


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(["reproduce", *words])
    return int(ended.value.code or 0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "a name is missing: all, or of made"),
        ("mad", "mad: no such reproduction. Did you mean 'made'?"),
        ("made seeds=1", "seeds = 1: expected a whole number of at least 2"),
        ("made size=gpu", "size = gpu: made runs on the CPU alone; it is known to"),
        (
            "made seeds=4",
            "seeds = 4: made has 5. Say where the result of fewer goes: out=",
        ),
        ("made --check seeds=3", "seeds=3: nothing is run with --check or --rewrite"),
        ("made --rewrite workers=3", "workers=3: nothing is run with --check or --rewrite"),
        ("made --check --rewrite", "--check and --rewrite: one of them"),
        ("made seeds=true", "seeds = True: expected a whole number"),
        ("made workers=1.5", "workers = 1.5: expected a whole number"),
        ("made size=cpus", "size = cpus: must be one of cpu, gpu. Did you mean 'cpu'?"),
        ("made root=3", "root = 3: expected a folder"),
        ("made out=null", "out = None: expected a folder"),
        ("made sees=3", "'sees' is not an option here; there are root, seeds"),
    ],
)
def test_mistakes_are_told_before_any_work(
    capsys: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    assert run(*words.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert "Traceback" not in err
    assert list(Path().iterdir()) == []


def test_a_missing_set_is_told_before_any_work(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    needs = replace(made.MADE, sets=("vowel_peterson_barney",))
    monkeypatch.setitem(reproductions.REPRODUCTIONS, "made", needs)
    assert run("made") == 2
    assert "data/vowel_peterson_barney/pb52.csv: expected sha256" in capsys.readouterr().err
    assert list(Path().iterdir()) == []


def test_how_to_get_a_missing_set_is_told_in_options_that_are_there(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(reproductions.REPRODUCTIONS, "made", replace(made.MADE, sets=("letter",)))
    assert run("made", "root=mine") == 2
    told = capsys.readouterr().err
    assert "found no such folder: mine. Get it with: hmoe fetch letter root=mine. " in told
    assert told.endswith("Or name the folder in which letter lies: root=/path/to/folder.\n")


def test_a_check_tells_what_drifted(capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path("reports/reproductions/made")
    stored(folder)
    assert run("made", "--check") == 0
    assert capsys.readouterr().out == "made: reproduced, as stored\n"
    change(folder, lambda result: result["cells"][0][2].update(value=1))
    assert run("all", "--check") == 1
    out = capsys.readouterr().out
    assert out.startswith("made: reproduced, DRIFTED\n")
    assert "  figure mean, value: stored 2.0, now 2.2\n" in out


def test_a_check_of_several_goes_on_without_the_one_that_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(reproductions.REPRODUCTIONS, "never", replace(made.MADE, name="never"))
    stored(Path("reports/reproductions/made"))
    assert run("all", "--check") == 1
    out = capsys.readouterr().out
    assert "made: reproduced, as stored\n" in out
    assert "never: reports/reproductions/never/result.json: nothing stored. Run it:" in out


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_measures_judges_and_writes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("made", "root=.", "workers=1") == 0
    out = capsys.readouterr().out
    assert out == "made: reproduced\nreports/reproductions/made/README.md\n"
    page = Path("reports/reproductions/made/README.md").read_text()
    assert "    hmoe reproduce made root=. workers=1\n" in page
    assert "| mean | 2 | 2.000 ± 1.581 (5) |" in page
    assert run("made", "--check") == 0
