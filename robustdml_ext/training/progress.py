"""How a run shows that it moves: a bar on a terminal, one line an epoch elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from robustdml_ext.training.batches import epochs_of

# Of an evaluation while training, on the screen.
SHOWN = ("recall@1", "accuracy_similarity", "accuracy_dense")


class TrainingProgress:
    """Shows steps, rate, time left and loss.

    Args:
        console: where to write.
        first: steps done before (a resumed run).
        total: steps of the whole run.
        steps_per_epoch: to show epochs.
        quiet: show nothing at all.
    """

    def __init__(self, console: Console, first: int, total: int, steps_per_epoch: int, quiet: bool = False) -> None:
        self._console = console
        self._first, self._total, self._per_epoch, self._quiet = first, total, steps_per_epoch, quiet
        self._began = time.perf_counter()
        self._bar: Progress | None = None
        if console.is_terminal and not quiet:
            self._bar = Progress(
                TextColumn("epoch {task.fields[epoch]}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]:.1f} steps/s"),
                TextColumn("loss {task.fields[loss]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task(
                "", total=total, completed=first, epoch=self._epoch(first), rate=0.0, loss="–"
            )

    def _epoch(self, step: int) -> str:
        epochs = epochs_of(self._total, self._per_epoch)
        return f"{min(step // self._per_epoch + 1, epochs)}/{epochs}"

    def _rate(self, step: int) -> float:
        return (step - self._first) / max(time.perf_counter() - self._began, 1e-9)

    def step(self, step: int) -> None:
        """Move to ``step`` steps done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step, epoch=self._epoch(step), rate=self._rate(step))

    def loss(self, loss: float) -> None:
        """Show the latest mean loss."""
        if self._bar is not None:
            self._bar.update(self._task, loss=f"{loss:.4f}")

    def epoch(self, step: int, means: dict[str, float], found: dict[str, float], judged: str = "test") -> None:
        """Report an epoch that ended after ``step`` steps: its mean loss and terms of it, and what was ``found``.

        Args:
            step: optimizer steps done.
            means: `loss`, and terms as `loss/metric`.
            found: figures on the classes judged, none where they were not.
            judged: which classes those are.
        """
        shown = "".join(f"  {judged} {name} {value:.1%}" for name, value in found.items() if name in SHOWN)
        if not self._quiet and (self._bar is None or shown):
            done = f"epoch {epochs_of(step, self._per_epoch)}/{epochs_of(self._total, self._per_epoch)}"
            if self._total % self._per_epoch:
                done += f", step {step}/{self._total}"  # the last epoch is cut short
            terms = ", ".join(f"{name[5:]} {value:.4f}" for name, value in means.items() if name.startswith("loss/"))
            loss = f"loss {means['loss']:.4f}" + (f" ({terms})" if "," in terms else "")
            self._console.print(f"{done}  {loss}  {self._rate(step):.1f} steps/s{shown}", highlight=False)

    def __enter__(self) -> TrainingProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
