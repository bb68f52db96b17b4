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

from deepme.errors import DeepmeError, EnvironmentFault, Interrupted
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
        except MemoryError:
            _end(EnvironmentFault("out of memory", "use smaller settings"))
        except BrokenPipeError:
            # The reader of our output has gone, as in `deepme … | head`.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except Exception as error:
            if type(error).__module__.startswith("typer"):
                raise
            _end_with_bug(error)


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
