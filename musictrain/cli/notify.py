"""``notify``: what a run tells whom, and with ``--test`` one mail now, to see whether it arrives."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any

from musictrain.cli.exits import FAILED, FINISHED, UsageError
from musictrain.cli.options import CommandParser
from musictrain.cli.recipes import find_config
from musictrain.notifications.mail_settings import MailSettings
from musictrain.notifications.messages import EVENTS, trial
from musictrain.notifications.smtp import MailError, Step, make_mail, send
from musictrain.runs import RunFolder, find_run
from musictrain.runs.log_lines import one_line
from musictrain.runs.records import read_records
from musictrain.runs.secrets import hidden, hide
from musictrain.runs.summary import shown
from musictrain.suggestions import did_you_mean

CALLBACK = "Notifications"
FILE_NAME = "notifications.jsonl"
MOST_SHOWN = 5
EXAMPLE = """\
Add the callback to a configuration:

  trainer:
    callbacks:
      - class_path: musictrain.callbacks.Notifications
        init_args:
          file: true
          mail: {host: mail.example.org, to: ada@example.org, user: ada}

and put the password into the environment variable MUSICTRAIN_SMTP_PASSWORD, never into the file."""


@dataclass(frozen=True)
class Wanted:
    """What a configuration says of notifications.

    Args:
        source: where it stands.
        options: of the callback, by name.
        run: the run it belongs to, None for a configuration alone.
    """

    source: Path
    options: dict[str, Any]
    run: RunFolder | None = None

    def events(self) -> list[str]:
        """Which events are told."""
        named = self.options.get("events") or EVENTS
        return [named] if isinstance(named, str) else list(named)

    def mail(self) -> MailSettings | None:
        """How mail is sent, None if it is not.

        Raises:
            UsageError: if that cannot work.
        """
        given = self.options.get("mail")
        if given is None:
            return None
        known = {each.name for each in fields_of(MailSettings)}
        if not isinstance(given, dict):
            raise UsageError(f"{shown(self.source)}: mail is {type(given).__name__}, expected keys such as host and to.")
        for key in given:
            if key not in known:
                raise UsageError(
                    f"{shown(self.source)}: mail.{key} is no key. {did_you_mean(str(key), known) or f'There are: {sorted(known)}'}"
                )
        try:
            return MailSettings(**given)
        except (ValueError, TypeError) as error:
            raise UsageError(f"{shown(self.source)}: {_without_python(error)}") from error


def _without_python(error: Exception) -> str:
    """A missing argument in the words of a configuration."""
    text = str(error)
    return f"mail lacks {text.partition(': ')[2]}." if "required positional" in text else text


def run(command: str, arguments: list[str]) -> int:
    """Show what would be told, or send one mail; 1 if that fails.

    Raises:
        UsageError: if there is nothing to show, or the settings cannot work.
        RunNotFoundError: if there is no such run.
    """
    options = parser().parse_args(arguments)
    wanted = wanted_of(options)
    return test(wanted, as_json=options.json) if options.test else show(wanted, as_json=options.json)


def parser() -> argparse.ArgumentParser:
    """The options of ``notify``."""
    parser = CommandParser("notify", "Say what a run tells whom; with --test send one mail now.")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLE
    parser.add_argument("run", nargs="?", metavar="RUN", help="a folder, a name, a unique part of one, 'latest' or 'best'")
    parser.add_argument("--config", metavar="FILE", help="take the settings from this configuration or recipe instead of a run's")
    parser.add_argument("--test", action="store_true", help="send one mail now and say what the server said")
    parser.add_argument("--json", action="store_true", help="the same for programs")
    return parser


def wanted_of(options: argparse.Namespace) -> Wanted:
    """The settings that are meant.

    Raises:
        UsageError: if they cannot be read, or there are none.
        RunNotFoundError: if there is no such run.
    """
    if options.config is not None and options.run is not None:
        raise UsageError("Both a run and --config say where the settings are: name one of them.")
    found = None if options.config is not None else find_run(options.run or "latest", options.runs)
    source = found.config if found is not None else Path(find_config(options.config))
    callback = callback_of(read_config(source))
    if callback is None:
        raise UsageError(f"{shown(source)} has no {CALLBACK} callback, so nobody is told anything.\n\n{EXAMPLE}")
    return Wanted(source, callback, found)


def read_config(path: Path) -> dict[str, Any]:
    """A configuration as plain values.

    Raises:
        UsageError: if it cannot be read.
    """
    import yaml

    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"{shown(path)} cannot be read: {hide(str(error))}") from error
    if not isinstance(config, dict):
        raise UsageError(f"{shown(path)} is not a configuration.")
    return config


def callback_of(config: dict[str, Any]) -> dict[str, Any] | None:
    """The options of the notifications in a configuration, None if it has none."""
    trainer = config.get("trainer")
    callbacks = trainer.get("callbacks") if isinstance(trainer, dict) else None
    for callback in callbacks if isinstance(callbacks, list) else [callbacks]:
        if isinstance(callback, dict) and str(callback.get("class_path", "")).split(".")[-1] == CALLBACK:
            options = callback.get("init_args")
            return options if isinstance(options, dict) else {}
    return None


def show(wanted: Wanted, *, as_json: bool) -> int:
    """What would be told, by which ways, and what was told last."""
    mail, told = wanted.mail(), told_of(wanted)
    if as_json:
        settings = None if mail is None else {**hidden(asdict(mail)), "problem": mail.problem()}
        facts = {"source": str(wanted.source), "events": wanted.events(), "mail": settings, "file": wanted.options.get("file", False)}
        print(json.dumps({**facts, "console": wanted.options.get("console", True), "told": told[-MOST_SHOWN:]}, indent=2, default=str))
        return FINISHED
    rows = [("settings", shown(wanted.source)), ("events", ", ".join(wanted.events()))]
    rows += [("terminal", "yes" if wanted.options.get("console", True) else "no")]
    file = wanted.options.get("file") or "no"
    rows += [("file", f"{FILE_NAME} in the run folder" if file is True else str(file))]
    rows += mail_rows(mail)
    rows += [("told so far", f"{len(told)} messages" if told else "nothing, or not to a file")]
    print("\n".join(f"{label:<12} {one_line(text)}" for label, text in rows))
    for record in told[-MOST_SHOWN:]:
        print(f"  step {record.get('step', 0):>8,}  {one_line(str(record.get('event', ''))):<8} {one_line(str(record.get('message', '')))}")
    if mail is not None:
        where = f"--config {shown(wanted.source)}" if wanted.run is None else wanted.run.name
        print(f"\nTo see whether mail arrives: musictrain notify --test {where}")
    return FINISHED


def mail_rows(mail: MailSettings | None) -> list[tuple[str, str]]:
    """How mail is sent, for people."""
    if mail is None:
        return [("mail", "no")]
    login = f"as {mail.user}, password from ${mail.password_variable}" if mail.user else "none"
    rows = [("mail to", ", ".join(mail.to)), ("from", mail.sender), ("server", mail.server()), ("login", login)]
    rows += [("at most", f"{mail.most_per_hour} mails an hour; more are gathered into one")]
    return rows + ([("problem", mail.problem())] if mail.problem() else [])


def told_of(wanted: Wanted) -> list[dict[str, Any]]:
    """What was told so far, as far as it stands in a file."""
    file = wanted.options.get("file")
    if isinstance(file, str):
        return read_records(file)
    return read_records(wanted.run.path / FILE_NAME) if wanted.run is not None else []


def test(wanted: Wanted, *, as_json: bool) -> int:
    """Send one mail and say how it went, step by step.

    Raises:
        UsageError: if mail is not set up.
    """
    mail = wanted.mail()
    if mail is None:
        raise UsageError(f"{shown(wanted.source)} sets no mail for {CALLBACK}: there is nothing to test.\n\n{EXAMPLE}")
    if problem := mail.problem():
        raise UsageError(f"No mail can be sent: {problem}")
    try:
        done, error = send(mail, make_mail(mail, *trial(shown(wanted.source)))), None
    except MailError as failure:
        done, error = failure.done, failure
    if as_json:
        failed = None if error is None else {**asdict(error.step), "advice": error.advice}
        print(json.dumps({"sent": error is None, "steps": [asdict(step) for step in done], "failed": failed}, indent=2))
    else:
        print("\n".join(words_of(done, error, mail)))
    return FINISHED if error is None else FAILED


def words_of(done: list[Step], error: MailError | None, mail: MailSettings) -> list[str]:
    """A line for each step, and what it has come to."""
    lines = [f"ok      {step.what:<8} {one_line(step.tried)}: {step.said}" for step in done]
    if error is None:
        return [*lines, f"Sent. Look into the mailbox of {', '.join(mail.to)}; if nothing is there in some minutes, look among the spam."]
    lines.append(f"FAILED  {error.step.what:<8} {one_line(error.step.tried)}: {error.step.said}")
    return [*lines, f"  -> {error.advice}", "No mail was sent. Training would go on without."]
