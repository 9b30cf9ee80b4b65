"""`inferplan profile`: measuring, which is what it does unless the first argument is the name of another command."""

from __future__ import annotations

from typing import Any

import typer
import typer.core

from inferplan.cli import profile, profile_import, profile_show, profile_store

MEASURE = "measure"
HELP = """Measure every variant (profile WORKLOAD), and look after what was measured.

`inferplan profile WORKLOAD` measures. A workload that is called like one of the commands is written ./show.
"""


class MeasuringGroup(typer.core.TyperGroup):
    """A group whose default command takes whatever names no other."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the command's name first: the one given, or `measure` where none is."""
        if args and args[0] in ("-h", "--help"):
            return super().parse_args(ctx, args[:1])
        place = self._first_positional(args)
        if place is not None and args[place] in self.commands:
            return super().parse_args(ctx, [args[place], *args[:place], *args[place + 1 :]])
        return super().parse_args(ctx, [MEASURE, *args])

    def _first_positional(self, args: list[str]) -> int | None:
        """Where the first argument stands that is neither an option nor its value."""
        valued = {
            name
            for command in self.commands.values()
            for parameter in command.params
            if parameter.param_type_name == "option" and not getattr(parameter, "is_flag", False)
            for name in parameter.opts
        }
        skip = False
        for place, text in enumerate(args):
            if skip:
                skip = False
            elif text == "--":
                return None
            elif not text.startswith("-") or text == "-":
                return place
            else:
                skip = text in valued
        return None

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Options of measuring, then the commands."""
        self.commands[MEASURE].format_options(ctx, formatter)
        self.format_commands(ctx, formatter)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Both ways to write it."""
        return ["[OPTIONS] WORKLOAD  |  COMMAND [ARGS]..."]


app = typer.Typer(
    cls=MeasuringGroup,
    help=HELP,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(MEASURE, short_help="Measure every variant: what happens without a command.")(profile.profile)
app.command("show", short_help="Show a profile as a table.")(profile_show.show)
app.command("merge", short_help="Make one profile of several.")(profile_store.merge)
app.command("compact", short_help="Join a profile's many small files.")(profile_store.compact)
app.command("export", short_help="Write a profile as CSV.")(profile_store.export)
app.command("import", short_help="Take over measurements of other tools.")(profile_import.import_)
