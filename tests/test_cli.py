"""The command line: mistakes are told in one message before any work, and a stop can be undone."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from hmoe import cli
from hmoe.metrics import Inspection
from hmoe.study import SweepInterruptedError, registration
from tests.tiny import RUN, checkpoint, same, sweep_overrides
from tests.tracking.fake import empty_store

HMOE = shutil.which("hmoe", path=Path(sys.executable).parent) or "hmoe"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Every command starts in an empty folder, and leaves the signals of the tests alone."""
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def refused(capsys, *argv: str) -> str:
    """What a command that is refused says, after the checks that hold for all of them."""
    before = sorted(Path().rglob("*"))
    with pytest.raises(SystemExit) as ended:
        cli.main(argv)
    out, err = capsys.readouterr()
    assert ended.value.code == 2
    assert out == ""
    assert "Traceback" not in err
    assert sorted(Path().rglob("*")) == before
    return err.strip()


# ------------------------------------------------------------------- starting


def loaded(code: str) -> set[str]:
    """The packages that a fresh interpreter has loaded after some code."""
    ask = f"import sys\n{code}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_help_loads_no_heavy_library():
    heavy = {"torch", "pytorch_lightning", "mlflow", "optuna", "sklearn", "numpy", "pandas"}
    code = "from hmoe.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    assert not loaded(code) & heavy
    assert "torch" in loaded("import hmoe.layer")


def test_who_follows_a_run_does_not_wait_for_mlflow():
    """The process of the follower loads it, while the run trains."""
    assert "mlflow" not in loaded("from hmoe.tracking import Follower")
    assert "mlflow" in loaded("from hmoe.tracking import Store")
    with pytest.raises(ImportError, match="cannot import name 'Stroe'"):
        from hmoe.tracking import Stroe  # noqa: F401


# ------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("train modle=mlp", "modle=mlp: no such key. Did you mean 'model'?"),
        (
            "train data=digit",
            "data=digit: no such option of the group 'data'. Did you mean 'digits'?",
        ),
        ("train optim.lrr=1", "optim.lrr=1: no such key. Did you mean 'optim.lr'?"),
        ("train lr=1", "lr=1: no such key. Did you mean 'optim.lr'?"),
        ("train optim.lr=fast", "optim.lr=fast: a float is expected"),
        ("train trainer.max_steps=1.5", "trainer.max_steps=1.5: an int is expected"),
        ("train trainer.precision=32", "trainer.precision=32: one of 32-true, bf16-mixed"),
        ("train seed", "seed: does not read as key=value"),
        ("train seed=", "seed=: a value is missing"),
        ("train seed=-1", "seed=-1: must be greater than or equal to 0"),
        ("train seed=4294967296", "seed=4294967296: must be less than 4294967296"),
        ("train name=a/b", "name=a/b: 1 to 80 of A-Z a-z 0-9 . _ - are allowed"),
        ("train selection.k=99", "selection.k = 99: must be from 1 to 16, the number of experts."),
        ("train selection.beam=[1,2,3]", "selection.beam = [1, 2, 3]: 3 given, 1 expected"),
        (
            "train selection=descend selection.k=[1,2,3]",
            "selection.k = [1, 2, 3]: 3 given, 2 expected, one a level",
        ),
        (
            "train balance.terms.switch.weight=[1,2,3]",
            "balance.terms.switch.weight = [1, 2, 3]: 3 numbers given, 2 expected, one a level",
        ),
        ("train tree.spec={a:{b:0},c:2}", "tree: tree.spec.a.b = 0: a size is a whole number"),
        ("train tree.spec=[4,1]", "tree: tree.spec.0 has one child"),
        ("train tree.spec={A:2,b:2}", "tree: tree.spec"),
        ("train tree.spec={a:2,a:3}", "tree.spec={a:2,a:3}: 'a' is there twice in one mapping"),
        ("train tree.spec={a:{b:1,b:1},c:1}", "'b' is there twice in one mapping"),
        ("train model=transformer", "model = Transformer reads tokens, but the data (Digits) are"),
        (
            "train data=stdlib",
            "model = ResidualMlp reads vectors, but the data (Stdlib) are tokens",
        ),
        ("train data=text model=transformer", "data.root=null: must name a text file"),
        ("train data=text model=transformer data.root=nowhere", "nowhere: expected a text file"),
        ("train data.batch_size=100000", "data.batch_size=100000: must be at most 1079"),
        ("train optim.lr=choice(1,2)", "a search belongs in a sweep"),
        ("train ~balance", "nothing can be deleted"),
        ("describe selection.k=99", "selection.k = 99: must be from 1 to 16"),
        ("em data=digits", "data = Digits: the experts of EM answer with values"),
        (
            "em em.epoch=3",
            "em.epoch=3: no such key. Did you mean 'em.epochs'? Allowed there: epochs",
        ),
        ("em em.newton_steps=0", "em.newton_steps = 0: must be at least 1"),
        ("sweep", "sweep= must be given once; there are balance_levels, clothing, frozen_upper"),
        ("sweep sweep=hierarchy sweep=hierarchy", "sweep= must be given once"),
        (
            "sweep sweep=hierachy",
            "Did you mean 'hierarchy'? Sweeps: balance_levels, clothing,",
        ),
        ("sweep sweep=hierarchy budget.trials=7", "budget.trials=7: must be a multiple of the"),
        ("sweep sweep=hierarchy wrokers=2", "wrokers=2: no such key"),
        ("sweep sweep=hierarchy workers=0", "workers=0: must be greater than or equal to 1"),
        ("sweep sweep=hierarchy contract.tolerance=1e-4", "beyond contract.tolerance = 0.0001"),
        ("plan sweep=hierarchy arms.company.dial=seeds", "arms.company.dial = seeds: must be a"),
        ("status sweep=hierarchy", "has not been started in runs. Start it with `hmoe sweep"),
        ("status sweep=hierarchy watch=often", "watch = often: expected true or false"),
        ("status sweep=hierachy", "Did you mean 'hierarchy'?"),
        ("confirm sweep=hierachy", "Did you mean 'hierarchy'?"),
        ("compare one", "A B: 1 names given, 2 expected: runs by name, id or folder, or arms as"),
        ("compare one two", "no tracked runs there"),
        ("repro", "RUN: 0 names given, 1 expected"),
        ("repro one", "no tracked runs there"),
        ("repro one rusn=x", "'rusn' is not an option here; there are runs. Did you mean 'runs'?"),
        ("inspect", "RUN: 0 names given, 1 expected"),
        ("inspect one", "no tracked runs there"),
        ("inspect . tokens=many", "tokens = many: expected a whole number"),
        ("inspect . splitt=val", "Did you mean 'split'?"),
        ("inspect .", "holds no config.yaml, so it is not the folder of a run"),
        ("report sweep=hierarchy", "not been started in runs. Start it with `hmoe sweep sweep=hi"),
        ("report name=unheard_of", "no tracked runs there"),
        ("report", "sweep= is missing"),
        ("report sweep=hierarchy paper=svg", "paper = svg: expected true or false"),
        ("report sweeep=hierarchy", "Did you mean 'sweep'?"),
        ("ui", "no tracked runs there"),
        ("ui port=many", "port = many: expected a whole number"),
        ("ui prot=1", "'prot' is not an option here; there are runs, port. Did you mean 'port'?"),
        (
            "bench",
            "a suite is missing: name one or more of "
            "layer, routing, train, sweep, process, large_trees",
        ),
        (
            "bench trian",
            "suite = trian: must be one of layer, routing, train, sweep, process, large_trees.",
        ),
        ("bench large_trees tree.spec=[4]", "tree.spec=[4]: large_trees has no options"),
        ("bench process seed=1", "seed=1: process has no options but rounds and out"),
        ("bench train rounds=0", "rounds = 0: expected a whole number of at least 1"),
    ],
)
def test_a_mistake_is_told_in_one_message_and_leaves_nothing_behind(argv, message, capsys):
    command, *overrides = argv.split()
    told = refused(capsys, command, *overrides)
    assert told.startswith(f"hmoe {command}: ")
    assert message in told
    assert told.count("hmoe ") - told.count("`hmoe ") == 1


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("trian", "invalid choice: 'trian'. Did you mean 'train'? Commands: train, em,"),
        ("swep sweep=hierarchy", "Did you mean 'sweep'?"),
        ("", "Run a sweep, or go on with it"),
        ("train --verbose", "unrecognized arguments: --verbose"),
    ],
)
def test_a_command_or_option_that_does_not_exist_is_refused(argv, message, capsys):
    told = refused(capsys, *argv.split())
    assert told.startswith("usage: hmoe")
    assert message in told


def test_a_run_that_is_complete_is_not_begun_again(capsys):
    folder = Path("runs/train/mine")
    folder.mkdir(parents=True)
    (folder / "result.json").write_text("{}")
    assert "name = mine: the run in runs/train/mine is complete" in refused(
        capsys, "train", "name=mine"
    )


def test_a_run_is_not_gone_on_with_under_other_settings(capsys):
    folder = Path("runs/train/mine")
    folder.mkdir(parents=True)
    (folder / "owner").touch()
    shutil.copy(Path(__file__).parents[1] / "conf" / "config.yaml", folder / "config.yaml")
    told = refused(capsys, "train", "name=mine")
    assert "hmoe train: name = mine: the run in runs/train/mine was started with other" in told
    assert "Choose another name, or delete that folder." in told


def test_a_folder_that_cannot_be_written_is_told(capsys):
    Path("file").touch()
    assert "the folder file/x/train/a cannot be written" in refused(
        capsys, "train", "runs=file/x", "name=a"
    )


def test_a_report_of_an_unknown_study_names_the_nearest(capsys):
    empty_store(Path("runs")).start_study(
        "hierarchy", question="?", objectives=[], contract={}, arms=[], command=""
    )
    told = refused(capsys, "report", "sweep=hierachy")
    assert "hierachy" in told
    assert "Did you mean 'hierarchy'?" in told


def test_a_port_in_use_is_told_with_a_free_one(capsys):
    empty_store(Path("runs"))
    with closing(socket.socket()) as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        told = refused(capsys, "ui", f"port={port}")
    assert re.search(rf"port = {port}: another program listens there\. port=\d+ is free", told)


# ------------------------------------------------------------------- statuses


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (KeyboardInterrupt(), 130, ""),
        (
            SweepInterruptedError("stopped; go on with: it"),
            130,
            "hmoe sweep: stopped; go on with: it",
        ),
    ],
)
def test_a_stop_ends_with_130(error, status, told, capsys, monkeypatch):
    def stopped(*args, **kwargs):
        raise error

    monkeypatch.setattr("hmoe.study.plan_sweep", stopped)
    with pytest.raises(SystemExit) as ended:
        cli.main(["sweep", "sweep=hierarchy"])
    assert ended.value.code == status
    assert capsys.readouterr().err.strip() == told


def test_a_defect_is_not_dressed_up_as_a_mistake(monkeypatch):
    """A traceback is what it takes to mend a defect."""

    def broken(*args, **kwargs):
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "compose", broken)
    with pytest.raises(ZeroDivisionError):
        cli.main(["train"])


def test_help_is_answered_without_heavy_libraries():
    """And so is every mistake that the configuration alone shows."""
    program = (
        "import sys; from hmoe import cli\n"
        "try: cli.main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'pytorch_lightning', 'mlflow', 'optuna', 'sklearn', 'plotly', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    for argv in (
        ["--help"],
        ["train", "--help"],
        ["train", "data=digit"],
        ["ui", "port=x"],
        ["generate", "run"],
    ):
        done = subprocess.run(
            [sys.executable, "-c", program, *argv], capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines()[-1] == "[]", argv


def test_the_plan_and_the_state_of_a_sweep_are_shown(capsys, tmp_path):
    """`plan` works out the arms, here without a probe; `status` counts trials, none yet."""
    overrides = sweep_overrides(tmp_path / "runs")
    with pytest.raises(SystemExit) as ended:
        cli.main(["plan", *overrides, "probe=false"])
    assert ended.value.code == 0
    assert "dense" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()
    study, runs = cli._load_sweep(overrides)
    (runs / "tiny").mkdir(parents=True)
    registration.register(runs / "tiny", study, {})
    with pytest.raises(SystemExit) as ended:
        cli.main(["status", *overrides])
    assert ended.value.code == 0
    assert re.search(r"tree\s+0/2\s+-\s", capsys.readouterr().out)
    with pytest.raises(SystemExit) as ended:
        cli.main(["status", *overrides, "watch=true"])  # nobody is at work
    assert ended.value.code == 0
    assert "Go on with `hmoe sweep sweep=tiny`" in capsys.readouterr().out
    assert not (runs / "optuna.db").exists()


def test_a_study_in_use_is_refused_before_its_plan(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("hmoe.study.plan_sweep", lambda *_, **__: pytest.fail("it was planned"))
    overrides = sweep_overrides(tmp_path / "runs")
    study, runs = cli._load_sweep(overrides)
    with registration.owned(runs / "tiny", study):
        told = refused(capsys, "sweep", *overrides)
    assert "is in use by process" in told
    assert "look at it with `hmoe status`" in told


# ------------------------------------------------------------------- hmoe train, the real thing


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def start(*argv: str) -> subprocess.Popen:
    """The command as a user starts it, in a process group of its own."""
    return subprocess.Popen(
        [HMOE, *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
    )


def tracked(runs: Path) -> list:
    client = MlflowClient(tracking_uri=f"sqlite:///{runs.resolve()}/mlflow.db")
    experiment = client.get_experiment_by_name("train")
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


def wait_for(done, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_train_prints_the_path_of_its_result_last_and_progress_elsewhere():
    empty_store(Path("runs"))
    done = subprocess.run(
        [HMOE, "train", *RUN, "name=mine"], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.splitlines()[-1])
    assert path == Path("runs/train/mine/result.json")
    result = json.loads(path.read_text())
    assert f"val/loss                 {result['metrics']['val/loss']:.4f}" in done.stdout
    assert "training" in done.stderr
    assert "20/20" in done.stderr
    assert "training" not in done.stdout
    assert re.match(r"hmoe train data=digits .*name=mine$", result["command"])
    (run,) = tracked(Path("runs"))
    assert (run.info.run_name, run.info.status) == ("mine", "FINISHED")
    assert run.data.metrics["final/val/loss"] == result["metrics"]["val/loss"]


def test_em_prints_its_epochs_the_baseline_and_the_path_of_its_result(capsys):
    """And a run that is complete is not begun again."""
    command = ["em", "tree.spec=[2]", "em.epochs=1", "name=mine"]
    with pytest.raises(SystemExit) as ended:
        cli.main(command)
    out, err = capsys.readouterr()
    assert ended.value.code == 0
    result = json.loads(Path("runs/em/mine/result.json").read_text())
    assert result["command"] == "hmoe em 'tree.spec=[2]' em.epochs=1 name=mine"
    lines = out.splitlines()
    assert lines[-1] == "runs/em/mine/result.json"
    for n, epoch in enumerate(result["epochs"]):
        assert lines[n].startswith(f"epoch {n:3}  log_likelihood {epoch['log_likelihood']:.4f}")
    linear = result["epochs"][0]["test/relative_error"]
    assert f"baseline/linear/test/relative_error {linear:.4f}" in lines
    assert "convergence_epoch/test" in out
    assert "1/1" in err
    with pytest.raises(SystemExit) as ended:
        cli.main(command)
    assert ended.value.code == 2
    assert "name = mine: the run in runs/em/mine is complete" in capsys.readouterr().err


LONG = (*RUN, "trainer.max_steps=1500", "trainer.val_every=500", "trainer.checkpoint_every=50")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_prints_the_command_that_ends_with_the_same_weights(number):
    """Ctrl-C reaches the whole group of processes; a run is stopped while it trains."""
    empty_store(Path("runs"))
    running = start("train", *LONG)
    wait_for(lambda: list(Path("runs/train").glob("*/checkpoints/*.ckpt")))
    os.killpg(running.pid, number)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    command = re.search(r"stopped; go on with: (hmoe train .*)", err)[1]
    (folder,) = Path("runs/train").iterdir()
    assert not (folder / "result.json").exists()
    assert command.endswith(f"name={folder.name}")
    (run,) = tracked(Path("runs"))
    assert run.info.status == "KILLED"
    again = subprocess.run(
        f"{Path(HMOE).parent}/{command}", shell=True, capture_output=True, text=True
    )
    assert again.returncode == 0, again.stderr
    result = json.loads((folder / "result.json").read_text())
    assert result["resumed_from"] is not None
    subprocess.run([HMOE, "train", *LONG, "name=whole"], capture_output=True, check=True)
    whole = Path("runs/train/whole")
    assert same(checkpoint(folder)["state_dict"], checkpoint(whole)["state_dict"])
    assert result["metrics"] == json.loads((whole / "result.json").read_text())["metrics"]
    runs = {run.info.run_name: run.info.status for run in tracked(Path("runs"))}
    assert runs == {folder.name: "FINISHED", "whole": "FINISHED"}


@pytest.mark.slow
@pytest.mark.parametrize("after_s", [0.3, 1, 2, 3, 4, 5, 6])
def test_ctrl_c_at_any_moment_ends_in_order(after_s):
    running = start("train", *LONG, "name=mine")
    time.sleep(after_s)
    os.killpg(running.pid, signal.SIGINT)
    _, err = running.communicate(timeout=60)
    # Before its own first line, Python itself answers.
    assert running.returncode in (130, -signal.SIGINT, 1)
    if running.returncode == 130:
        assert "Traceback" not in err
    if (Path("runs") / "mlflow.db").exists():
        assert "RUNNING" not in [run.info.status for run in tracked(Path("runs"))]


@pytest.mark.slow
def test_a_killed_run_is_closed_in_mlflow_and_can_be_gone_on_with():
    empty_store(Path("runs"))
    running = start("train", *LONG, "name=mine")
    wait_for(lambda: list(Path("runs").glob("train/mine/checkpoints/*.ckpt")))
    running.kill()
    running.communicate()
    wait_for(lambda: [run.info.status for run in tracked(Path("runs"))] == ["KILLED"])
    done = subprocess.run([HMOE, "train", *LONG, "name=mine"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (run,) = tracked(Path("runs"))
    assert run.info.status == "FINISHED"


@pytest.mark.slow
def test_a_run_that_diverges_exits_with_1_and_says_so():
    done = subprocess.run(
        [HMOE, "train", *RUN, "optim.lr=1e30", "name=mine"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "train/loss is nan at step" in done.stderr
    (run,) = tracked(Path("runs"))
    assert (run.info.status, run.data.tags["hmoe.state"]) == ("FAILED", "diverged")
    assert run.data.tags["hmoe.reason"].startswith("train/loss is nan")


# ------------------------------------------------------------------- inspecting


def test_a_run_is_inspected_by_its_name_or_folder_and_kept_in_mlflow(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", *RUN, "name=small", "tree.spec={sales: 2, legal: 1}"])
    assert ended.value.code == 0
    folder = Path("runs/train/small")
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main(["inspect", "small", "tokens=50"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "small: 50 tokens of val, step 20" in shown
    assert {"sales", "legal"} <= set(shown.replace("│", " ").split())
    assert shown.splitlines()[-1] == str(folder / "inspection" / "organisation.html")
    record = Inspection.load(folder / "inspection")
    assert (record.run, record.arm, record.num_tokens) == ("small", "", 50)
    client = MlflowClient(tracking_uri="sqlite:///runs/mlflow.db")
    run_id = (folder / "mlflow_run_id").read_text()
    kept = {Path(file.path).name for file in client.list_artifacts(run_id, "inspection")}
    assert {"arrays.npz", "inspection.json", "organisation.html", "README.md", "paper"} == kept
    images = [file.path for file in client.list_artifacts(run_id, "images")]
    assert all(any(f"step+{step}+" in image for image in images) for step in (8, 16, 20))
    with pytest.raises(SystemExit) as ended:
        cli.main(["inspect", str(folder), "split=test", "out=elsewhere", "tokens=50"])
    assert ended.value.code == 0
    assert Inspection.load(Path("elsewhere")).split == "test"
