"""W&B, offline: the numbers, rolls and sounds of a run in Weights & Biases' own files, to be sent, or not, by ``wandb sync``.

    musictrain fit --config chorales --trainer.logger musictrain.loggers.WandB
    wandb sync runs/<run>/wandb/offline-run-*

Files: ``wandb/`` in the run folder. When: on demand; needs ``pip install "musictrain[wandb]"``. Cost: W&B's own process writes.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from musictrain.loggers.settling import Settling, harmless, sample_tag, scalars
from musictrain.runs import atomic_write

STEP = "trainer/global_step"
LONGEST_CAPTION = 200
MODES = ("online", "offline", "disabled")
# Nothing on the terminal, and no word of the machine, its user, its code or its environment: a run is about music.
QUIET = {
    **dict.fromkeys(("silent", "quiet", "disable_git", "disable_code", "disable_job_creation"), True),
    **dict.fromkeys(("x_disable_stats", "x_disable_meta", "x_disable_machine_info", "x_disable_viewer"), True),
    **dict.fromkeys(("save_code", "x_save_requirements", "show_info", "show_warnings", "symlink"), False),
    **dict.fromkeys(("host", "username", "email", "program"), ""),
    "console": "off",
}


class WandB(Settling, WandbLogger):  # type: ignore[misc]
    """Lightning's WandbLogger in the run's folder, which stays on this machine unless it is asked not to.

    A resumed run goes on under the same id, which is kept in ``wandb/run_id``; each new attempt is a further ``offline-run-*``. Rows bear
    the optimizer steps done as ``trainer/global_step``; what an attempt did again is there twice.

    Args:
        project: under which the run is filed.
        name: of the run; its folder's, if left out.
        entity: user or team.
        offline: False sends everything to W&B's server. The environment's WANDB_MODE can only make it stay: ``offline`` or ``disabled``.
        save_dir: where to write in a Trainer without a run folder.

    Raises:
        ModuleNotFoundError: if wandb is not installed.
    """

    def __init__(
        self, project: str = "musictrain", name: str | None = None, entity: str | None = None, offline: bool = True, save_dir: str = "."
    ) -> None:
        if importlib.util.find_spec("wandb") is None:
            raise ModuleNotFoundError(
                'The logger musictrain.loggers.WandB needs wandb, which is not installed: pip install "musictrain[wandb]". '
                "Or leave it out of trainer.logger; musictrain's own records need nothing."
            )
        super().__init__(name=name, save_dir=save_dir, project=project, offline=offline)
        self._entity = entity
        self.mode = chosen_mode(offline, os.environ.get("WANDB_MODE", ""))

    def settle(self, run_folder: str | Path, resumed_from: int | None = None) -> None:
        """Write into this run's folder from now on, under the id that stands there if there is one."""
        super().settle(run_folder, resumed_from)
        self._save_dir = str(run_folder)
        self._name = self._name or Path(run_folder).name

    @rank_zero_only
    @harmless
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Add a row of the values that are numbers."""
        self._add(scalars(metrics), self.steps_done(step))

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """Remember them, where the run has no configuration of its own."""
        self._params = dict(params) if isinstance(params, Mapping) else dict(vars(params))

    @rank_zero_only
    @harmless
    def log_sample(self, stem: Path, step: int, info: Mapping[str, Any]) -> None:
        """Add the picture and the sound of a sample, ``stem``.png and .wav."""
        run, tag, caption = self._begun(), sample_tag(stem), str(info.get("prompt") or "")[:LONGEST_CAPTION]
        import wandb

        picture, sound = (str(stem.with_name(f"{stem.name}.{ending}")) for ending in ("png", "wav"))
        media = {f"{tag}/roll": wandb.Image(picture, caption=caption), f"{tag}/sound": wandb.Audio(sound, caption=caption)}
        run.log({**media, STEP: step})

    @rank_zero_only
    @harmless
    def finalize(self, status: str) -> None:
        """End W&B's run, so that another one can begin in this process."""
        if self._experiment is not None:
            run, self._experiment = self._experiment, None
            run.finish(exit_code=0 if status == "success" else 1)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_experiment": None, "_trainer": None}

    def _add(self, values: Mapping[str, Any], step: int | None) -> None:
        self._begun().log(dict(values) if step is None else {**values, STEP: step})

    def _begun(self) -> Any:
        if self._experiment is None:
            if self.mode != "online":
                # Read when wandb is first imported: it would report its own errors to its makers.
                os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
            import wandb

            _speak_to_the_log(wandb)
            Path(str(self._save_dir)).mkdir(parents=True, exist_ok=True)
            known: dict[str, Any] = {**QUIET, "mode": self.mode, "x_disable_viewer": self.mode != "online"}
            quiet: dict[str, Any] = {key: value for key, value in known.items() if key in wandb.Settings.model_fields}
            self._id = self._id or self._run_id()
            begin: Any = wandb.init
            run = begin(
                project=self._project,
                entity=self._entity,
                name=self._name,
                id=self._id,
                dir=self._save_dir,
                config=self.settings(),
                resume="allow",
                reinit="create_new",
                settings=wandb.Settings(**quiet),
            )
            run.define_metric(STEP)
            run.define_metric("*", step_metric=STEP, step_sync=True)
            self._experiment = run
        return self._experiment

    def _run_id(self) -> str:
        """The id in the run's folder, or a new one, put there."""
        if self.run is None:
            return secrets.token_hex(4)
        file = self.run.path / "wandb" / "run_id"
        if not file.is_file() or not file.read_text(encoding="utf-8").strip().isalnum():
            file.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(file, secrets.token_hex(4) + "\n")
        return file.read_text(encoding="utf-8").strip()


def chosen_mode(offline: bool, asked: str) -> str:
    """What stays most at home: of the setting and the environment's WANDB_MODE, whatever that says.

    >>> chosen_mode(True, "online"), chosen_mode(False, "offline"), chosen_mode(False, ""), chosen_mode(False, "nonsense")
    ('offline', 'offline', 'online', 'online')
    """
    own = "offline" if offline else "online"
    other = {"dryrun": "offline"}.get(asked.strip().lower(), asked.strip().lower())
    return max(own, other if other in MODES else own, key=MODES.index)


def _speak_to_the_log(wandb: Any) -> None:
    """Let what wandb says on the terminal go to its logger, and so to train.log; a wandb without such a way goes on printing."""
    with contextlib.suppress(Exception):
        wandb.setup()
        wandb.termsetup(wandb.Settings(silent=True), logging.getLogger("wandb"))
