"""conf/: every option of every group composes, passes its check, assembles, and trains a step.

All lists come from the files, so that a new option is tested by being there.
"""

import inspect
import struct
from collections.abc import Iterator
from functools import cache
from itertools import combinations, product
from math import isqrt
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from hmoe.config import CONF, build, check, compose, options
from hmoe.config.targets import locate, targets
from hmoe.errors import ConfigError
from hmoe.layer import HMoE
from hmoe.models import cost
from hmoe.training import assemble
from tests.made import MADE, made_sets, write_set
from tests.made.tables import BLOCKS

FILES = sorted(CONF.rglob("*.yaml"))
# Rows of choices among the groups, with tests of their own.
ROWS = {"system", "experiment"}
GROUPS = sorted(
    {file.parent.name for file in FILES if file.parent != CONF} - {"system", "experiment"}
)
PARTS = [group for group in GROUPS if group not in ("data", "model")]
# The groups that make a mixture: all their combinations must work.
MIXTURE = ["tree", "gate", "selection", "experts", "shared", "balance"]
TINY = [
    *("data.batch_size=2", "model.dim=16", "model.depth=2", "experts.hidden_dim=8"),
    *("trainer.max_steps=2", "trainer.log_every=1", "optim.warmup_steps=0"),
]
TINY_TRANSFORMER = [
    *("data.context=8", "data.eval_bytes=64", "model.num_heads=2", "model.ffn_blocks=[1]"),
    "model.plain_ffn.experts.hidden_dim=8",
]


# Sets that read files of yours: where those made here lie, and what else must be said of them.
OWN = {
    "tabular": ("table.csv", "data.schema={target: pay, kind: regression, numbers: [age]}"),
    "movielens": ("movielens_latest_small",),
}


@pytest.fixture(scope="module")
def made_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the sets that read files need: twelve texts, and idx files of 2 x 2 pixels.

    Ten classes, of ten training images each; a table; and the made files of all known sets.
    """
    folder = tmp_path_factory.mktemp("data")
    (folder / "table.csv").write_text("age,pay\n" + "".join(f"{n},{n % 5}\n" for n in range(300)))
    for n in range(12):
        (folder / f"{n}.txt").write_text("all work and no play makes jack a dull boy\n" * 30)
    for part, images in (("train", 100), ("t10k", 4)):
        pixels = struct.pack(">4I", 0x803, images, 2, 2) + bytes(n % 256 for n in range(4 * images))
        labels = struct.pack(">2I", 0x801, images) + bytes(n % 10 for n in range(images))
        (folder / f"{part}-images-idx3-ubyte").write_bytes(pixels)
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    for name in MADE:
        write_set(name, folder)
    with made_sets():
        yield folder


def data_overrides(data: str, made_files: Path) -> list[str]:
    """A data option, pointed at made files if it reads files, of a known set or of the user."""
    said = OmegaConf.load(CONF / "data" / f"{data}.yaml")
    if "name" in said:  # of the Hub, where a folder has a name, too
        return [f"data={data}", f"data.name={made_files}"]
    if "root" not in said:
        return [f"data={data}"]
    root = made_files / OWN.get(data, ("",))[0]
    if said.root is not None:
        root = made_files / Path(said.root).name
    blocks = [f"data.blocks={list(BLOCKS)}"] if "blocks" in said else []
    return [f"data={data}", f"data.root={root}", *blocks, *OWN.get(data, ("",))[1:]]


def selects(group: str, option: str) -> str:
    """The override that picks an option. `ffn` is chosen for its place in the model."""
    place = "ffn@model.ffn" if group == "ffn" else group
    return f"{place}={option}"


@cache
def composed(group: str, option: str) -> dict[str, Any]:
    """The whole config with one option, as plain data."""
    config: Any = OmegaConf.to_container(compose([selects(group, option)]))
    return config


# ------------------------------------------------------------------ what the files say


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(CONF)))
def test_a_file_says_in_its_first_line_what_it_is(file: Path) -> None:
    first, second = file.read_text(encoding="utf-8").splitlines()[:2]
    assert first.startswith("# ")
    assert not second.startswith("#")


@pytest.mark.parametrize("group", GROUPS)
def test_an_option_is_the_file_of_its_name(group: str) -> None:
    files = {file.stem for file in FILES if file.parent.name == group}
    assert set(options(group)) == files
    for option in files:
        said: Any = OmegaConf.to_container(OmegaConf.load(CONF / group / f"{option}.yaml"))
        config = composed(group, option)
        node = config["model"]["ffn"] if group == "ffn" else config[group]
        for key in said.keys() - {"defaults"}:
            # Options that build on others add to their mappings.
            whole = not isinstance(said[key], dict) or "defaults" not in said
            assert node[key] == said[key] if whole else holds(node[key], said[key])


def holds(whole: Any, part: Any) -> bool:
    """Whether a mapping has all that another has, at every depth."""
    if not isinstance(part, dict):
        return bool(whole == part)
    return all(key in whole and holds(whole[key], value) for key, value in part.items())


def test_defaults_live_in_the_files_alone() -> None:
    """What a config names has keyword-only options, and no default of its own for any of them."""
    found = set()
    for group in GROUPS:
        for option in options(group):
            for path, node in targets("", composed(group, option)):
                signature = inspect.signature(locate(path, node["_target_"]))
                for name in node.keys() & signature.parameters.keys():
                    # Tree.from_spec has nothing but its specification.
                    if node["_target_"] != "hmoe.layer.Tree.from_spec":
                        kind = signature.parameters[name].kind
                        assert kind is inspect.Parameter.KEYWORD_ONLY, f"{path}.{name}"
                    assert signature.parameters[name].default is inspect.Parameter.empty
                    found.add((node["_target_"], name))
    assert len(found) > 40


# ------------------------------------------------------------------ everything goes with everything


def num_mixtures(cfg: DictConfig) -> int:
    return cost(assemble(cfg, device="meta").model).num_mixtures


def square(cfg: DictConfig) -> bool:
    """Whether rows of vectors are square pictures that fall into the patches of a model."""
    data = build(cfg.data)
    if data.input_kind != "vectors":
        return True  # refused for another reason
    side = isqrt(data.in_dim // cfg.model.channels)
    return cfg.model.channels * side**2 == data.in_dim and side % cfg.model.patch == 0


@pytest.mark.parametrize("model", options("model"))
@pytest.mark.parametrize("data", options("data"))
def test_a_model_takes_all_data_of_its_kind_and_refuses_the_others(
    data: str, model: str, made_files: Path
) -> None:
    cfg = compose([*data_overrides(data, made_files), f"model={model}"])
    made = [locate("", node._target_) for node in (cfg.data, cfg.model)]
    if model.startswith("vit") and not square(cfg):
        with pytest.raises(ConfigError, match=r"model\.(channels|patch) = "):
            assemble(cfg, device="meta")
    elif made[0].input_kind == made[1].input_kind:
        assert (num_mixtures(cfg) == 0) == model.endswith("_dense")
    else:
        with pytest.raises(ConfigError, match="model"):
            assemble(cfg, device="meta")


@pytest.mark.parametrize(
    ("group", "option"), [(group, option) for group in PARTS for option in options(group)]
)
def test_every_option_goes_with_the_defaults_of_all_others(group: str, option: str) -> None:
    choice = selects(group, option)
    if choice == "loss=competitive":
        with pytest.raises(ConfigError, match=r"ResidualMlp has none to show\. Use model=mixture"):
            assemble(compose([choice]), device="meta")
        return
    # The default loss reads the scores of all nodes; Soft MoE has no tree to walk.
    needs = {"hmoe_lazy": ["balance=none"], "soft_moe": ["tree=flat"]}.get(option, [])
    for model, overrides in (
        ("mlp", [choice, *needs]),
        ("transformer", ["data=stdlib", "model=transformer", choice, *needs]),
    ):
        cfg = compose(overrides)
        check(cfg)
        if message := refusal({group: option}, model):
            with pytest.raises(ConfigError, match=message):
                assemble(cfg, device="meta")
            continue
        assert (num_mixtures(cfg) == 0) == ((group, option) == ("ffn", "dense"))


def refusal(choice: dict[str, str], model: str) -> str | None:
    """Words of the message by which a pair of choices is refused, None if they go together."""
    if choice.get("gate") == "branch":
        return "gate: branch parts tokens in two"  # of the trees of conf/tree none is binary
    selection, balance = choice.get("selection", ""), choice.get("balance", "")
    if choice.get("gate") == "tied" and choice.get("tree") == "company":
        return "equal size"
    if choice.get("tree") == "flat" and choice.get("shared") == "units":
        return "no unit of tree 16"
    if balance == "importance_load":
        return "load_cv2 asks what new noise would change"
    if balance in ("switch_sequence", "bias_experts") and model == "mlp":
        return "statistics = sequence: needs a model that reads sequences"
    if selection in ("soft", "expert_choice") and balance.startswith("bias"):
        return "no load to steer"
    units = choice.get("tree") != "flat" and choice.get("gate") != "bottom_up"
    if balance == "bias_experts" and units:
        return "among = experts: this gate weighs units without"
    return None


@pytest.mark.parametrize(("one", "other"), list(combinations(MIXTURE, 2)))
def test_all_choices_of_a_mixture_go_together_in_pairs(one: str, other: str) -> None:
    base = compose([])
    for first, second in product(options(one), options(other)):
        cfg = base.copy()
        cfg[one], cfg[other] = composed(one, first)[one], composed(other, second)[other]
        if message := refusal({one: first, other: second}, "mlp"):
            with pytest.raises(ConfigError, match=message):
                assemble(cfg, device="meta")
            continue
        parts = assemble(cfg, device="meta")
        assert cost(parts.model).num_mixtures == 2
        assert str(parts.tree) == str(build(cfg.tree))


# ------------------------------------------------------------------ a step of training


@pytest.fixture(scope="module")
def tiny(made_files: Path) -> dict[str, DictConfig]:
    """Runs of no size, by model."""
    text = [*data_overrides("text", made_files), "data.suffixes=[.txt]"]
    return {
        "mlp": compose(["data=digits", "model=mlp", "tree=company", *TINY]),
        "transformer": compose(
            [*text, "model=transformer", "tree=company", *TINY, *TINY_TRANSFORMER]
        ),
    }


STEPS = [
    *({"selection": s, "balance": b} for s in options("selection") for b in options("balance")),
    *({"selection": s, "gate": g} for s in options("selection") for g in options("gate")),
    *({"experts": e, "shared": s} for e in options("experts") for s in options("shared")),
]


@pytest.mark.parametrize("model", ["mlp", "transformer"])
@pytest.mark.parametrize("choice", STEPS, ids=lambda choice: "-".join(choice.values()))
def test_a_step_of_training(
    choice: dict[str, str], model: str, tiny: dict[str, DictConfig]
) -> None:
    cfg = tiny[model].copy()
    tree = "deep" if choice.get("gate") == "tied" else "company"
    for group, option in {**choice, "tree": tree}.items():
        cfg[group] = composed(group, option)[group]
    if message := refusal(choice, model):
        with pytest.raises(ConfigError, match=message):
            assemble(cfg, device="meta")
        return
    parts = assemble(cfg)
    learner = parts.learner(Path())
    parts.data.setup()
    batch = parts.data.train_batch(0)
    optimizer = learner.configure_optimizers()["optimizer"]

    learner.loss(batch)[0].backward()
    for name, parameter in parts.model.named_parameters():
        assert parameter.grad is not None, name
        assert 0 < parameter.grad.abs().sum() < float("inf"), f"{name} must learn"
    optimizer.step()

    output, routings = parts.model(batch["x"])
    task_loss = parts.task.loss(output, batch["y"])
    penalty, values = parts.balance.loss(routings)
    assert list(values) == [f"{term}/level_{n}" for term in parts.balance.terms for n in range(3)]
    total = (task_loss + penalty).item()
    assert (total > task_loss.item()) == bool(values)
    assert learner.loss(batch)[0].item() == pytest.approx(total, rel=1e-4)

    parts.balance.step(parts.model, routings)
    mixtures = [module for module in parts.model.modules() if isinstance(module, HMoE)]
    assert len(mixtures) == len(routings) == (2 if model == "mlp" else 1)
    for layer, routing in zip(mixtures, routings, strict=True):
        if parts.balance.bias is None:
            assert layer.bias_N is None
        else:
            assert layer.bias_N.any() == (len(routing.load_E.unique()) > 1)


@pytest.mark.parametrize("balance", ["none", "bias"])
def test_a_step_of_training_with_a_lazy_descent(balance: str) -> None:
    lazy = ["ffn@model.ffn=hmoe_lazy", "selection.beam=1", f"balance={balance}"]
    parts = assemble(compose(["data=digits", "model=mlp", "tree.spec=[4,4,4]", *lazy, *TINY]))
    learner = parts.learner(Path())
    parts.data.setup()
    batch = parts.data.train_batch(0)
    learner.loss(batch)[0].backward()
    for name, parameter in parts.model.named_parameters():
        assert parameter.grad is not None, name
        assert 0 < parameter.grad.abs().sum() < float("inf"), f"{name} must learn"
    with pytest.raises(ConfigError, match=r"balance\.terms\.switch"):
        assemble(compose(["tree.spec=[4,4,4]", *lazy, "balance=switch"]), device="meta")
