"""The page is one file that loads nothing, and no name from a user becomes markup."""

import json
import re
from dataclasses import replace

import pytest
from plotly.offline import get_plotlyjs

from hmoe.errors import ConfigError
from hmoe.report import write_report
from hmoe.report.page import html, readme
from hmoe.tracking import Confirmation, Contract
from tests.report.hand import curve, level, make_run, make_study

EVIL = '<script>alert("x")</script>'
IMG = "<img src=http://evil.example/x>"


@pytest.fixture(scope="module")
def page(report):
    """The page without plotly.js."""
    text = report.read_text()
    before, library, after = text.partition(get_plotlyjs())
    assert library
    return before + after


def figures(page):
    return json.loads(re.search(r"^const figures = (.*);$", page, re.M)[1])


def test_plotly_is_in_the_page_exactly_once(report, page):
    assert report.read_text().count("* plotly.js v") == 1
    assert "plotly.js v" not in page


def test_nothing_is_loaded_from_anywhere(page):
    assert not re.search(r"<\w[^>]*\s(src|href|action|data|poster|srcset)\s*=", page)
    assert not re.search(r"https?://|@import|url\(|fetch\(|XMLHttpRequest", page)
    assert "default-src 'none'" in page


def test_there_are_two_files(report):
    assert sorted(p.name for p in report.parent.iterdir()) == ["README.md", "report.html"]


def test_the_page_holds_all_its_parts(page):
    for text in (
        "Does a tree of gates beat a flat gate",
        "Exploratory: arms from the best mean to the worst",
        "3\u00a0complete, 1\u00a0failed",
        "CUDA out of memory",
        "train/loss is nan at step 100",
        "hmoe sweep sweep=fake workers=2",
        "0123456789ab with uncommitted changes",
        "torch 2.15.0",
        "sha256 9f86d081884c",
        "CPU threads",
        "+3.34\u202f%",
    ):
        assert text in page, text
    assert set(figures(page)) == {
        *("pareto", "quality-curve", "balance-curve", "hypervolume", "importance", "timeline"),
        *(f"load-{i}" for i in range(4)),
    }
    assert '<td class="n">0.001<td' in page
    assert page.count("<code>hmoe train") == 18


def test_a_broken_contract_shows_a_red_banner_and_a_kept_one_does_not(page):
    assert 'class="banner"' in page
    assert 'class="banner"' not in html(make_study([make_run("a", 1.0)]))


def test_the_page_of_a_confirmed_study(confirmed_report):
    page = confirmed_report.read_text()
    for text in (
        "Confirmed on 3 to 4 fresh paired seeds:</p><ul><li>dense, bits per byte: ",
        "<h2>Verdicts</h2>",
        "lost: 1000",
        "On the Pareto front",
        "sha256 9f86d081884c",
        "budget.trials: 9 -&gt; 15",
        "company/seed_1003",
        "Arms had unequal numbers of trials",
    ):
        assert text in page, text
    forest = figures(page.replace(get_plotlyjs(), ""))["forest"]
    seeds = [len(t["x"]) for t in forest["data"] if "error_x" not in t]
    assert seeds == [4, 4, 4, 3, 4, 4, 3]  # four pairs in quality, three in balance, one seed lost
    files = {
        str(p.relative_to(confirmed_report.parent)) for p in confirmed_report.parent.rglob("*")
    }
    assert files == {
        "README.md",
        "report.html",
        *("paper", "paper/forest.svg", "paper/pareto.svg"),
    }


def test_the_readme_of_a_confirmed_study_has_verdict_and_pairs(confirmed_report):
    text = (confirmed_report.parent / "README.md").read_text()
    assert "\n\nConfirmed on 3 to 4 fresh paired seeds:\n\n- dense, bits per byte: " in text
    row = (
        r"^\| two_level \| test/bits_per_byte \| better \| \u2212[\d.]+ \[.*\] \| 0\.02 \| 4 of 4 "
    )
    assert re.search(row, text, re.M)
    assert re.search(r"^\| company \|.*\| 3 of 4 \(lost: 1000\) \|", text, re.M)
    assert "- deviation from the registration: budget.trials" in text
    assert "\n\n\n" not in text


def test_runs_made_under_different_commits_show_a_red_banner():
    commits = [{"mlflow.source.git.commit": c * 40} for c in "ab"]
    runs = [make_run("a", 1.0, seed=i, tags=tags) for i, tags in enumerate(commits)]
    assert "Not made alike" in html(make_study(runs))
    assert "**Not made alike:** runs differ in git commits: aaaa" in readme(make_study(runs))
    assert "Not made alike" not in html(make_study(runs[:1]))


def test_names_are_escaped_everywhere():
    loads = {"level_0": level([EVIL, IMG], [0.5, 0.5], [0.5, 0.5])}
    run = make_run(
        EVIL,
        1.0,
        0.5,
        name=EVIL,
        tree=IMG,
        command=f"hmoe train {EVIL}",
        params={EVIL: IMG},
        swept=(EVIL,),
        level_loads=loads,
        history={"val/loss": curve(3, 2)},
        tags={"hmoe.reason": IMG, "hmoe.versions": json.dumps({EVIL: IMG})},
    )
    confirms = [
        make_run(arm, kind="confirm", seed=seed, name=EVIL, metrics={"final/test/loss": 1.0 + seed})
        for arm in (EVIL, IMG)
        for seed in (8, 9)
    ]
    other = make_run(IMG, state="failed", params={EVIL: "1"}, tags={"hmoe.reason": EVIL})
    dense = make_run(EVIL + "2", 2.0)
    study = make_study(
        [run, other, dense, *confirms],
        name=EVIL,
        question=IMG,
        command=EVIL,
        contract=Contract("active_params", IMG, 0.02),
        confirmation=Confirmation(2, {"val/loss": 0.1}, 0.05, ()),
        tags={"hmoe.deviations": json.dumps([EVIL])},
    )
    text = html(study).replace(get_plotlyjs(), "")
    assert text.count("<script>") == 2
    assert "<img" not in text
    assert EVIL not in text

    def strings(node):
        if isinstance(node, dict):
            node = [*node, *node.values()]
        if isinstance(node, list):
            return [s for item in node for s in strings(item)]
        return [node] if isinstance(node, str) else []

    # Plotly would read tags in labels, so they are escaped inside the data too.
    labels = strings(figures(text))
    assert any("&lt;script&gt;" in s for s in labels)
    shown = [
        s for s in labels if s not in (EVIL, IMG, EVIL + "2")
    ]  # groups of legends are not shown
    assert not any("<script" in s or "<img" in s for s in shown)

    brief = readme(replace(study, command="hmoe sweep"))
    assert EVIL not in re.sub(r"^    hmoe train .*$", "", brief, flags=re.M)
    assert "<img" not in brief


def test_the_readme_is_brief_and_has_a_row_per_arm(report):
    text = (report.parent / "README.md").read_text()
    assert len(text.splitlines()) < 50
    assert text.startswith("# fake\n\nDoes a tree of gates")
    assert re.search(
        r"^\| two_level \| 4x4 \| 411\u202f904 \| 3.complete, 1.interrupted \|", text, re.M
    )
    assert "**Not comparable:** active_params differs by more than 2.00\u202f%" in text
    assert "company (+3.34\u202f%)." in text
    assert "    hmoe sweep sweep=fake workers=2\n" in text
    assert "\n\n\n" not in text


def test_a_study_without_results_still_has_a_report():
    study = make_study([make_run("a", state="failed", cost={})], objectives=(), contract=None)
    assert "no answer yet" in html(study)
    assert "no answer yet" in readme(study)


def test_an_unknown_study_is_refused_and_nothing_written(report, tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'fake'"):
        write_report(report.parent.parent / "runs", "fakes", tmp_path / "out")
    assert not (tmp_path / "out").exists()
