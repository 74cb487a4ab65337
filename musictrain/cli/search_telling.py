"""Shows how a search goes on: one line in the terminal, its page, and at the end a table and the best configuration.

What cannot be drawn or written for others holds nobody up.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from musictrain.cli.console import program
from musictrain.cli.search_driving import Trials
from musictrain.cli.search_texts import SearchStanding, alike_lines, best_lines, failure_lines, importance_lines, standing_of, summary_line
from musictrain.dashboard.search import SearchData, read_importance, write_search_data, write_search_page
from musictrain.dashboard.settings import read_config
from musictrain.runs.summary import shown
from musictrain.search.eta import time_left
from musictrain.search.ledger import FAILED, Ledger
from musictrain.search.outcome import write_best, write_results
from musictrain.search.plan import Job, Round
from musictrain.search.results import Results, results_of
from musictrain.search.telling import importance_of, progress_of, told_of, training_now
from musictrain.search.told import is_told, mark_told, unmark_told
from musictrain.search.trial_job import Outcome
from musictrain.speed.live_line import Display, new_display

log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
REST = 20.0  # times as long as looking takes
REST_OF_IMPORTANCE = 40.0


class Told:
    """A teller of ``musictrain.cli.search_driving``: the terminal and the page.

    Args:
        trials: what the driver is to do.
        display: shows a line; the terminal's, if left out.
    """

    def __init__(self, trials: Trials, display: Callable[[Callable[[], SearchStanding | None]], Display] = new_display) -> None:
        self._trials, self._definition, self._folder = trials, trials.definition, trials.folder
        self._data = SearchData(self._folder.path, self._folder.name)
        self._new_display = display
        self._display: Display | None = None
        self._began = time.monotonic()
        self._jobs: tuple[Job, ...] = ()
        self._standing: SearchStanding | None = None
        self._importance: dict[str, Any] | None = None
        self._importance_of: object = None
        self._weighing: threading.Thread | None = None
        self._due = self._importance_due = self._line_due = 0.0
        self._best = ""
        self._has_page = self._has_begun = False
        self._complained: set[str] = set()

    def begin(self, ledger: Ledger, round: Round) -> None:
        """A round begins: the line and the page are there from the first one on.

        Raises:
            OSError: if the folder cannot be written.
        """
        self._jobs = round.jobs
        if not self._has_begun:
            unmark_told(self._folder)
            self._has_begun = True
        if self._display is None:
            self._display = self._new_display(lambda: self._standing)
        rungs = self._definition.rule.rungs
        number = f"Rung {round.rung + 1} of {len(rungs)}: " if len(rungs) > 1 else ""
        many = len(round.jobs) != 1
        self._print(f"{number}{len(round.jobs):,} trial{'s' if many else ''} to {round.step:,} steps, {self._definition.slots} at a time.")
        self._due = 0.0
        self.look(ledger)

    def look(self, ledger: Ledger) -> None:
        """Draw what is due: the line often, results and page less often the longer they take."""
        began = time.monotonic()
        if began >= self._due:
            self._take_stock(ledger, going_on=True)
            self._due = time.monotonic() + max(LOOK_SECONDS, REST * (time.monotonic() - began))
        if self._display is not None and time.monotonic() >= self._line_due:
            self._display.redraw()
            self._line_due = time.monotonic() + self._display.redraw_seconds

    def take(self, outcome: Outcome) -> None:
        """A job has ended: failures are said at once, all others by the line."""
        if outcome.record.state == FAILED:
            self._print(f"Trial {outcome.record.trial} (seed {outcome.record.seed}) failed: {outcome.record.reason}")
        self._due = min(self._due, time.monotonic() + LOOK_SECONDS)

    def end(self, ledger: Ledger, best: Any) -> None:
        """What came of it: the table, what failed, and where everything lies."""
        self._jobs = ()
        results = self._told_before(ledger) or self._take_stock(ledger, going_on=False)
        if results is not None and results.finished and not self._complained:
            self._try("told.json", lambda: mark_told(self._folder))
        if self._display is not None:
            self._display.close()
        if results is None or not results.rows:
            return
        facts = progress_of(self._definition, results, ledger)
        print("\n".join([summary_line(self._definition, results, facts), *self._what_came(results)]), flush=True)

    def _told_before(self, ledger: Ledger) -> Results | None:
        """Results that page and files tell already; None if they do not."""
        return self._results(ledger) if not self._has_begun and is_told(self._folder) else None

    def _what_came(self, results: Results) -> list[str]:
        told = [
            *importance_lines(self._definition, read_importance(self._folder.path)),
            *failure_lines(self._definition, results),
            *alike_lines(self._definition, results),
        ]
        lines = [*best_lines(self._definition, results), *told]
        lines += [f"  page      {shown(self._folder.page)}"] if self._folder.page.is_file() else []
        if results.best is not None and self._folder.best.is_file():
            lines += [f"  best      {shown(self._folder.best)}", f"  train it  {program()} fit --config {shown(self._folder.best)}"]
        return [*lines, f"  table     {shown(self._folder.results)}"]

    # One look at everything.

    def _take_stock(self, ledger: Ledger, *, going_on: bool) -> Results | None:
        """Results as they are now, told to line, page and files; None if they cannot be had."""
        results = self._results(ledger)
        if results is None:
            return None
        running = training_now(self._folder.path.parent, ledger, self._missing(ledger)) if going_on else {}
        left = time_left(self._definition, self._trials.planned, ledger, running) if going_on else None
        facts, seconds = progress_of(self._definition, results, ledger), time.monotonic() - self._began
        self._standing = standing_of(self._definition, results, facts, left=left, running=len(running), elapsed=seconds, now=time.time())
        self._weigh(results, wait=not going_on)
        told = told_of(self._definition, results, ledger, importance=self._importance, left=left, running=len(running))
        self._try("page", lambda: self._draw(told, going_on))
        self._try("results.csv", lambda: write_results(self._folder, self._definition, results))
        self._try("best.yaml", lambda: self._keep_best(results))
        return results

    def _results(self, ledger: Ledger) -> Results | None:
        found: list[Results] = []
        self._try("results", lambda: found.append(results_of(self._definition, self._trials.planned, ledger)))
        return found[0] if found else None

    def _draw(self, told: dict[str, Any], going_on: bool) -> None:
        if not self._has_page:
            write_search_page(self._folder.path, self._folder.name)
            self._has_page = True
        write_search_data(self._folder.path, self._data.read(told, going_on=going_on))

    def _keep_best(self, results: Results) -> None:
        """Write it where it is another one, or is known better."""
        told = "" if results.best is None else repr((results.best.point.text, results.best.step, results.best.means, len(results.rows)))
        if told != self._best:
            write_best_of(self._trials, results)
            self._best = told

    def _missing(self, ledger: Ledger) -> list[str]:
        """The trials of this round that have not come to its end."""
        known = ((job, ledger.trial(job.identity)) for job in self._jobs)
        return [job.identity for job, trial in known if trial is None or not trial.settled_at(job.to_step)]

    def _weigh(self, results: Results, *, wait: bool) -> None:
        """Importance anew, where there are other values and it is time; in a thread, since it takes seconds."""
        metric = self._definition.objectives[0].metric
        values = tuple((row.point.hash, row.curve.get(metric, ())) for row in results.rows)
        if self._weighing is not None:
            if not wait and self._weighing.is_alive():
                return
            self._weighing.join()
        if values == self._importance_of or not any(curve for _, curve in values) or not (wait or time.monotonic() >= self._importance_due):
            return
        self._weighing = threading.Thread(target=lambda: self._try("importance", lambda: self._weigh_now(results, values)), daemon=True)
        self._weighing.start()
        if wait:
            self._weighing.join()

    def _weigh_now(self, results: Results, values: object) -> None:
        began = time.monotonic()
        self._importance_of = values
        self._importance = importance_of(self._definition, results)
        self._importance_due = time.monotonic() + REST_OF_IMPORTANCE * (time.monotonic() - began)

    def _print(self, text: str) -> None:
        if self._display is not None:
            self._display.print(text)
        else:
            print(text, flush=True)

    def _try(self, what: str, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception as error:
            if what not in self._complained:
                self._complained.add(what)
                log.warning("The search goes on without its %s, which cannot be had: %s: %s", what, type(error).__name__, error)


def write_best_of(trials: Trials, results: Results) -> None:
    """``best.yaml`` from the run that the best point did best in; nothing without one, or where its configuration cannot be read.

    Raises:
        OSError: if it cannot be written.
    """
    best = None if results.best is None else results.best.best_run(trials.definition.objectives)
    if best is None:
        return
    config = read_config(trials.folder.path.parent / best.run / "config.yaml")
    if isinstance(config, dict):
        write_best(trials.folder, trials.definition, results, config, best.run)
