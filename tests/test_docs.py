"""docs/: links lead somewhere, and no finding stands without its report."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
LINK = re.compile(r"\]\(([^)#]+)[^)]*\)")


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if ":" not in link]
    assert [link for link in links if not (DOCS / link).exists()] == []


def test_every_finding_of_the_answer_has_its_report() -> None:
    """A finding is an item of a list or a line of a table with a number in it."""
    text = (DOCS / "answer.md").read_text(encoding="utf-8")
    text = text.partition("\n## What is open")[0]
    items = re.findall(r"^(?:- |\| )(?!claim|---).*(?:\n  .*)*", text, flags=re.MULTILINE)
    findings = [item for item in items if re.search(r"\d\d", item)]
    assert len(findings) > 5
    assert [item for item in findings if "](../reports/" not in item] == []
