"""train(cfg): one run, from a configuration to result.json. Reads nothing but its arguments."""

import json
import logging
import os
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib.metadata import version
from math import isfinite
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from torch import nn

from hmoe.balance import Balance, mixture_layers
from hmoe.config import build, check, digest, locate
from hmoe.data import baselines
from hmoe.errors import ConfigError
from hmoe.files import write_atomically
from hmoe.layer import HMoE, SoftMoE, Tree, expert_choice
from hmoe.metrics import DROPPED, direction, load_statistics
from hmoe.models import MultiTask, cost
from hmoe.training.checkpoints import AtomicCheckpointIO, Checkpoints, latest
from hmoe.training.events import EventLog
from hmoe.training.folder import run_folder
from hmoe.training.learner import DivergedError, Learner, stretches
from hmoe.training.moments import MOMENTS
from hmoe.training.options import AdamW, TrainerOptions
from hmoe.training.process import spared_collection
from hmoe.training.progress import ProgressBar
from hmoe.training.tasks import Task, make_task


@dataclass(frozen=True)
class Parts:
    """What a configuration describes, built and checked before any data are read."""

    tree: Tree
    data: pl.LightningDataModule
    model: nn.Module
    task: Task
    balance: Balance
    optim: AdamW
    options: TrainerOptions

    def learner(self, run: Path) -> Learner:
        """The module that trains the model in a run folder."""
        return Learner(
            model=self.model,
            task=self.task,
            measures=self.task.measures(self.data),
            balance=self.balance,
            optim=self.optim,
            options=self.options,
            moments=run / MOMENTS,
        )


def assemble(cfg: DictConfig, device: str = "cpu") -> Parts:
    """Build every part of a run; `device="meta"` makes a model without memory, to work out costs.

    Raises:
        ConfigError: parts that are wrong in themselves or do not go together.
    """
    _check(cfg)
    tree = build(cfg.tree)
    data = build(cfg.data)
    make_model = build(cfg.model)
    with torch.device(device):
        model = make_model(in_dim=data.in_dim, out_dim=data.out_dim)
    for layer in mixture_layers(model):
        if layer.gate.merge == "stack" and not isinstance(model, MultiTask):
            raise ConfigError(
                "gate.merge = stack: gives every head an answer of its own, but this model has one "
                "answer. Use model=multi_task, gate.merge=mean or sum, or the layer in a model of "
                "yours (hmoe.build)."
            )
    balance = build(cfg.balance)
    balance.attach(model)
    task = make_task(data, build(cfg.loss), model)
    return Parts(tree, data, model, task, balance, build(cfg.optim), build(cfg.trainer))


def prepare(cfg: DictConfig) -> Parts:
    """The parts of a run as its process will use them: threads, seeds, data read, compiled.

    Raises:
        ConfigError, DataError: bad input.
    """
    options = build(cfg.trainer)
    if options.threads is not None:  # before the first operation makes a pool of them
        torch.set_num_threads(options.threads)
    pl.seed_everything(cfg.seed, verbose=False)
    parts = assemble(cfg)
    torch.set_float32_matmul_precision(options.matmul_precision)
    parts.data.setup()
    if options.compile:
        parts.model.compile()
    return parts


def train(
    cfg: DictConfig,
    run: Path,
    *,
    command: str,
    progress: bool,
    on_start: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Train one configuration in a run folder and return what result.json holds.

    A folder with checkpoints is gone on with: the run ends with the same weights as one that was
    never interrupted (on CPU, bit for bit). One process at a time trains in a folder.

    Args:
        cfg: composed configuration.
        run: the run folder; made if missing, once all input has proved sound.
        command: the shell command that repeats this run.
        progress: show a bar on standard error.
        on_start: called before the first step, when nothing can be wrong with the input any more.

    Raises:
        ConfigError, DataError: bad input, or a folder that cannot be used, before any step.
    """
    started = time.time()
    _check(cfg)
    parts = prepare(cfg)
    options, learner = parts.options, parts.learner(run)
    checkpoints = Checkpoints(folder=run / "checkpoints", options=options)
    notes = caveats(parts)
    with run_folder(cfg, run), spared_collection():
        on_start()
        if progress:
            print(*notes, sep="\n", end="\n" if notes else "", file=sys.stderr)
        trainer = make_trainer(options, run, [checkpoints, *([ProgressBar()] if progress else [])])
        state, reason = "complete", ""
        resumed_from = latest(run / "checkpoints")
        loads: dict[str, Any] = {}
        simple_models: dict[str, float] = {}
        with warnings.catch_warnings():
            # In-memory loaders have no use for worker processes; the rest is Lightning's concern.
            warnings.filterwarnings("ignore", module="pytorch_lightning")
            try:
                trainer.fit(
                    learner,
                    train_dataloaders=stretches(parts.data, trainer, options),
                    val_dataloaders=parts.data.val_dataloader(),
                    ckpt_path=resumed_from,
                    weights_only=True,
                )
                if learner.validated_at != trainer.global_step:
                    trainer.validate(learner, datamodule=parts.data, verbose=False)
                loads = learner.level_loads()
                if cfg.test:
                    trainer.test(learner, datamodule=parts.data, verbose=False)
                    simple_models = baselines(parts.data)
            except DivergedError as error:
                state, reason = "diverged", str(error)
                learner.final["diverged_at_step"] = float(trainer.global_step)
                print(reason, file=sys.stderr)
        model_cost = cost(parts.model)
        tokens = trainer.global_step * tokens_per_step(parts.data)
        result = {
            "state": state,
            "reason": reason,
            "caveats": notes,
            "metrics": learner.final | best(run / "events.jsonl"),
            "cost": asdict(model_cost)
            | {
                "train_flops": model_cost.train_flops(tokens),
                "tokens": tokens,
                "seconds": checkpoints.seconds(),
            },
            "tree": str(parts.tree),
            "level_loads": loads,
            "baselines": simple_models,
            "floor": dict(parts.data.floor),
            "config_digest": digest(cfg),
            "data_digest": parts.data.digest,
            "seed": cfg.seed,
            "steps": trainer.global_step,
            "threads": torch.get_num_threads(),
            "resumed_from": resumed_from.name if resumed_from else None,
            "started": started,
            "ended": time.time(),
            "command": command,
            **provenance(),
        }
        write_atomically(run / "result.json", json.dumps(result, indent=1))
    return result


def caveats(parts: Parts) -> list[str]:
    """What a reader of the run's numbers must know and might not expect."""
    told = [f"note: {note}" for note in parts.data.notes]
    if parts.data.input_kind != "tokens":
        return told
    found = []
    for module in parts.model.modules():
        if isinstance(module, SoftMoE):
            found.append("Soft MoE mixes all tokens of a window")
        elif isinstance(module, HMoE):
            options = getattr(module.selection, "keywords", {})
            if getattr(module.selection, "func", None) is expert_choice:
                found.append("under selection=expert_choice tokens compete for experts")
            elif options.get("capacity") is not None:
                found.append("under selection.capacity tokens compete for places")
    return told + [
        f"note: {what}, later ones with earlier ones; losses are not those of a causal model"
        for what in dict.fromkeys(found)
    ]


def validation_metrics(parts: Parts) -> set[str]:
    """The metrics that a validation of such a run tells."""
    keys = {f"val/{name}" for name in parts.task.scores}
    keys |= {f"val/{n}" for measure in parts.task.measures(parts.data) for n in measure.names}
    if mixture_layers(parts.model):
        no_load_E = torch.zeros(parts.tree.num_experts, dtype=torch.int64)
        keys |= {f"val/load/{key}" for key in (DROPPED, *load_statistics(no_load_E, parts.tree))}
    return keys


def tokens_per_step(data: pl.LightningDataModule) -> int:
    """Tokens of a batch: vectors, or positions of windows. Reads no data."""
    return data.batch_size * (data.context if data.input_kind == "tokens" else 1)


def make_trainer(options: TrainerOptions, run: Path, callbacks: list[pl.Callback]) -> pl.Trainer:
    """The Lightning trainer of a run: endless stretches of batches, counted in steps, quiet."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    return pl.Trainer(
        max_steps=options.max_steps,
        val_check_interval=min(options.val_every, options.max_steps) // options.stretch,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        accelerator=options.accelerator,
        devices=1,
        precision=options.precision,
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO()],
        logger=EventLog(run / "events.jsonl"),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=run,
    )


def best(events: Path) -> dict[str, float]:
    """The best value that each validation score had on the way, as "best/val/<score>"."""
    found: dict[str, float] = {}
    for line in events.read_text(encoding="utf-8").splitlines():
        for key, value in json.loads(line)["metrics"].items():
            is_score = key.startswith("val/") and not key.startswith(("val/load/", "val/gate/"))
            if is_score and isfinite(value):
                pick = min if direction(key) == "minimize" else max
                found[f"best/{key}"] = pick(value, found.get(f"best/{key}", value))
    return found


def provenance() -> dict[str, Any]:
    """Where the code and its libraries stood: commit, dirtiness, lock, versions, hardware."""
    here = Path(__file__).parent

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], cwd=here, capture_output=True, text=True)
        except OSError:  # a machine without git
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # A sweep writes its report before it confirms: that changes no code.
    places = (":(top)", ":(top,exclude)reports")
    status = git("status", "--porcelain", "--untracked-files=no", "--", *places)
    packages = ("hmoe", "torch", "pytorch-lightning", "torchmetrics", "hydra-core")
    lock = here.parents[1] / "requirements.lock"
    hardware = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return {
        "git_commit": git("rev-parse", "HEAD"),
        "git_dirty": None if status is None else bool(status),
        "lock_digest": sha256(lock.read_bytes()).hexdigest() if lock.exists() else None,
        "versions": {"python": platform.python_version()} | {p: version(p) for p in packages},
        "hardware": f"{hardware}, {os.cpu_count()} CPU cores",
    }


def _check(cfg: DictConfig) -> None:
    """Raise ConfigError if the model cannot read the data, or a setting is not what it should be.

    In this order: of data that are not text, a model of text misses settings of its own.
    """
    model, data = locate("model", cfg.model._target_), locate("data", cfg.data._target_)
    if model.input_kind != data.input_kind:
        raise ConfigError(
            f"model = {model.__name__} reads {model.input_kind}, but the data ({data.__name__}) "
            f"are {data.input_kind}. Use model=transformer for tokens, model=mlp for vectors, "
            "model=recommender for fields."
        )
    check(cfg)
