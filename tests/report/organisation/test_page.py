"""The page of an organisation: whole, bounded, escaped, and what a study's report shows of it."""

import json
import re
from dataclasses import replace

import plotly.graph_objects as go
import pytest

from hmoe.errors import ConfigError
from hmoe.report.organisation import organisation_page, views, write_organisation
from hmoe.report.organisation.chapter import arm_chapters, arm_words, organisation_chapter
from hmoe.report.page import html, readme
from tests.report.hand import make_run, make_study
from tests.report.organisation.records import make_record

EVIL = "<img src=http://evil.example/x>"


def figures(page):
    return json.loads(re.search(r"^const later = (.*);$", page, re.M)[1])


def own(page):
    """The page without plotly.js."""
    return re.sub(r"<script>/\*\*.*?</script>", "", page, flags=re.S)


@pytest.fixture(scope="module")
def written(named, tmp_path_factory):
    return write_organisation(named, tmp_path_factory.mktemp("organisation"), paper=True)


def test_page_readme_and_prints(written) -> None:
    page, readme = written.read_text(), (written.parent / "README.md").read_text()
    for text in (page, readme):
        assert "AMI of k-means" in text
        assert "departments" in text
    assert "<code>package</code>" in page
    assert "`package`" in readme
    prints = {path.name for path in (written.parent / "paper").iterdir()}
    assert {
        "blocks.0.ffn.chart.svg",
        "blocks.0.ffn.load.svg",
        "blocks.0.ffn.package.matrix.svg",
        "blocks.1.ffn.half.information.svg",
    } <= prints
    chart = (written.parent / "paper" / "blocks.0.ffn.chart.svg").read_text()
    assert ">science</text>" in chart


def test_a_chapter_a_layer_of_which_the_first_is_open(written) -> None:
    page = own(written.read_text())
    assert re.findall(r"<details( open)?><summary>([\w.]+)", page) == [
        (" open", "blocks.0.ffn"),
        ("", "blocks.1.ffn"),
    ]
    assert len(written.read_text()) < 8 * 2**20


def test_every_figure_has_its_place_and_is_valid(written) -> None:
    page = written.read_text()
    drawn = figures(page)
    assert len(drawn) == 28
    places = re.findall(r'class="figure" id="([\w-]+)"', page)
    assert sorted(places) == sorted(drawn)
    for figure in drawn.values():
        go.Figure(figure)


def test_figures_stay_small_with_many_experts(huge) -> None:
    chapter = organisation_chapter(views(huge)[:1], "x")
    sizes = {p.title: len(json.dumps(chapter.figures[p.id])) for p in chapter.pictures}
    assert len(sizes) == 13
    assert max(sizes.values()) < 300_000, sizes


def test_a_single_moment_and_no_label_leave_out_their_figures() -> None:
    record = make_record([4], rows=100, moments=0)
    bare = replace(
        record.layers[0], knowledge=(), recall={}, policy_loss={}, decomposition={}, coactivation={}
    )
    chapter = organisation_chapter(views(replace(record, layers=(bare,))), "x")
    assert [picture.title for picture in chapter.pictures] == [
        "Organisation chart",
        "Who is missed",
    ]


def test_names_from_users_are_escaped() -> None:
    record = make_record([4], rows=100)
    known = replace(
        record.layers[0].knowledge[0], label=EVIL, values=tuple(EVIL + str(i) for i in range(12))
    )
    layer = replace(record.layers[0], name=EVIL, knowledge=(known,))
    page = organisation_page([replace(record, run=EVIL, arm=EVIL, split=EVIL, layers=(layer,))])
    assert EVIL not in page.replace("\\u003c", "<").replace("\\u003e", ">")
    assert "&lt;img" in page


def test_the_page_loads_nothing(written) -> None:
    page = own(written.read_text())
    assert not re.search(r"<\w[^>]*\s(src|href|action|data|poster|srcset)\s*=", page)
    assert not re.search(r"https?://|@import|url\(|fetch\(|XMLHttpRequest", page)
    assert "default-src 'none'" in page


def test_nothing_to_draw_is_an_error() -> None:
    with pytest.raises(ConfigError, match="expected the inspection of a run"):
        organisation_page([])
    with pytest.raises(ConfigError, match="no mixture layer"):
        organisation_page([make_record([4], rows=50, layers=0)])


def test_a_study_shows_arms_that_were_inspected(named) -> None:
    runs = [make_run("tree", 1.0, seed=seed) for seed in range(3)] + [make_run("flat", 2.0)]
    study = make_study(runs)
    inspections = {f"tree/{seed}": each for seed, each in enumerate(named)}
    page = html(study, inspections)
    assert "<h2>Organisation</h2>" in page
    assert set(re.findall(r'id="(arm[\w-]+)"', page)) == set(figures(page)) != set()
    assert "Tables are over 3 runs" in page
    brief = readme(study, inspections)
    (told,) = [line for line in brief.splitlines() if line.startswith("- **tree** (")]
    ((_, view, words),) = arm_words(study, inspections)
    assert f"{view.layer.name}, seed {view.inspection.seed}" in told
    assert words in told
    assert "What the routers do" not in readme(study)
    without = html(study)
    assert "<h2>Organisation</h2>" not in without
    assert figures(without) == {}


def test_confirming_runs_go_before_trials_and_dense_arms_have_no_chapter(named) -> None:
    runs = [
        make_run("tree", 1.0, seed=0),
        make_run("tree", 1.0, seed=1, kind="confirm"),
        make_run("dense", 1.0),
    ]
    dense = replace(named[2], layers=())
    found = arm_chapters(
        make_study(runs), {"tree/0": named[0], "tree/1": named[1], "dense/0": dense}
    )
    assert [(arm, chapter.inspection.seed, chapter.runs) for arm, chapter in found] == [
        ("tree", 1, 1)
    ]


def test_a_run_asked_about_other_tokens_is_left_out_and_named(named) -> None:
    runs = [make_run("tree", 1.0, seed=seed) for seed in range(3)]
    found = [named[0], replace(named[1], tokens="others"), named[2]]
    inspections = {f"tree/{seed}": each for seed, each in enumerate(found)}
    ((_, chapter),) = arm_chapters(make_study(runs), inspections)
    assert chapter.runs == 2
    assert chapter.agreement[0].pairs == 1
    said = f"{named[1].run} (inspected on other tokens: 4 000 of val)"
    assert chapter.left_out.replace("\u202f", " ") == said
    assert f"Left out: {chapter.left_out}." in html(make_study(runs), inspections)
