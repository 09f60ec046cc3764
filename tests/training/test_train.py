"""One run: what it writes, how it ends, what it refuses."""

import json
import math
import subprocess
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from torch import nn

from hmoe.config import compose, digest
from hmoe.errors import ConfigError
from hmoe.layer import Tree
from hmoe.metrics import LoadMetrics
from hmoe.training import Learner, assemble, provenance, train
from hmoe.training.checkpoints import latest
from tests.tiny import RUN, curve, events, train_in

ON_LEVELS = ("cv", "max_violation", "entropy", "dead")
STATISTICS = (*ON_LEVELS, "min_violation", "effective", "gini", "starved")


def loads(split, levels):
    found = {f"{split}/load/{s}/{level}" for s in ON_LEVELS for level in levels}
    found |= {f"{split}/load/{s}/expert" for s in STATISTICS}
    return found | {f"{split}/load/dropped/expert"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs") / "run"


@pytest.fixture(scope="module")
def result(folder):
    return train_in(folder)


def test_result_json_holds_what_train_returns(result, folder):
    assert json.loads((folder / "result.json").read_text()) == result
    assert not list(folder.glob("*.tmp"))


def test_the_keys_of_the_result(result):
    assert set(result) == {
        *(
            "state",
            "reason",
            "caveats",
            "metrics",
            "cost",
            "tree",
            "level_loads",
            "baselines",
            "floor",
            "steps",
        ),
        *("config_digest", "data_digest", "git_commit", "git_dirty", "versions", "hardware"),
        "lock_digest",
        *("command", "seed", "started", "ended", "resumed_from", "threads"),
    }
    assert {
        *("total_params", "active_params", "gate_params", "flops_per_token", "train_flops"),
        *("seconds", "tokens"),
    } <= set(result["cost"])
    assert (result["state"], result["reason"]) == ("complete", "")
    assert (result["tree"], result["seed"], result["steps"]) == ("2x2", 0, 20)
    assert result["config_digest"] == digest(compose(RUN))
    assert result["command"] == "hmoe train"
    assert 0 < result["ended"] - result["started"] < 60


def test_the_metrics_of_the_result(result):
    levels = ("level_0", "level_1")
    assert set(result["metrics"]) == {
        *("val/loss", "val/accuracy", "test/loss", "test/accuracy"),
        *("best/val/loss", "best/val/accuracy"),
        *(loads("val", levels) | loads("test", levels)),
        *(f"val/gate/churn/{level}" for level in (*levels, "expert")),
        *(f"val/gate/entropy/{level}" for level in levels),
    }
    assert all(math.isfinite(value) for value in result["metrics"].values())


def test_the_final_scores_are_those_of_the_last_line_and_best_is_over_all(result, folder):
    loss = curve(folder, "val/loss")
    assert [step for step, _ in loss] == [8, 16, 20]
    assert result["metrics"]["val/loss"] == loss[-1][1]
    assert result["metrics"]["best/val/loss"] == min(value for _, value in loss)
    accuracy = curve(folder, "val/accuracy")
    assert result["metrics"]["best/val/accuracy"] == max(value for _, value in accuracy)


def test_tokens_and_training_flops_follow_from_the_steps(result):
    cost = result["cost"]
    assert cost["tokens"] == 20 * 64
    assert cost["train_flops"] == 3 * cost["flops_per_token"] * 20 * 64


def test_a_token_of_text_is_a_byte(tmp_path):
    text = ("data=text", f"data.root={tmp_path / 'text.txt'}", "model=transformer", "model.dim=16")
    sizes = ("model.depth=1", "model.ffn_blocks=[0]", "data.context=8", "data.batch_size=4")
    (tmp_path / "text.txt").write_text("to be or not to be, that is the question\n" * 40)
    result = train_in(
        tmp_path / "run", *text, *sizes, "trainer.max_steps=2", "trainer.checkpoint_every=2"
    )
    assert result["cost"]["tokens"] == 2 * 4 * 8
    assert result["metrics"]["val/bits_per_byte"] == pytest.approx(
        result["metrics"]["val/loss"] / math.log(2)
    )
    assert result["baselines"]


def test_level_loads_leave_out_levels_of_very_many_nodes():
    loads = [LoadMetrics(tree=Tree.from_spec([64, 64, 2]))]
    found = Learner.level_loads(SimpleNamespace(loads=loads))
    assert {level: len(load["nodes"]) for level, load in found.items()} == {
        "level_0": 64,
        "level_1": 4096,
    }


def test_level_loads_name_the_units_and_add_up_to_one(result):
    assert result["level_loads"]["level_0"]["nodes"] == ["0", "1"]
    assert result["level_loads"]["level_1"]["nodes"] == ["0.0", "0.1", "1.0", "1.1"]
    for level in result["level_loads"].values():
        assert sum(level["load"]) == pytest.approx(1)
        assert sum(level["even"]) == pytest.approx(1)
    departments, experts = (result["level_loads"][f"level_{n}"]["load"] for n in (0, 1))
    assert departments == pytest.approx([sum(experts[:2]), sum(experts[2:])])


def test_the_lines_of_the_event_log(result, folder):
    lines = events(folder)
    assert all(set(line) == {"step", "time", "metrics"} for line in lines)
    training = [line for line in lines if "train/loss" in line["metrics"]]
    assert [line["step"] for line in training] == list(range(2, 21, 2))
    balance = {f"train/balance/switch/level_{n}" for n in (0, 1)}
    assert set(training[0]["metrics"]) == {"train/loss", "train/lr", *balance}
    assert set(training[1]["metrics"]) == {*training[0]["metrics"], "time/steps_per_s"}
    others = [line for line in lines if line not in training]
    assert [line["step"] for line in others] == [8, 16, 20, 20]
    times = [line["time"] for line in lines]
    assert times == sorted(times)


def test_the_learning_rate_warms_up_and_falls_to_zero(result, folder):
    rates = dict(curve(folder, "train/lr"))
    assert rates[2] == pytest.approx(3e-3)
    assert rates[20] == pytest.approx(0, abs=1e-12)
    assert all(rates[step] > rates[step + 2] for step in range(2, 20, 2))


def test_the_config_is_kept_resolved(result, folder):
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["tree"]["spec"] == [2, 2]
    assert config["data"]["seed"] == config["seed"] == 0


def test_checkpoints_load_without_running_code(result, folder):
    state = torch.load(latest(folder / "checkpoints"), weights_only=True)
    assert state["global_step"] == 20


def test_without_test_the_test_split_is_left_alone(tmp_path):
    result = train_in(tmp_path / "run", "test=false")
    assert not [key for key in result["metrics"] if key.startswith("test/")]


def test_a_dense_control_has_no_loads(tmp_path):
    result = train_in(tmp_path / "run", "model=mlp_dense", "model.dim=16", "balance=none")
    assert result["level_loads"] == {}
    assert not [key for key in result["metrics"] if "/load/" in key]


# ------------------------------------------------------------------- runs that diverge


def test_an_absurd_learning_rate_ends_as_diverged(tmp_path):
    result = train_in(tmp_path / "run", "optim.lr=1e30")
    assert json.loads((tmp_path / "run" / "result.json").read_text())["state"] == "diverged"
    assert result["reason"] == f"train/loss is nan at step {result['steps']}"
    assert result["steps"] < 20


@pytest.mark.parametrize(
    ("method", "first_bad_step", "reason"),
    [
        ("learn", 6, "train/loss is nan at step 8"),
        ("learn", 19, "train/loss is nan at step 20"),
        ("validation_step", 16, "val/loss is nan"),
        ("validation_step", 20, "val/loss is nan"),
        ("test_step", 20, "test/loss is nan"),
    ],
)
def test_a_loss_that_is_no_number_never_completes(
    method, first_bad_step, reason, tmp_path, monkeypatch
):
    right = getattr(Learner, method)

    def wrong(self, batch, batch_idx=0):
        # One batch of a split is enough: a mean that leaves it out would look healthy.
        if self.global_step >= first_bad_step and batch_idx == 0:
            batch = batch | {"x": batch["x"] * math.nan}
        return right(self, batch, *([batch_idx] if method != "learn" else []))

    monkeypatch.setattr(Learner, method, wrong)
    result = train_in(tmp_path / "run")
    assert result["state"] == "diverged"
    assert result["reason"].startswith(reason)
    assert math.isfinite(result["metrics"].get("best/val/loss", 0))


@pytest.mark.parametrize(
    "choices", [["selection=descend"], ["ffn@model.ffn=hmoe_lazy", "balance=none"]]
)
def test_nan_ends_as_diverged_however_experts_are_chosen(choices, tmp_path, monkeypatch):
    right = Learner.learn

    def wrong(self, batch):
        return right(self, batch | {"x": batch["x"] * math.nan})

    monkeypatch.setattr(Learner, "learn", wrong)
    assert train_in(tmp_path / "run", *choices)["state"] == "diverged"


def test_weights_that_explode_in_the_last_step_are_found_by_the_validation(tmp_path, monkeypatch):
    """The loss of a step is worked out before its update: the last update has none of its own."""
    learn = Learner.learn

    def explode(self, batch):
        last = self.global_step == 19
        learn(self, batch)
        if last:
            next(self.parameters()).data.fill_(math.inf)

    monkeypatch.setattr(Learner, "learn", explode)
    assert train_in(tmp_path / "run")["state"] == "diverged"


# ------------------------------------------------------------------- what is refused


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot be written \(Not a directory\).*runs=<folder>"):
        train_in(tmp_path / "file" / "run")


def test_a_folder_that_cannot_be_written_is_refused():
    with pytest.raises(ConfigError, match="cannot be written"):
        train_in(Path("/proc/run"))


def test_a_model_that_reads_something_else_than_the_data_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"Transformer reads tokens.*Digits\) are vectors.*mlp"):
        train_in(tmp_path / "run", "model=transformer", "model.context=8")
    assert not (tmp_path / "run").exists()


def test_a_gpu_that_is_not_there_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"trainer\.accelerator = gpu: no CUDA device"):
        train_in(tmp_path / "run", "trainer.accelerator=gpu")


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_bfloat16_is_refused_on_a_gpu_without_it(precision, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    wanted = (f"trainer.precision={precision}", "trainer.accelerator=auto")
    with pytest.raises(ConfigError, match=f"precision = {precision}: Some GPU has no bfloat16"):
        assemble(compose([*RUN, *wanted]))
    assemble(compose([*RUN, *wanted, "trainer.accelerator=cpu"]))
    assemble(compose([*RUN, *wanted, "trainer.precision=32-true"]))


@pytest.mark.parametrize(
    "override",
    [
        *("trainer.max_steps=0", "trainer.val_every=0", "trainer.log_every=-1"),
        *(
            "trainer.checkpoint_every=0",
            "trainer.keep_checkpoints=0",
            "trainer.threads=0",
            "trainer.clip_norm=0",
        ),
        *("optim.lr=0", "optim.weight_decay=-1", "optim.warmup_steps=-1", "optim.betas=[0.9]"),
        *("optim.betas=[0.9,1.0]", "trainer.precision=16-true", "trainer.accelerator=tpu"),
    ],
)
def test_a_setting_out_of_range_is_named_with_its_value(override):
    key, _, value = override.partition("=")
    with pytest.raises(ConfigError) as refused:
        assemble(compose([*RUN, override]))
    assert key in str(refused.value)
    assert value.strip("[]").split(",")[-1] in str(refused.value)


def test_bad_input_leaves_nothing_behind(tmp_path):
    for override in ("selection.k=99", "data.batch_size=5000"):
        with pytest.raises(ConfigError):
            train_in(tmp_path / "runs" / "run", override)
    assert list(tmp_path.iterdir()) == []


def test_gradients_are_clipped_to_the_norm_asked_for(tmp_path, monkeypatch):
    norms = []
    step = torch.optim.AdamW.step

    def watched(self, closure=None):
        value = closure()
        grads = [p.grad for group in self.param_groups for p in group["params"]]
        norms.append(torch.nn.utils.get_total_norm(grads).item())
        return step(self, lambda: value)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    train_in(tmp_path / "run", "trainer.clip_norm=0.25")
    assert len(norms) == 20
    assert max(norms) == pytest.approx(0.25, rel=1e-4)


# ------------------------------------------------------------------- circumstances


def test_a_machine_without_git_can_train(monkeypatch):
    def no_git(*args, **kwargs):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", no_git)
    facts = provenance()
    assert facts["git_commit"] is facts["git_dirty"] is None
    assert facts["versions"]["torch"]


def test_a_report_written_anew_makes_no_code_dirty(tmp_path, monkeypatch):
    def git(*words):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)

    files = [tmp_path / "reports" / "a.md", tmp_path / "hmoe" / "train.py"]
    git("init")
    for file in files:
        file.parent.mkdir()
        file.write_text("old")
    git("add", ".")
    git("commit", "-m", "All")
    monkeypatch.setitem(provenance.__globals__, "__file__", str(files[1]))
    assert provenance()["git_dirty"] is False
    files[0].write_text("new")
    assert provenance()["git_dirty"] is False
    files[1].write_text("new")
    assert provenance()["git_dirty"] is True


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_bfloat16_trains_on_the_cpu(precision, tmp_path):
    result = train_in(tmp_path / "run", f"trainer.precision={precision}")
    assert result["state"] == "complete"


def test_compiling_without_a_compiler_is_refused_before_any_work(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    wanted = [*RUN, "trainer.accelerator=cpu", "trainer.compile=true"]
    with pytest.raises(ConfigError, match=r"compile = true: .* there is no 'no-such-compiler'"):
        assemble(compose(wanted))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_compiled_model_learns_the_same(tmp_path, monkeypatch):
    eager = train_in(tmp_path / "eager")
    called = []
    monkeypatch.setattr(nn.Module, "compile", _noting(nn.Module.compile, called))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler, about itself
        compiled = train_in(tmp_path / "compiled", "trainer.compile=true")
    assert len(called) == 1
    for key, value in eager["metrics"].items():
        if key.endswith("loss"):
            assert compiled["metrics"][key] == pytest.approx(value, rel=1e-2)


def _noting(function, called):
    def wrapped(*args, **kwargs):
        called.append(args)
        return function(*args, **kwargs)

    return wrapped


def test_digits_are_learnt_in_a_few_hundred_steps(tmp_path):
    cfg = compose(["data=digits", "trainer.max_steps=200", "trainer.threads=1"])
    result = train(cfg, tmp_path / "run", command="", progress=False)
    assert result["metrics"]["val/accuracy"] >= 0.9
