"""What a model of text writes: the same for a seed, whole characters, words after a while."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import hmoe.inspection
from hmoe import cli
from hmoe.errors import ConfigError
from hmoe.inspection import TrainedRun, generate, load_run
from tests.tiny import train_in

WORDS = ["Wer", "reitet", "so", "spät", "durch", "Nacht", "und", "Wind", "der", "Vater", "Kind"]
NETWORK = [
    *("data=text", "data.context=16", "data.eval_bytes=64", "data.batch_size=8"),
    *("model=transformer", "model.depth=1", "model.num_heads=2", "model.ffn_blocks=[0]"),
    "model.plain_ffn.experts.hidden_dim=16",
]


def write_text(path: Path) -> Path:
    words = [WORDS[number * number % 97 % len(WORDS)] for number in range(1000)]
    path.write_text(" ".join(words), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Run folders after a few steps: of bytes, of byte pairs, a dense one, and one of digits."""
    root = tmp_path_factory.mktemp("runs")
    text = write_text(root / "text")
    plain = [*NETWORK, f"data.root={text}", "trainer.max_steps=4", "test=false"]
    train_in(root / "bytes", *plain)
    train_in(root / "pairs", *plain, "data.vocabulary=300")
    train_in(root / "dense", *plain, "model=transformer_dense", "balance=none")
    train_in(root / "digits", "trainer.max_steps=4", "test=false")
    return {name: root / name for name in ("bytes", "pairs", "dense", "digits")}


def written(run: TrainedRun, prompt: bytes = b"Wer", **changes: Any) -> bytes:
    plain: dict[str, Any] = {"tokens": 20, "temperature": 0.8, "top_k": None, "seed": 0}
    return b"".join(generate(run, prompt, **(plain | changes)))


@pytest.mark.parametrize("name", ["bytes", "pairs", "dense"])
def test_a_seed_says_it_again_and_another_says_something_else(
    folders: dict[str, Path], name: str
) -> None:
    run = load_run(folders[name])
    assert written(run) == written(run)
    assert written(run) != written(run, seed=1)
    count = sum(1 for _ in generate(run, b"W", tokens=7, temperature=1.0, top_k=None, seed=0))
    assert count == 7


def test_without_heat_the_likeliest_token_comes_every_time(folders: dict[str, Path]) -> None:
    run = load_run(folders["bytes"])
    read = list(b"Wer")
    for _ in range(20):  # the window has 16 places, so the last ones are of its end alone
        output, _ = run.model(torch.tensor([read[-16:]]))
        read.append(int(output[0, -1].argmax()))
    assert written(run, temperature=0) == bytes(read[3:])
    assert written(run, temperature=0, seed=5) == bytes(read[3:])
    assert written(run, top_k=1, seed=5) == bytes(read[3:])


def test_only_the_likeliest_tokens_are_among_the_samples(folders: dict[str, Path]) -> None:
    run = load_run(folders["bytes"])
    output, _ = run.model(torch.tensor([list(b"Wer")]))
    likely = set(output[0, -1].topk(3).indices.tolist())
    first = {written(run, tokens=1, top_k=3, temperature=50.0, seed=n)[0] for n in range(60)}
    assert first == likely


def test_tokens_without_a_meaning_are_never_written(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"ab " * 500)  # has hardly any pairs, so most tokens are empty
    plain = [*NETWORK, f"data.root={tmp_path / 'text'}", "data.vocabulary=2000"]
    train_in(tmp_path / "run", *plain, "trainer.max_steps=1", "test=false")
    run = load_run(tmp_path / "run")
    assert run.data.vocabulary.tokens.count(b"") > 1000
    pieces = generate(run, b"ab", tokens=50, temperature=5.0, top_k=None, seed=0)
    assert all(len(piece) > 0 for piece in pieces)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": b""}, r"--prompt: must hold some text"),
        ({"tokens": 0}, r"tokens = 0: must be at least 1"),
        ({"temperature": -1.0}, r"temperature = -1\.0: must be at least 0"),
        ({"top_k": 0}, r"top_k = 0: must be null or at least 1"),
    ],
)
def test_what_cannot_be_written_is_refused(
    folders: dict[str, Path], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        written(load_run(folders["bytes"]), **changes)


def test_data_that_are_no_text_are_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match=r"its data \(Digits\) are not text"):
        written(load_run(folders["digits"]))


# ------------------------------------------------------------------- the command


def says(capsys: pytest.CaptureFixture[str], *argv: str, status: int = 0) -> tuple[str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(["generate", *argv])
    assert ended.value.code == status
    return capsys.readouterr()


def test_the_command_writes_the_prompt_and_what_follows(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(folders["bytes"])
    wanted = written(load_run(folders["bytes"]), "spät = {".encode(), seed=3)
    for argv in (
        [folder, "tokens=20", "seed=3", "--prompt", "spät = {"],
        [folder, "--prompt", "spät = {", "tokens=20", "seed=3"],
    ):
        out, _ = says(capsys, *argv)
        assert out == "spät = {" + wanted.decode(errors="replace") + "\n"


def test_a_character_is_written_once_it_is_whole(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = [b"sp\xc3", b"\xa4t \xff", b"!\xc3"]
    monkeypatch.setattr(hmoe.inspection, "generate", lambda *args, **options: iter(pieces))
    out, _ = says(capsys, str(folders["bytes"]), "--prompt", "so ")
    assert out == "so spät \ufffd!\ufffd\n"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], r"--prompt: must hold some text to go on from"),
        (["--prompt", ""], r"--prompt: must hold some text to go on from"),
        (["--prompt", "x", "tokens=many"], r"tokens = many: expected a number"),
        (["--prompt", "x", "top_k=0.5"], r"top_k = 0\.5: expected a whole number, or null"),
        (["--prompt", "x", "--token", "3"], r"unrecognized arguments: --token"),
    ],
)
def test_mistakes_are_told(
    folders: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
    argv: list[str],
    message: str,
) -> None:
    out, err = says(capsys, str(folders["bytes"]), *argv, status=2)
    assert out == ""
    assert re.search(message, err)


@pytest.mark.slow
@pytest.mark.parametrize("vocabulary", ["null", "280"])
def test_after_a_while_it_writes_words(tmp_path: Path, vocabulary: str) -> None:
    text = write_text(tmp_path / "text")
    overrides = [*NETWORK, f"data.root={text}", f"data.vocabulary={vocabulary}", "model.dim=32"]
    train_in(tmp_path / "run", *overrides, "trainer.max_steps=300", "optim.lr=1e-2")
    text = written(load_run(tmp_path / "run"), tokens=200, temperature=0.5).decode(errors="replace")
    words = re.findall(r"[^\W\d_]+", text)[:-1]  # the last may be cut off
    assert len(words) > 15
    assert sum(word in WORDS for word in words) / len(words) > 0.8
