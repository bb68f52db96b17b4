"""How a command ends: one error line and the exit code of its kind."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import traceback
from types import FrameType
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from deepme.errors import (
    MACHINE,
    DeepmeError,
    EnvironmentFault,
    Interrupted,
    TrainingError,
    UsageError,
)
from deepme.text import clean


class Commands(TyperGroup):
    """The group of all commands, with one place that handles errors."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; print an error as one line and exit with its code."""
        signal.signal(signal.SIGTERM, _terminate)
        try:
            return super().invoke(ctx)
        except DeepmeError as error:
            _end(error)
        except KeyboardInterrupt:
            _end(Interrupted(signal.SIGINT))
        except BrokenPipeError:
            # The reader of our output has gone, as in `deepme … | head`.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            expected = (
                _usage_error(error) or _torch_error(error) or _system_error(error)
            )
            if expected is None:
                _end_with_bug(error)
            _end(expected)


def _usage_error(error: Any) -> DeepmeError | None:
    """Typer's own refusals, in our one line; it keeps their class to itself."""
    if not hasattr(error, "format_message"):
        return None
    hint = f"see `{error.ctx.command_path} -h`" if error.ctx else ""
    return UsageError(str(error.format_message()).rstrip("."), hint)


def _torch_error(error: Exception) -> DeepmeError | None:
    """What torch says of memory, workers and batches; told without importing it."""
    text = str(error).partition("\n")[0]
    if isinstance(error, MemoryError) or (
        type(error).__name__ == "OutOfMemoryError" or "allocate memory" in text
    ):
        return EnvironmentFault(
            f"out of memory: {text}" if text else "out of memory",
            "free memory, or use a smaller --image-size or fewer --workers",
        )
    if "DataLoader worker (pid" in text or "DataLoader timed out" in text:
        return TrainingError(
            f"a process that decodes images was lost: {text}",
            "rerun the command; if it happens again use fewer --workers",
        )
    if "Expected more than 1 value per channel" in text:
        return UsageError(
            "a batch of one image is too small for this backbone's normalisation",
            "use a larger --batch-size or --image-size",
        )
    return None


def _system_error(error: Exception) -> DeepmeError | None:
    """An I/O error where none was looked for, in listing a folder for one."""
    if not isinstance(error, OSError) or error.errno not in MACHINE:
        return None
    where = f"{error.filename}: " if error.filename else ""
    return EnvironmentFault(
        f"{where}{error.strerror}",
        "correct the disk or the permissions, then run the same command again",
    )


def _terminate(_number: int, _frame: FrameType | None) -> NoReturn:
    raise Interrupted(signal.SIGTERM)


def _end(error: DeepmeError) -> NoReturn:
    typer.echo(f"error: {clean(str(error))}", err=True)
    raise typer.Exit(error.exit_code)


def _end_with_bug(error: Exception) -> NoReturn:
    """Keep the traceback in a file: people get one line."""
    descriptor, path = tempfile.mkstemp(prefix="deepme-", suffix=".log", text=True)
    with os.fdopen(descriptor, "w") as file:
        traceback.print_exception(error, file=file)
    typer.echo(
        f"error: {type(error).__name__}: {clean(str(error))}; this is a bug of deepme, "
        f"please report it with {path}",
        err=True,
    )
    raise typer.Exit(1)
