"""The `inferplan` command. Each verb is a file of this room; errors become exit codes here and nowhere else."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
import typer.core

from inferplan import __version__
from inferplan.cli import (
    book,
    compare,
    devices,
    diff,
    explain,
    export,
    frontier,
    jobs,
    lint,
    models,
    profile_group,
    run,
    schema,
    serve,
    simulate,
    solve,
    validate,
    variants,
)
from inferplan.spec.errors import ExitCode, InferplanError, InputError

HELP = """Profile model variants, decide the cheapest deployment that keeps every promise, export it, prove it.

Exit codes: 0 done, 1 a bug of ours, 2 wrong input or usage, 3 infeasible, 4 undecided or not certified,
5 a check failed.
"""

VERBS = (
    "validate", "schema", "devices", "profile", "variants", "models", "solve", "explain", "jobs", "diff",
    "simulate", "frontier", "compare", "book", "export", "lint", "run", "serve",
)  # fmt: skip


class InOrder(typer.core.TyperGroup):
    """Lists the verbs in the order they are used."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the verbs."""
        return [name for name in VERBS if name in self.commands]


app = typer.Typer(
    name="inferplan",
    cls=InOrder,
    help=HELP,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"inferplan {__version__}\n")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback where something fails.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if debug:
        os.environ["INFERPLAN_DEBUG"] = "1"


app.command("validate", short_help="Check a workload.")(validate.validate)
app.command("schema", short_help="Print the JSON Schema of a document.")(schema.schema)
app.command("devices", short_help="Show what is here to measure with.")(devices.devices)
app.add_typer(profile_group.app, name="profile", short_help="Measure every variant; show, merge, import, export.")
app.command("variants", short_help="Make variants of variants: int8, fp16, other sizes.")(variants.variants)
app.command("models", short_help="Show what is predicted, how wrong it is, and what would help.")(models.models)
app.command("solve", short_help="Decide the deployment.")(solve.solve)
app.command("explain", short_help="Why a plan is what it is, and what more would be worth.")(explain.explain)
app.command("jobs", short_help="Split jobs over variants and modalities.")(jobs.jobs)
app.command("simulate", short_help="Simulate a plan: bursts, traces, failures.")(simulate.simulate)
app.command("diff", short_help="What it takes to go from one plan to another.")(diff.diff)
app.command("frontier", short_help="Every trade-off that no plan beats.")(frontier.frontier)
app.command("compare", short_help="Published systems on the same workload.")(compare.compare)
app.command("book", short_help="Plans for load that moves, and when to switch.")(book.book)
app.add_typer(export.app, name="export")
app.command("lint", short_help="Check any Triton model repository.")(lint.lint)
app.command("run", short_help="Run a plan here; predicted beside measured.")(run.run)
app.command("serve", short_help="Serve a plan over HTTP.")(serve.serve)


def main() -> None:
    """Entry point: run the command and turn every failure into its exit code."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: list[str]) -> int:
    """Run one command line; returns the exit code."""
    try:
        result = app(args=arguments, standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else ExitCode.DONE
    except InferplanError as error:
        return _failed(error, "--json" in arguments)
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write("\nstopped\n")
        return 130
    except BrokenPipeError:
        # The reader (`head`, a closed pager) has gone; there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.DONE
    except OSError as error:
        return _failed(_refused(error), "--json" in arguments)
    except Exception as error:
        return _usage_or_bug(error, "--json" in arguments)


def _refused(error: OSError) -> InferplanError:
    """What the system refused: a file that cannot be read or written, a full disk."""
    named = error.filename is not None and error.strerror is not None
    return InputError(f"{error.filename}: {error.strerror}" if named else str(error))


def _failed(error: InferplanError, as_json: bool) -> int:
    _trace_if_asked()
    if as_json:
        _emit_error(type(error).__name__.removesuffix("Error"), error.message, error.details, error.exit_code)
    sys.stderr.write(f"inferplan: {error.message}\n")
    for line in error.details:
        sys.stderr.write(f"  {line}\n")
    return error.exit_code


def _emit_error(kind: str, message: str, details: Sequence[str], exit_code: int) -> None:
    from inferplan.cli.output import emit_json

    body = {"kind": kind, "message": message, "details": list(details)}
    emit_json({"status": "error", "exit_code": int(exit_code), "error": body})


def _usage_or_bug(error: Exception, as_json: bool) -> int:
    show = getattr(error, "show", None)
    if show is not None and hasattr(error, "exit_code"):
        if as_json:
            says = getattr(error, "format_message", lambda: str(error))
            _emit_error("Usage", says(), (), ExitCode.INPUT)
        show()
        return ExitCode.INPUT
    _trace_if_asked()
    sys.stderr.write(
        f"inferplan: internal error: {type(error).__name__}: {error}\n"
        "  This is a bug of ours. Run again with `inferplan --debug ...` for the traceback, and report it.\n"
    )
    return ExitCode.BUG


def _trace_if_asked() -> None:
    if os.environ.get("INFERPLAN_DEBUG"):
        import traceback

        traceback.print_exc()
