"""The `clipdecoder` command: its groups, and what errors look like."""

from __future__ import annotations

import errno
import os
import sys
import warnings

import typer

from flows.cli import annotations as annotations_group
from flows.cli import (
    audit,
    backfill,
    browse,
    calibrate,
    catalog,
    compact,
    demo,
    deploy,
    duplicates,
    evaluate,
    export,
    models,
    pack,
    quality,
    report,
    retrain,
    review,
    search,
    sql,
    tag,
    taxonomy,
    train,
)
from flows.cli.output import say_error
from flows.environment import make_prefect_quiet, share_processors
from schemas.errors import ClipdecoderError, RequestError, RunError

# What an output without a name of its own raises when it takes no more.
_OUTPUT_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)

app = typer.Typer(
    name="clipdecoder",
    no_args_is_help=True,
    rich_markup_mode=None,  # or "[default: ...]" would be taken for markup, and vanish
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Tag image shards with any vocabulary and ask SQL of the result.\n\n"
    "Exit codes: 0 done, 1 ran but something failed, 2 refused (nothing was touched), "
    "130 stopped with Ctrl-C.\n"
    "Defaults come from clipdecoder.toml in the working directory and CLIPDECODER_* variables.",
)
for module in (
    demo,
    pack,
    tag,
    sql,
    catalog,
    compact,
    browse,
    search,
    train,
    evaluate,
    calibrate,
    backfill,
    retrain,
    quality,
    duplicates,
    export,
    report,
    deploy,
    audit,
):
    module.register(app)
app.add_typer(taxonomy.app, name="taxonomy")
app.add_typer(models.app, name="models")
app.add_typer(annotations_group.app, name="annotations")
app.add_typer(review.app, name="review")


def main() -> None:
    """Run the command line. Errors that a user can cause are sentences, never tracebacks."""
    make_prefect_quiet()
    share_processors()
    # What is wrong with a picture stands in its row; Pillow's warnings (damaged EXIF) would bury the rest.
    warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
    try:
        _run()
    except RequestError as error:
        say_error(error)
        sys.exit(2)
    except ClipdecoderError as error:
        say_error(error)
        sys.exit(1)
    except BrokenPipeError:  # whoever read the output has enough of it
        _drop_output()
        sys.exit(1)
    except OSError as error:
        _drop_output()
        say_error(_named(error))
        sys.exit(1)
    except KeyboardInterrupt:
        _drop_output()
        sys.exit(130)


def _run() -> None:
    """Run the command to the end of its output: what Python would write at its exit could only fail with a traceback.

    Raises:
        RunError: there is no output; asked first, as the next file to be opened would take its number.
    """
    if sys.stdout is None:
        raise RunError("the standard output is closed; let it go somewhere, such as > /dev/null")
    try:
        app()
    finally:
        sys.stdout.flush()


def _drop_output() -> None:
    """Let the rest of the output go nowhere, so that Python does not try to write it once more at its exit."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _named(error: OSError) -> Exception:
    """Return the error, saying what could not be written if it does not."""
    if error.filename is None and error.errno in _OUTPUT_ERRORS:
        return RunError(f"cannot write the output: {error.strerror}")
    return error
