"""`fit`: what it writes, the numbers by hand, what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from hmoe.config import compose, digest
from hmoe.errors import ConfigError
from hmoe.training import fit
from hmoe.training.em import convergence_epoch, relative_error, summary

QUICK = ("em.epochs=4", "tree.spec=[2,2]", "data.val_share=0.2")


def fit_in(folder: Path, *overrides: str) -> tuple[dict[str, Any], list[Any]]:
    shown: list[Any] = []
    result = fit(
        compose([*QUICK, *overrides], root="em"),
        folder,
        command="hmoe em",
        show=lambda left, epoch: shown.append((left, epoch)),
    )
    return result, shown


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs") / "run"


@pytest.fixture(scope="module")
def fitted(folder: Path) -> tuple[dict[str, Any], list[Any]]:
    return fit_in(folder)


def test_result_json_holds_what_fit_returns(fitted: Any, folder: Path) -> None:
    result, shown = fitted
    assert json.loads((folder / "result.json").read_text()) == result
    assert (folder / "config.yaml").exists()
    assert shown == list(zip([4, 3, 2, 1, 0], result["epochs"], strict=True))
    assert result["config_digest"] == digest(compose(QUICK, root="em"))
    assert result["rows"] == {"train": 12_000, "val": 3_000, "test": 5_000}
    # Six nodes of 12 weights and an intercept, four experts of 4 such, 4 variances each.
    assert result["params"] == 6 * 13 + 4 * 13 * 4 + 4 * 4
    assert {"git_commit", "versions", "hardware", "seed", "data_digest"} <= set(result)


def test_the_likelihood_rises_from_the_linear_model_on(fitted: Any) -> None:
    result, _ = fitted
    likelihoods = [epoch["log_likelihood"] for epoch in result["epochs"]]
    assert likelihoods == sorted(likelihoods)
    assert result["baselines"]["linear/test/relative_error"] == pytest.approx(0.31, abs=0.02)
    assert result["metrics"]["test/relative_error"] < 0.3


def test_a_run_is_a_function_of_its_seed(fitted: Any, tmp_path: Path) -> None:
    result, _ = fitted
    assert fit_in(tmp_path / "again")[0]["epochs"] == result["epochs"]
    other = fit_in(tmp_path / "other", "seed=1")[0]["epochs"]
    assert other[0] == pytest.approx(result["epochs"][0])
    assert other[-1] != result["epochs"][-1]


def test_the_test_rows_are_left_alone_if_so_wished(tmp_path: Path) -> None:
    result, _ = fit_in(tmp_path / "run", "test=false", "em.epochs=1")
    assert set(result["epochs"][0]) == {"log_likelihood", "val/relative_error"}
    assert set(result["convergence_epochs"]) == {"val"}


def test_relative_error_by_hand() -> None:
    """Training mean 2; targets 1 and 5 miss it by 1 and 9, the answers miss them by 1 and 1."""
    output, y, train_y = (torch.tensor(v)[:, None] for v in ([2.0, 4.0], [1.0, 5.0], [0.0, 4.0]))
    assert relative_error(output, y, train_y) == pytest.approx(2 / 10)


def test_summary_by_hand() -> None:
    val, test = (0.5, 0.2, 0.3, 0.4), (0.6, 0.5, 0.105, 0.1)
    epochs = [
        {"log_likelihood": n, "val/relative_error": v, "test/relative_error": t}
        for n, (v, t) in enumerate(zip(val, test, strict=True))
    ]
    assert summary(epochs) == {
        "log_likelihood": 3,
        "val/relative_error": 0.4,
        "test/relative_error": 0.1,
        "best/val/relative_error": 0.2,
        "best/test/relative_error": 0.1,
        "test/relative_error_at_best_val": 0.5,
    }
    assert [convergence_epoch(epochs, split) for split in ("val", "test")] == [1, 2]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data=digits", "data.test_share=0.2"], r"data = Digits: .* ask for classification\. Use"),
        (["data=stdlib"], r"data = Stdlib: EM fits vectors, and these are tokens\. Use data=rob"),
        (["em.epochs=0"], r"em\.epochs = 0: must be at least 1"),
        (["em.variance=full"], r"em\.variance=full: one of expert, shared is expected"),
        (["em.epoch=3"], r"em\.epoch=3: no such key\. Did you mean 'em\.epochs'\?"),
        (["gate=top_down"], r"gate=top_down: cannot compose: Could not override 'gate'"),
        (["seed=-1"], r"seed=-1: must be greater than or equal to 0"),
    ],
)
def test_what_cannot_be_fitted_is_refused_and_leaves_nothing(
    overrides: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        fit(compose(overrides, root="em"), tmp_path / "run", command="", show=lambda *_: None)
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_gone_on_with_under_other_settings(fitted: Any, folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"started with other settings:\n  em\.epochs: 4 -> 5"):
        fit_in(folder, "em.epochs=5")
