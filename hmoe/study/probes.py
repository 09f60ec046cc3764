"""The probes of a study's arms, kept beside its runs: taken once, or in turns and in doubt.

Minutes of a plan need one probe an arm. A contract on seconds needs more: of a second on a busy
machine little is known, and the steps that are worked out from it stay. There the arms are measured
in rounds, one after the other in each, so that what slows one slows all; medians count; and how far
the rounds disagree about the ratio of two arms says how much of it to believe.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from math import sqrt
from pathlib import Path
from statistics import median, stdev

from omegaconf import DictConfig, OmegaConf

from hmoe.config import build, digest
from hmoe.errors import ConfigError
from hmoe.files import write_atomically
from hmoe.study.contract import PlannedArm
from hmoe.study.spec import Sweep
from hmoe.training import Probe, shortened

ROUNDS = 5
_TIMES = 3  # more tolerances of doubt than that, and the steps would be drawn by lot


class Probes:
    """The probes of a study's arms, by configuration, kept in a file.

    Args:
        path: of the file.
        sweep: the study; its workers decide how many threads a probe has.
        measure: takes a probe of a configuration; None only reads the file.
    """

    def __init__(
        self, path: Path, sweep: Sweep, measure: Callable[[DictConfig], Probe] | None
    ) -> None:
        self._path, self._sweep, self._measure = path, sweep, measure
        stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        self._rounds = {
            key: [Probe(**values) for values in (rounds if isinstance(rounds, list) else [rounds])]
            for key, rounds in stored.items()
        }

    def known(self, cfg: DictConfig) -> Probe | None:
        """What was measured of a configuration, whatever its length; None if nothing was."""
        key = digest(shortened(cfg))
        found = self._rounds.get(key)
        threads = cfg.trainer.threads or self._sweep.threads
        if self._measure is not None and not (found and self._still_holds(found[0], threads)):
            self._rounds[key] = found = [self._measure(self._with_threads(cfg))]
            self._keep()
        return _middle(found) if found else None

    def take_turns(self, arms: Sequence[PlannedArm], rounds: int) -> None:
        """Measure all arms in turns, unless all are known: the first measurement stands.

        Raises:
            ConfigError: a probe failed, or the rounds disagree by far more than the tolerance of
                the contract; then none is kept.
        """
        by_key = {digest(shortened(arm.cfg)): arm for arm in arms}
        if self._measure is None or by_key.keys() <= self._rounds.keys():
            return
        taken: dict[str, list[Probe]] = {key: [] for key in by_key}
        for _ in range(rounds):
            for key, arm in by_key.items():
                try:
                    taken[key].append(self._measure(self._with_threads(arm.cfg)))
                except ConfigError as error:
                    raise ConfigError(f"arm '{arm.name}': {error}") from error
        self._rounds |= taken
        self._refuse_doubt(arms)
        self._keep()

    def doubt(self, arm: PlannedArm, reference: PlannedArm) -> float | None:
        """Twice the standard error of the ratio of two arms' seconds, as a share of it.

        None with fewer than two rounds in common, and of the reference itself.
        """
        if arm.name == reference.name:
            return None
        own, other = (self._rounds.get(digest(shortened(a.cfg)), []) for a in (arm, reference))
        if len(own) != len(other) or len(own) < 2:
            return None
        options, others = build(arm.cfg.trainer), build(reference.cfg.trainer)
        pairs = zip(own, other, strict=True)
        ratios = [one.seconds(options) / two.seconds(others) for one, two in pairs]
        return 2 * stdev(ratios) / sqrt(len(ratios)) / median(ratios)

    def seconds(self, cfg: DictConfig) -> float | None:
        """Seconds of a whole run; None if nothing was measured."""
        found = self.known(cfg)
        return found.seconds(build(cfg.trainer)) if found else None

    def _still_holds(self, found: Probe, threads: int) -> bool:
        # The steps of a contract on seconds were worked out from it, whatever the workers now.
        return found.threads == threads or self._sweep.contract.match == "seconds"

    def _with_threads(self, cfg: DictConfig) -> DictConfig:
        threads = cfg.trainer.threads or self._sweep.threads
        changed = OmegaConf.merge(cfg, {"trainer": {"threads": threads}})
        assert isinstance(changed, DictConfig)
        return changed

    def _refuse_doubt(self, arms: Sequence[PlannedArm]) -> None:
        contract = self._sweep.contract
        (reference,) = (arm for arm in arms if arm.name == contract.reference)
        doubts = {arm.name: self.doubt(arm, reference) or 0.0 for arm in arms}
        worst = max(doubts, key=doubts.__getitem__)
        if doubts[worst] <= _TIMES * contract.tolerance:
            return
        rounds = len(next(iter(self._rounds.values())))
        raise ConfigError(
            f"sweep {self._sweep.name}: contract.match = seconds: in {rounds} rounds in turns the "
            f"seconds of '{worst}' beside those of '{contract.reference}' are known to "
            f"{doubts[worst]:.1%} only, and contract.tolerance = {contract.tolerance:g}: steps "
            "solved from that would be noise. Nothing was kept. Leave the machine alone meanwhile, "
            f"measure in more rounds with probe={4 * rounds}, or widen contract.tolerance to "
            f"{doubts[worst] / _TIMES:.2g} or more."
        )

    def _keep(self) -> None:
        kept = {key: list(map(asdict, rounds)) for key, rounds in self._rounds.items()}
        text = json.dumps(kept, indent=1)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, text)
        except OSError as error:
            raise ConfigError(
                f"runs: the folder {self._path.parent} cannot be written ({error.strerror}). "
                "Choose another with runs=<folder>."
            ) from error


def _middle(rounds: Sequence[Probe]) -> Probe:
    """Of every time its median, and the most memory."""
    names = ("setup_s", "step_s", "validation_s", "checkpoint_s")
    times = {name: median(getattr(one, name) for one in rounds) for name in names}
    return replace(rounds[0], **times, peak_bytes=max(one.peak_bytes for one in rounds))
