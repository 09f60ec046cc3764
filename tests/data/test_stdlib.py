"""Stdlib: which files belong to it, how they are split and named, and one look at the real one."""

from pathlib import Path
from typing import Any

import pytest
import torch

from hmoe.data import Stdlib, baselines, gzip_bits_per_byte, stdlib
from hmoe.data.loader import Split
from hmoe.data.stdlib import domain_of, is_library_source, split_of
from hmoe.errors import DataError

SHARES: dict[Split, float] = {"val": 0.1, "test": 0.1}


def make(**changes: Any) -> Stdlib:
    given = {"batch_size": 4, "context": 16, "seed": 0, "val_share": 0.1, "test_share": 0.1}
    return Stdlib(**(given | {"vocabulary": None, "eval_bytes": 4096} | changes))


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a small library of 40 single modules and a package, in the place of the real one."""
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / "__init__.py").write_text("import json.decoder\n" * 9)
    (tmp_path / "json" / "decoder.py").write_text("class JSONDecoder: ...\n" * 9)
    (tmp_path / "json" / "notes.txt").write_text("no source\n" * 9)
    for number in range(40):
        (tmp_path / f"module{number}.py").write_text(f"x = {number}\n" * 20)
    monkeypatch.setattr(stdlib, "stdlib_root", lambda: tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "path", ["abc.py", "json/decoder.py", "unittest/case.py", "doctest.py", "idlelib/config.py"]
)
def test_library_modules_are_in(path: str) -> None:
    assert is_library_source(path)


@pytest.mark.parametrize(
    "path",
    [
        "LICENSE.txt",
        "lib2to3/Grammar.txt",
        "site-packages/numpy/__init__.py",
        "dist-packages/apt/cache.py",
        "test/test_abc.py",
        "lib2to3/tests/test_parser.py",
        "idlelib/idle_test/test_run.py",
        "unittest/test/test_case.py",
        "config-3.11-x86_64-linux-gnu/python-config.py",
        "_sysconfigdata__linux_x86_64-linux-gnu.py",
        "pydoc_data/topics.py",
        "json/__pycache__/decoder.py",
    ],
)
def test_tests_installed_and_generated_files_are_out(path: str) -> None:
    assert not is_library_source(path)


@pytest.mark.parametrize(
    ("path", "domain"),
    [
        ("abc.py", ("modules", "abc")),
        ("json/__init__.py", ("json", "json")),
        ("json/decoder.py", ("json", "json.decoder")),
        ("email/mime/text.py", ("email", "email.mime.text")),
        ("email/mime/__init__.py", ("email", "email.mime")),
    ],
)
def test_domains_are_package_and_module(path: str, domain: tuple[str, str]) -> None:
    assert domain_of(path) == domain


def test_split_follows_the_hash_of_the_path() -> None:
    # SHA-256 of "a" begins ca97.., of "h" aaa9.., so at 0.79 and 0.67 of the way; "b" 3e23, 0.243.
    shares: dict[Split, float] = {"val": 0.2, "test": 0.1}
    assert [split_of(path, shares) for path in ("a", "h", "b")] == ["train", "train", "test"]


def test_splits_have_about_their_shares_of_many_files() -> None:
    splits = [split_of(f"package/module{number}.py", SHARES) for number in range(4000)]
    for split in SHARES:  # 400 expected, standard deviation 19
        assert 300 < splits.count(split) < 500


def test_a_new_file_moves_no_other(library: Path) -> None:
    before = {piece.path: piece.split for piece in make()._pieces()}
    (library / "added.py").write_text("y = 1\n")
    after = {piece.path: piece.split for piece in make()._pieces()}
    assert after.pop("added.py") == split_of("added.py", SHARES)
    assert after == before
    assert set(before.values()) == {"train", "val", "test"}


def test_bytes_carry_the_domain_of_their_file(library: Path) -> None:
    data = make(batch_size=64)
    packages, modules = data.domain_names
    assert packages == ("json", "modules")
    assert len(modules) == 42
    met = set()
    for step in range(10):
        batch = data.train_batch(step)
        assert batch["domain"].shape == (64, 16, 2)
        for window, domain in zip(batch["x"], batch["domain"], strict=True):
            text = bytes(window.tolist())
            for package, module in domain.unique(dim=0).tolist():
                met.add((packages[package], modules[module]))
                source = library.joinpath(*modules[module].split("."))
                file = source / "__init__.py" if source.is_dir() else source.with_suffix(".py")
                (places,) = (domain[:, 1] == module).nonzero(as_tuple=True)
                assert text[places[0] : places[-1] + 1] in file.read_bytes()
    pieces = make()._pieces()
    assert met <= {piece.domain for piece in pieces if piece.split == "train"}
    assert len(met) > 20


def test_digest_changes_with_a_byte_and_not_with_the_order_of_writing(library: Path) -> None:
    before = make().digest
    path = library / "module7.py"
    content = path.read_text()
    path.unlink()
    path.write_text(content)
    assert make().digest == before
    path.write_text("y" + content[1:])
    assert make().digest != before


def test_a_python_without_sources_is_named(library: Path) -> None:
    for path in library.rglob("*.py"):
        path.unlink()
    with pytest.raises(DataError, match=r"expected sources of the standard library.*zip file"):
        make().setup()


def test_the_real_library_is_a_language() -> None:
    data = make(context=256, eval_bytes=65536)
    assert {"json", "email", "asyncio", "modules"} <= set(data.domain_names[0])
    assert {"json.decoder", "email.mime.text", "typing"} <= set(data.domain_names[1])
    assert data.eval_windows("val").shape == (256, 257)
    assert len(data.train_tokens) > 5_000_000
    bits = baselines(data)
    assert bits.keys() == {"order_0", "order_2", "gzip_9"}
    predicted = torch.cat([batch["y"] for batch in data.val_dataloader()])
    assert bits["gzip_9"] == gzip_bits_per_byte(bytes(predicted.reshape(-1).tolist()))
    # Two bytes of history are worth more than a bit a byte in any such text.
    assert 1 < bits["order_2"] < bits["order_0"] - 1 < 5
