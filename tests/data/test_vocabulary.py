"""Vocabularies: pairs learnt by hand, every byte comes back, the same text gives the same."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hmoe.data import Text, baselines
from hmoe.data.vocabulary import BytePairs, Bytes
from hmoe.errors import ConfigError

LINE = "Wer reitet so spät durch Nacht und Wind? Es ist der Vater mit seinem Kind.\n"
PROSE = LINE.encode() * 40
LEARNT = BytePairs(content=PROSE, size=300)


def test_the_most_frequent_pair_inside_words_comes_first() -> None:
    # Words "ab" (twice), " ab" (four times) and " b": a-b occurs six times, then " "-ab four times.
    learnt = BytePairs(content=b"ab ab ab b\nab ab ab", size=258)
    assert learnt.tokens[256:] == [b"ab", b" ab"]
    assert learnt.encode(b"ab ab b").tolist() == [256, 257, 32, 98]


def test_the_first_tokens_are_the_bytes() -> None:
    assert list(LEARNT.tokens[:256]) == list(Bytes.tokens)
    assert len(LEARNT.tokens) == len(set(LEARNT.tokens)) == 300


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_come_back(content: bytes) -> None:
    assert LEARNT.decode(LEARNT.encode(content).tolist()) == content
    assert Bytes().decode(Bytes().encode(content).tolist()) == content


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300))
def test_any_text_comes_back(text: str) -> None:
    assert LEARNT.decode(LEARNT.encode(text.encode()).tolist()).decode() == text


def test_what_is_learnt_from_bytes_that_are_no_utf_8_comes_back() -> None:
    noise = random.Random(0).randbytes(5000)
    learnt = BytePairs(content=noise + b"\xff\xfe\xc3" * 500, size=300)
    for content in (noise, b"\xff\xfe\xc3\xff", PROSE, b"\x00\x85\xa0 \x1c"):
        assert learnt.decode(learnt.encode(content).tolist()) == content


def test_text_that_was_learnt_is_shorter_in_tokens() -> None:
    assert len(LEARNT.encode(PROSE)) < len(PROSE) / 1.5
    assert LEARNT.encode(PROSE).max() < 300


def test_the_same_text_gives_the_same_tokens() -> None:
    assert BytePairs(content=PROSE, size=300).tokens == LEARNT.tokens
    assert BytePairs(content=PROSE[::-1], size=300).tokens != LEARNT.tokens


def test_a_text_with_too_few_pairs_leaves_tokens_without_bytes() -> None:
    learnt = BytePairs(content=b"abab", size=300)
    assert b"" in learnt.tokens
    assert learnt.decode([256, 299]) == learnt.tokens[256]


def test_of_a_long_text_slices_from_all_over_are_read() -> None:
    # 8 MiB, of which the end has a word of its own; a quarter of it must be read.
    content = b"left " * 2**20 + b"right " * 2**19
    assert b" right" in BytePairs(content=content, size=300).tokens


@pytest.mark.parametrize("size", [0, 1, 256])
def test_too_small_a_vocabulary_is_refused(size: int) -> None:
    with pytest.raises(ConfigError, match=rf"data\.vocabulary={size}: must be null.*more than 256"):
        BytePairs(content=PROSE, size=size)


# ------------------------------------------------------------------- in a set of text


def make(path: Path, vocabulary: int | None, **changes: object) -> Text:
    given: dict[str, object] = {"root": str(path), "suffixes": None, "batch_size": 3, "context": 8}
    given |= {"seed": 0, "val_share": 0.1, "test_share": 0.1, "eval_bytes": 100_000}
    return Text(vocabulary=vocabulary, **(given | changes))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "erlking").write_bytes(PROSE)
    return tmp_path / "erlking"


def test_windows_are_of_tokens_learnt_from_the_training_text_alone(path: Path) -> None:
    data = make(path, 280)
    cut = len(PROSE) - 2 * round(0.1 * len(PROSE))
    own = BytePairs(content=PROSE[:cut], size=280)
    assert data.vocabulary.tokens == own.tokens
    assert data.train_tokens.tolist() == own.encode(PROSE[:cut]).tolist()
    assert (data.in_dim, data.out_dim, data.task) == (280, 280, "next_token")
    batch = data.train_batch(0)
    assert batch["x"].shape == (3, 8)
    assert batch["x"].dtype == torch.int64
    assert torch.equal(batch["x"][:, 1:], batch["y"][:, :-1])


def test_bytes_stay_what_they_were(path: Path) -> None:
    data = make(path, None)
    assert (data.in_dim, data.out_dim, data.task) == (256, 256, "next_byte")
    assert data.train_tokens.dtype == np.uint8
    assert torch.equal(data.token_bytes, torch.ones(256, dtype=torch.int64))
    assert set(baselines(data)) == {"order_0", "order_2", "gzip_9"}


def test_an_evaluation_is_of_about_as_many_bytes_whatever_the_tokens(path: Path) -> None:
    for vocabulary in (None, 280, 400):
        data = make(path, vocabulary, val_share=0.5, test_share=0.2, eval_bytes=800)
        lengths = data.token_bytes.numpy()
        predicted = lengths[data.eval_windows("val")[:, 1:]].sum()
        assert 700 <= predicted <= 900


def test_the_vocabulary_belongs_to_the_digest(path: Path) -> None:
    digests = {make(path, size).digest for size in (None, 280, 300)}
    assert len(digests) == 3
    assert make(path, 280).digest in digests


def test_tokens_are_labels_by_name(path: Path) -> None:
    data = make(path, 280)
    names = data.label_names["token"]
    assert names[ord("a")] == "a"
    assert names[256] == repr(data.vocabulary.tokens[256])[2:-1]
    batch = data.train_batch(0)
    assert torch.equal(data.labels(batch)["token"], batch["x"].flatten())
    assert "byte" not in data.label_names
