"""Optuna's file: the studies of the arms, made by their one writer or opened to be read only."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import optuna
from sqlalchemy.pool import NullPool

from hmoe.study.contract import PlannedArm
from hmoe.study.spec import Sweep

optuna.logging.set_verbosity(optuna.logging.WARNING)


def storage_url(runs: Path) -> str:
    """Where Optuna's tables are."""
    return f"sqlite:///{runs.resolve() / 'optuna.db'}"


def made_studies(sweep: Sweep, arms: Sequence[PlannedArm], runs: Path) -> dict[str, optuna.Study]:
    """The studies of the arms, made where there are none."""
    storage = _open(runs)
    ways = dict(zip(sweep.objectives, sweep.directions, strict=True))
    return {
        arm.name: optuna.create_study(
            study_name=f"{sweep.name}/{arm.name}",
            storage=storage,
            directions=[way for metric, way in ways.items() if metric in arm.objectives],
            load_if_exists=True,
        )
        for arm in arms
    }


def _open(runs: Path) -> optuna.storages.BaseStorage:
    return optuna.storages.RDBStorage(storage_url(runs))


def kept_studies(sweep: Sweep, arms: Sequence[PlannedArm], runs: Path) -> dict[str, optuna.Study]:
    """Those studies of the arms that there are, opened to be read only."""
    file = runs.resolve() / "optuna.db"
    if not file.exists():
        return {}
    url = f"sqlite:///file:{quote(str(file))}?mode=ro&uri=true"
    storage = optuna.storages.RDBStorage(
        url,
        engine_kwargs={"poolclass": NullPool},  # who looks again and again leaves no file open
        skip_compatibility_check=True,
        skip_table_creation=True,
    )
    known = set(optuna.get_all_study_names(storage))
    names = {arm.name: f"{sweep.name}/{arm.name}" for arm in arms}
    return {
        arm: optuna.load_study(study_name=name, storage=storage)
        for arm, name in names.items()
        if name in known
    }
