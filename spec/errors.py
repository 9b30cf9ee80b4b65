"""Typed, expected failures and their exit codes: the one place where an error becomes a number.

| code | meaning |
|---|---|
| 0 | done |
| 1 | our bug |
| 2 | wrong input or usage |
| 3 | infeasible |
| 4 | undecided or not certified |
| 5 | a check failed |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of the `inferplan` command."""

    DONE = 0
    BUG = 1
    INPUT = 2
    INFEASIBLE = 3
    UNDECIDED = 4
    CHECK_FAILED = 5


class InferplanError(Exception):
    """A failure we expect and can explain. `details` are further lines shown below the message."""

    exit_code = ExitCode.INPUT

    def __init__(self, message: str, details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.details = tuple(details)

    def __str__(self) -> str:
        return "\n".join([self.message, *self.details])


class InputError(InferplanError):
    """The user's input or usage is wrong: says what, where, and what to do."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a document. `line` and `column` count from 1; 0 where there is none."""

    file: str
    line: int
    column: int
    field: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{place}: {self.field}: {self.message}" if self.field else f"{place}: {self.message}"


class DocumentError(InputError):
    """A document is wrong; carries every problem found in it, not the first only."""

    def __init__(self, message: str, problems: Sequence[Problem]) -> None:
        super().__init__(message, [str(problem) for problem in problems])
        self.problems = tuple(problems)


class MissingExtraError(InputError):
    """An optional part of inferplan is not installed."""

    def __init__(self, extra: str, needed_for: str) -> None:
        super().__init__(f"{needed_for} needs the '{extra}' extra: pip install 'inferplan[{extra}]'")
        self.extra = extra


class InfeasibleError(InferplanError):
    """No plan keeps every promise; `details` say which conflict and what would help."""

    exit_code = ExitCode.INFEASIBLE


class UndecidedError(InferplanError):
    """The answer is not proven, or measured too little to tell."""

    exit_code = ExitCode.UNDECIDED


class CheckFailedError(InferplanError):
    """Something was checked and did not pass."""

    exit_code = ExitCode.CHECK_FAILED
