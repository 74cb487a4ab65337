"""What a run writes down: its folder, its name, its records. Standard library only; plain files are the truth."""

from musictrain.runs.atomic import atomic_write
from musictrain.runs.environment import describe_environment
from musictrain.runs.finding import RunNotFoundError, find_run, list_runs
from musictrain.runs.folder import RunFolder
from musictrain.runs.names import new_run_name
from musictrain.runs.records import Records, read_records
from musictrain.runs.rows import CountingRows, RowReader, read_rows

__all__ = [
    "CountingRows",
    "Records",
    "RowReader",
    "RunFolder",
    "RunNotFoundError",
    "atomic_write",
    "describe_environment",
    "find_run",
    "list_runs",
    "new_run_name",
    "read_records",
    "read_rows",
]
