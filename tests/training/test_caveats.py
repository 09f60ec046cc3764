"""What a reader of a run must know: which choices let later tokens change earlier answers."""

import pytest

from hmoe.config import compose
from hmoe.training.train import assemble, caveats

TEXT = ["data=stdlib", "model=transformer"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["selection=expert_choice"], "tokens compete for experts"),
        (["selection.capacity=1.25"], "tokens compete for places"),
        (["ffn@model.ffn=soft_moe", "tree=flat"], "mixes all tokens"),
    ],
)
def test_what_is_not_causal_says_so_on_text_alone(overrides: list[str], words: str) -> None:
    (note,) = caveats(assemble(compose([*TEXT, *overrides]), device="meta"))
    assert words in note
    assert "not those of a causal model" in note
    assert caveats(assemble(compose(overrides), device="meta")) == []


def test_a_causal_run_has_nothing_to_say() -> None:
    assert caveats(assemble(compose(TEXT), device="meta")) == []
