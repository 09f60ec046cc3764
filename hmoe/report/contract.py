"""The budget contract: what every arm spent in five quantities, and whether arms were matched."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hmoe.report.tables import Spread, arms, spread
from hmoe.tracking import Run, Study

QUANTITIES = ("active_params", "total_params", "train_flops", "tokens", "seconds")
_ROUNDING = 1e-9  # 1020 is within 2 % of 1000, though 1020 / 1000 - 1 is a little more than 0.02


@dataclass(frozen=True)
class ContractRow:
    """What an arm spent, by quantity, and how far it lies from the reference in the matched one."""

    arm: str
    spent: Mapping[str, Spread | None]
    deviation: float | None
    within: bool


@dataclass(frozen=True)
class ContractCheck:
    """The budget contract and every arm's part in it. `reference` is None if it is unknown."""

    match: str
    reference_name: str
    reference: float | None
    tolerance: float
    quantities: tuple[str, ...]
    rows: tuple[ContractRow, ...]

    @property
    def broken(self) -> tuple[ContractRow, ...]:
        return tuple(row for row in self.rows if not row.within)


def contract_check(study: Study) -> ContractCheck | None:
    """How far every arm lies from the contract; an arm's farthest run decides.

    All complete runs count, those that confirm too. The reference is its own measure and never off,
    however its runs spread.
    """
    contract = study.contract
    if contract is None:
        return None
    match = contract.match
    quantities = QUANTITIES if match in QUANTITIES else (*QUANTITIES, match)
    by_arm = {
        arm: [run for run in study.runs if run.arm == arm and run.state == "complete"]
        for arm in arms(study)
    }
    if isinstance(contract.reference, str):
        known = spread(spent_by(by_arm.get(contract.reference, ()), match))
        reference = known.mean if known else None
    else:
        reference = float(contract.reference)
    rows = []
    for arm, runs in by_arm.items():
        off = [x / reference - 1 for x in spent_by(runs, match)] if reference else []
        itself = arm == contract.reference and bool(off)
        deviation = 0.0 if itself else max(off, key=abs, default=None)
        within = deviation is None or abs(deviation) <= contract.tolerance + _ROUNDING
        spent = {quantity: spread(spent_by(runs, quantity)) for quantity in quantities}
        rows.append(ContractRow(arm, spent, deviation, within))
    name = contract.reference if isinstance(contract.reference, str) else ""
    return ContractCheck(match, name, reference, contract.tolerance, quantities, tuple(rows))


def spent_by(runs: Iterable[Run], quantity: str) -> list[float]:
    """What runs spent of a quantity, those left out that do not know it."""
    return [run.cost[quantity] for run in runs if quantity in run.cost]
