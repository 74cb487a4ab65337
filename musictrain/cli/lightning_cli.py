"""MusicCLI: LightningCLI with every flag as it is, short errors, a run folder, and a network that fits its tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import yaml
from jsonargparse.typing import PositiveFloat, PositiveInt
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from musictrain import rolling_back
from musictrain.callbacks import RunLogger, RunRecorder
from musictrain.cli.auto_resume import WHICH, version_to_go_on_from
from musictrain.cli.exits import UsageError
from musictrain.cli.options import default_runs_dir
from musictrain.cli.own_settings import own_settings
from musictrain.cli.parse_errors import condense, parameters_of
from musictrain.cli.pausing import PAUSE_AT, add_pausing_argument, pauses_of
from musictrain.cli.recipes import config_files
from musictrain.cli.resume import check_same_parts
from musictrain.cli.run_defaults import Announcement, default_callbacks, loggers_of, measuring_options, run_name
from musictrain.cli.spread_trainer import SpreadTrainer, settle_device
from musictrain.cli.starting import begin_with, check_one_beginning, source_of
from musictrain.data.accumulation import AccumulationRule
from musictrain.runs import RunFolder
from musictrain.runs.secrets import check_nothing_is_hidden, hidden_config, remember_command, remember_config
from musictrain.runs.train_log import TrainLog

DEFAULT_SEED = 1
VOCAB_SIZE = "model.init_args.network.init_args.vocab_size"
UNSET = object()


class MusicParser(LightningArgumentParser):
    """Lightning's parser, except that a mistake is a UsageError of one or two lines."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Every complaint of the outermost parser ends here; inner ones are told to raise, and do."""
        if not self.exit_on_error:
            super().error(message, ex)
        known = [action.dest for parser in (self, *_subparsers(self)) for action in parser._actions]
        raise UsageError(condense(message, known, f"musictrain {_command_of(self)}")) from ex


def _subparsers(parser: Any) -> list[Any]:
    return list(parser._subcommands_action.choices.values()) if parser._subcommands_action is not None else []


def _command_of(parser: Any) -> str:
    return next(iter(parser._subcommands_action.choices), "COMMAND") if parser._subcommands_action is not None else parser.prog.split()[-1]


class MusicCLI(LightningCLI):
    """One of Lightning's commands with musictrain's defaults.

    Args:
        command: ``fit``, ``validate``, ``test`` or ``predict``.
        arguments: the words after it.
        train_log: what has been listening so far; it becomes the run's ``train.log``.
        folder: an existing run folder to go on in, instead of a new one.
        callbacks: further ones for ``fit``, before all others.

    Raises:
        UsageError: for what cannot be parsed, or a network whose vocabulary is not the tokenizer's.
    """

    def __init__(
        self,
        command: str,
        arguments: Sequence[str],
        *,
        train_log: TrainLog | None = None,
        folder: Path | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self._command, self._arguments, self._further_callbacks = command, list(arguments), list(callbacks)
        self._train_log, self._folder = train_log, folder
        self._given_vocab_size: Any = UNSET
        self._fault = ""
        self.reasons: list[str] = []
        self._starting: list[Callback] = []
        self.run_logger: RunLogger | None = None
        super().__init__(
            LightningModule,
            LightningDataModule,
            save_config_callback=None,
            trainer_class=SpreadTrainer,
            trainer_defaults={"use_distributed_sampler": False},
            seed_everything_default=DEFAULT_SEED,
            parser_class=MusicParser,
            # exit_on_error stays on: it is how the outermost parser knows itself.
            parser_kwargs={"allow_abbrev": False, command: {"allow_abbrev": False}, "prog": "musictrain"},
            subclass_mode_model=True,
            subclass_mode_data=True,
            args=[command, *arguments],
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The one command that was asked for: building the parsers of all four takes four times as long."""
        return {self._command: LightningCLI.subcommands()[self._command]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Where runs are kept, what this one is called, and the size of the vocabulary from the data's tokenizer."""
        parser.add_argument("--runs", type=str, default=str(default_runs_dir()), help="Folder in which run folders are kept.")
        parser.add_argument("--name", type=str | None, default=None, help="What the run's folder is named after.")
        add_device_arguments(parser)
        add_starting_arguments(parser)
        add_pausing_argument(parser)
        parser.set_defaults({"model": "musictrain.MusicModule", "data": "musictrain.MusicDataModule"})
        parser.link_arguments("data", VOCAB_SIZE, compute_fn=self._vocab_size, apply_on="instantiate")

    def _prepare_subcommand_parser(self, *args: Any, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(*args, **kwargs)
        # Lightning would read checkpoints with pickle, which runs what is in them.
        parser.set_defaults({"weights_only": True})
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """As in Lightning, without its remark on arguments that do not come from ``sys.argv``."""
        with own_settings():
            self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        # Lightning lets the hyper-parameters inside a checkpoint override the command line. Here the configuration says what to build;
        # whether the checkpoint fits it shows when its weights are loaded.
        return

    # Filling in what follows from something else.

    @property
    def settings(self) -> Any:
        """The configuration of the command."""
        return self.config[self._command]

    def before_instantiate_classes(self) -> None:
        """Note a vocabulary set by hand; let the seed of everything be the data's, unless that has one of its own; know what is secret."""
        remember_command(self._arguments)
        remember_config(self.settings.as_dict())
        check_nothing_is_hidden(self.settings.as_dict())
        self._given_vocab_size = self.settings.get(VOCAB_SIZE, UNSET)
        data = self.settings.get("data.init_args")
        if data is not None and "seed" in data and not given(("data", "init_args", "seed"), self._arguments):
            data["seed"] = self.settings.seed_everything

    def _vocab_size(self, data: Any) -> int:
        """The vocabulary of the data's tokenizer, or what was set by hand where the data has none."""
        wanted = None if self._given_vocab_size in (None, UNSET) else int(self._given_vocab_size)
        offered = getattr(data, "vocab_size", None)
        if offered is None and wanted is None:
            self._fault = f"The network needs a vocab_size and {type(data).__name__} offers none: set {VOCAB_SIZE}."
        elif offered is not None and wanted is not None and wanted != offered:
            tokenizer = getattr(getattr(data, "tokenizer", None), "name", type(data).__name__)
            self._fault = (
                f"The network has {wanted} tokens, the tokenizer {tokenizer} has {offered}. "
                f"Leave out {VOCAB_SIZE}, and it follows the tokenizer; or set it to {offered}."
            )
        return int(offered or wanted or 1)

    def _dump_config(self) -> None:
        super()._dump_config()
        # Lightning files the linked value under the network's other arguments and stumbles where there are none.
        network = ((self.config_dump.get("model") or {}).get("init_args") or {}).get("network")
        if isinstance(network, dict):
            network.setdefault("init_args", {})

    # The Trainer.

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Lightning's, with the run folder's logger in front and the default callbacks behind the user's own."""
        if self._fault:
            # Not raised where it is found: jsonargparse would print the whole data module with it, and so read the corpus.
            raise UsageError(self._fault)
        settings = self._get(self.config_init, "trainer", default={})
        options, self.reasons = settle_device(self.settings, settings, self.model, self.datamodule)
        if self._command != "fit":
            return super().instantiate_trainer(**{**measuring_options(settings), **options, **kwargs})
        self._check_batch(settings)
        config = self.resolved_config()
        if self._folder is None and self.settings.get("ckpt_path") in WHICH:
            self._go_on(config)
        announcement = self._announcement()
        self.run_logger = RunLogger(self.settings.runs, run_name(self.settings, self._arguments), folder=self._folder)
        if self._folder is not None and RunFolder(self._folder).config.is_file():
            check_same_parts(RunFolder(self._folder), yaml.safe_load(config))
        recorder = RunRecorder(config=config, train_log=self._train_log)
        return super().instantiate_trainer(
            logger=loggers_of(self.run_logger, settings.get("logger")),
            callbacks=[*self._further_callbacks, *self._starting, *self._callbacks(settings, recorder, announcement)],
            **options,
            **kwargs,
        )

    def fit(self, **options: Any) -> None:
        """What LightningCLI runs instead of ``trainer.fit``: the same, except that it can go back to an earlier version."""
        rolling_back.fit(self.trainer, **options)

    def _callbacks(self, settings: Any, recorder: RunRecorder, announcement: Announcement) -> list[Callback]:
        every = default_callbacks(settings.get("callbacks"), settings, recorder, announcement, self.settings.get("global_batch_tokens"))
        return [*pauses_of(self.settings.get(PAUSE_AT), every, self.config_init[self._command].get("ckpt_path")), *every]

    def _announcement(self) -> Announcement:
        """What is said before the first step; on the way a run that begins with another's weights takes them."""
        path = self.config_init[self._command].get("ckpt_path")
        text = self.settings.get("init_from")
        # The same command line begins such a run, and by `auto` goes on with it.
        typed = self.settings.get("ckpt_path") not in WHICH and given(("init_from",), self._arguments, files=False)
        check_one_beginning(text, path, goes_on=self._folder is not None, typed=typed)
        if text is not None and path is None:
            # Before there is a run folder: what does not fit leaves none behind.
            source = source_of(text, Path(self.settings.runs))
            lines, callback = begin_with(source, self.model, self.datamodule, self.settings)
            self.reasons += lines
            self._starting += [] if callback is None else [callback]
            return Announcement(self.reasons, source.paths[-1], "started from", source.version)
        # What was not found out by the command line itself, such as `last`, is somebody's own version.
        return Announcement(self.reasons, None if self._folder is not None or path is None or path in WHICH else Path(path))

    def _check_batch(self, settings: Any) -> None:
        """Refuse tokens of a step that cannot work, before a run is begun."""
        tokens, of_batch = self.settings.get("global_batch_tokens"), getattr(self.datamodule, "tokens_per_batch", None)
        if tokens is not None and settings.get("accumulate_grad_batches") not in (None, 1):
            raise UsageError(
                "Both --global_batch_tokens and --trainer.accumulate_grad_batches say how much a step gathers: set one of them."
            )
        if tokens is not None and of_batch is not None:
            AccumulationRule.of_tokens({0: tokens}, of_batch)

    def _go_on(self, config: str) -> None:
        """Turn ``last``, ``best`` or ``auto`` into a version of the newest run of this configuration, and go on in its folder."""
        found = version_to_go_on_from(self.settings.ckpt_path, Path(self.settings.runs), yaml.safe_load(config))
        self.config_init[self._command]["ckpt_path"] = None if found is None else str(found[1])
        if found is not None:
            self._folder = found[0].path

    def resolved_config(self) -> str:
        """The configuration with every default filled in, as YAML that ``--config`` takes; ``runs`` is where the file lies.

        Where it is to rest is no part of what it is.

        Secrets are hidden in it: it is written down with the run and its versions.
        """
        text = self._parser(self._command).dump(self.settings, skip_none=False, skip_validation=True)
        config = hidden_config({key: value for key, value in yaml.safe_load(text).items() if key not in ("runs", PAUSE_AT)})
        network = ((config.get("model") or {}).get("init_args") or {}).get("network")
        size = getattr(getattr(self.model, "network", None), "vocab_size", None)
        if isinstance(network, dict) and "vocab_size" in parameters_of(network["class_path"]) and size is not None:
            network["init_args"] = {"vocab_size": size, **network.get("init_args", {})}
        return yaml.safe_dump(config, sort_keys=False, allow_unicode=True)


def add_device_arguments(parser: LightningArgumentParser) -> None:
    """What Lightning's Trainer has no key for."""
    parser.add_argument(
        "--matmul_precision",
        type=Literal["auto", "highest", "high", "medium"],
        default="auto",
        help="How products of 32-bit matrices are computed; auto takes a faster way only where it is as exact.",
    )
    parser.add_argument(
        "--timeout_minutes",
        type=PositiveFloat,
        default=10.0,
        help="With several processes: how long one waits for another that does not answer before all end with an error.",
    )
    parser.add_argument(
        "--global_batch_tokens",
        type=PositiveInt | None,
        default=None,
        help="Tokens of an optimizer step over all devices: so many batches are gathered. A schedule: callbacks.AccumulationSchedule.",
    )


def add_starting_arguments(parser: LightningArgumentParser) -> None:
    """With what a new run begins."""
    parser.add_argument(
        "--init_from",
        type=str | None,
        default=None,
        help="Begin a new run with the weights of RUN (its best version), RUN@VERSION (last, best, average, a number, a name) or a file.",
    )
    parser.add_argument(
        "--init_vocabulary",
        type=Literal["extend", "same"],
        default="extend",
        help="Where --init_from knows other tokens: rows of embeddings and heads go by the names of tokens, new ones begin at the mean of "
        "their kind; or refuse.",
    )
    parser.add_argument(
        "--init_optimizer",
        type=bool,
        default=False,
        help="With --init_from: take what the optimizer remembers too; refused if it does not fit.",
    )


def given(path: Sequence[str], arguments: Sequence[str], *, files: bool = True) -> bool:
    """Whether a key was set on the command line (with or without its ``init_args``) or in one of its configuration files."""
    short = [part for part in path if part != "init_args"]
    options = {f"--{'.'.join(path)}", f"--{'.'.join(short)}"}
    on_line = any(word.partition("=")[0] in options for word in arguments)
    return on_line or (files and any(_in_file(path, file) for file in config_files(arguments)))


def _in_file(path: Sequence[str], file: Path) -> bool:
    node = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else None
    for key in path:
        if not isinstance(node, dict) or key not in node:
            return False
        node = node[key]
    return True
