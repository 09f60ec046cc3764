"""fit(cfg): the classic mixture fitted by EM, from a configuration to result.json.

Errors are relative: mean squared error over that of the training mean, so 1 is no better than
knowing nothing. Convergence is the first epoch whose error is within 5 % of the least of all epochs
(Jordan & Jacobs 1994, table 1, on the test rows); epoch 0 is the linear model.

Letters: T rows, C features with the constant, O targets.
"""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig
from torch import Tensor

from hmoe.classics import em_step, start, with_constant
from hmoe.config import build, check, digest, locate
from hmoe.data import StreamData
from hmoe.data.loader import Split
from hmoe.errors import ConfigError
from hmoe.files import write_atomically
from hmoe.training.folder import run_folder
from hmoe.training.train import provenance

_WITHIN = 1.05


class Rows(NamedTuple):
    """All rows of a split, float64: features with the constant (T, C), targets (T, O)."""

    x_TC: Tensor
    y_TO: Tensor


def fit(
    cfg: DictConfig, run: Path, *, command: str, show: Callable[[int, dict[str, float]], None]
) -> dict[str, Any]:
    """Fit one configuration in a run folder and return what result.json holds.

    Args:
        cfg: composed from conf/em.yaml.
        run: the run folder; made if missing, once all input has proved sound.
        command: the shell command that repeats this run.
        show: called after every epoch with the number still to come and its figures, by name.

    Raises:
        ConfigError, DataError: bad input, or a folder that cannot be used, before any step.
    """
    started = time.time()
    data = _data(cfg)
    tree, options = build(cfg.tree), build(cfg.em)
    data.setup()
    train = all_rows(data, "train")
    scored: Sequence[Split] = ("val", "test") if cfg.test else ("val",)
    rows = {split: all_rows(data, split) for split in scored}
    with run_folder(cfg, run):
        generator = torch.Generator().manual_seed(cfg.seed)
        model = start(tree, *train, options, generator)
        epochs: list[dict[str, float]] = []
        for epoch in range(options.epochs + 1):
            if epoch > 0:
                model = em_step(model, *train, options)
            errors = {
                f"{split}/relative_error": relative_error(
                    model.predict(part.x_TC), part.y_TO, train.y_TO
                )
                for split, part in rows.items()
            }
            epochs.append({"log_likelihood": model.log_likelihood(*train)} | errors)
            show(options.epochs - epoch, epochs[-1])
        parameters = (model.gate_NC, model.expert_ECO, model.variance_EO)
        result = {
            "state": "complete",
            "metrics": summary(epochs),
            "convergence_epochs": {key: convergence_epoch(epochs, key) for key in rows},
            "epochs": epochs,
            "baselines": {f"linear/{key}": value for key, value in epochs[0].items()},
            "params": sum(p.numel() for p in parameters),
            "rows": {split: len(part.y_TO) for split, part in {"train": train, **rows}.items()},
            "tree": str(tree),
            "config_digest": digest(cfg),
            "data_digest": data.digest,
            "seed": cfg.seed,
            "started": started,
            "ended": time.time(),
            "command": command,
            **provenance(),
        }
        write_atomically(run / "result.json", json.dumps(result, indent=1))
    return result


def summary(epochs: Sequence[dict[str, float]]) -> dict[str, float]:
    """Last and best value of every error, and the last log-likelihood.

    "best/test" stops on the test rows, as the paper does; "test/relative_error_at_best_val" is the
    test error of the epoch that the validation rows choose.
    """
    metrics = dict(epochs[-1])
    for key in [key for key in epochs[0] if key.endswith("relative_error")]:
        metrics[f"best/{key}"] = min(epoch[key] for epoch in epochs)
    if "test/relative_error" in metrics:
        chosen = min(epochs, key=lambda epoch: epoch["val/relative_error"])
        metrics["test/relative_error_at_best_val"] = chosen["test/relative_error"]
    return metrics


def convergence_epoch(epochs: Sequence[dict[str, float]], split: str) -> int:
    """The first epoch whose error on a split is within 5 % of the least."""
    curve = [epoch[f"{split}/relative_error"] for epoch in epochs]
    return next(n for n, value in enumerate(curve) if value <= _WITHIN * min(curve))


def relative_error(output_TO: Tensor, y_TO: Tensor, train_y_TO: Tensor) -> float:
    """Mean squared error over that of the mean of the training targets."""
    baseline = (y_TO - train_y_TO.mean(0)).square().mean()
    return ((output_TO - y_TO).square().mean() / baseline).item()


def all_rows(data: StreamData, split: Split) -> Rows:
    """One pass over a split, as one piece."""
    batches = list(data.pass_over(split))
    x_TD, y_TO = (torch.cat([batch[key] for batch in batches]) for key in ("x", "y"))
    return Rows(with_constant(x_TD), y_TO.double())


def _data(cfg: DictConfig) -> StreamData:
    """The data module, not yet read; raise ConfigError unless EM can fit what it holds."""
    kind = locate("data", cfg.data._target_)
    advice = "Use data=robot_arm or another set of vectors with values to predict."
    if kind.input_kind != "vectors":
        raise ConfigError(
            f"data = {kind.__name__}: EM fits vectors, and these are {kind.input_kind}. {advice}"
        )
    check(cfg)
    data = build(cfg.data)
    if data.task != "regression":
        raise ConfigError(
            f"data = {kind.__name__}: the experts of EM answer with values, and these data ask for "
            f"{data.task}. {advice}"
        )
    return data
