"""A job: one run that a study needs. The search and the confirmation are sources of jobs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeVar

from hmoe.config import literal
from hmoe.study.contract import PlannedArm


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run to be trained.

    Attributes:
        kind: a trial of the search; or of its confirmation, which also looks at the test set.
        arm: its arm, matched.
        drawn: the searched settings, as overrides.
        seed: of data, initialisation and all other draws.
        label: in messages.
        place: its run folder, below that of the study; its name everywhere, in MLflow too.
    """

    kind: Literal["trial", "confirm"]
    arm: PlannedArm
    drawn: Sequence[str]
    seed: int
    label: str
    place: str

    @property
    def overrides(self) -> list[str]:
        """What `hmoe train` takes to repeat the run."""
        last = [f"seed={self.seed}", f"test={literal(self.kind == 'confirm')}"]
        return [*self.arm.overrides, *self.drawn, *last]


JobState = Literal["waiting", "running", "complete", "pruned", "failed"]
UNENDED: frozenset[JobState] = frozenset({"waiting", "running"})

J = TypeVar("J", bound=Job)


class Source(Protocol[J]):
    """Who says what is to be run, and remembers how it ended. A job ends once."""

    def ask(self) -> J | None:
        """The next job; None when all have begun."""

    def verdict(self, job: J, folder: Path) -> str:
        """Why a running job is to be stopped, by what is in its folder; "" lets it go on."""

    def tell(
        self,
        job: J,
        metrics: Mapping[str, float] | None,
        reason: str = "",
        *,
        pruned: bool = False,
    ) -> None:
        """End a job: with the metrics of its run, or without and with the reason."""

    def interrupt(self, job: J) -> None:
        """Give back a job that was stopped on purpose; it is asked for again."""

    def states(self) -> Mapping[str, JobState]:
        """The state of every planned job, by its run folder below that of the study."""
