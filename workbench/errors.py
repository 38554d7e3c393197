"""The errors a user is meant to read. Everything else is a defect and shows a traceback."""

from collections.abc import Iterable, Sequence


class WorkbenchError(Exception):
    """What the user gave cannot be used. The command line prints it and exits with 2.

    message: what is wrong, naming the file and the field.
    hint: what to do about it, one sentence, or None where the message says it all.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if hint is not None:
            self.add_note(f"hint: {hint}")  # shown below a traceback, in a notebook


class Refused(WorkbenchError):
    """The input is right and the answer is no (a budget missed, a gate closed). Exit code 1."""


class Unsuited(WorkbenchError):
    """Nothing is wrong, but this variant is not for this model or machine: its trial is `skipped`."""


SHOWN = 5  # names listed in one message


def first_line(error: BaseException) -> str:
    """The message of an exception, without its appendices; its type where it has none.

    A line that ends in a colon announces the next one, which belongs to it.
    """
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    end = next((number for number, line in enumerate(lines) if not line.endswith(":")), len(lines) - 1)
    return " ".join(lines[: end + 1]) or type(error).__name__


def summary(error: BaseException) -> str:
    """`ValueError: its first line`, of an exception that is not ours; its type where it has no message."""
    line = first_line(error)
    return line if line == type(error).__name__ else f"{type(error).__name__}: {line}"


def one_line(error: WorkbenchError) -> str:
    """Its message and its hint in one line, for a list of several."""
    lines = [*error.message.splitlines(), *([error.hint] if error.hint else [])]
    return "; ".join(line.strip() for line in lines)


def some(names: Sequence[str], *, most: int = SHOWN, quote: str = "`", separator: str = ", ") -> str:
    """The first `most` names, and how many more there are; one name is never hidden behind `1 more`."""
    shown = names if len(names) <= most + 1 else names[:most]
    text = separator.join(f"{quote}{name}{quote}" for name in shown)
    left = len(names) - len(shown)
    return f"{text}{separator.replace(',', '')}and {left} more" if left else text


def plural(count: int, noun: str) -> str:
    """`1 photo`, `1,200 photos`, `2 classes`, `2 copies`."""
    if count == 1:
        return f"1 {noun}"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{count:,} {noun[:-1]}ies"
    return f"{count:,} {noun}{'es' if noun.endswith(('s', 'sh', 'x')) else 's'}"


Place = tuple[str | int, ...]
# What others call things; suggested where the name we know is one of those that may stand there.
SYNONYMS = {"gpu": "cuda", "nvidia": "cuda", "trt": "tensorrt", "ort": "onnxruntime"}


class FieldProblem(ValueError):
    """What a validator of a model raises where it knows more than a message.

    hint: what to do about it. at: where, below the key the validator belongs to.
    """

    def __init__(self, message: str, *, hint: str | None = None, at: Place = ()) -> None:
        super().__init__(message)
        self.hint = hint
        self.at = at


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """A hint with the closest of the known names, None where none is close."""
    return f"did you mean `{meant}`?" if (meant := closest(word, known)) else None


def closest(word: str, known: Iterable[str]) -> str | None:
    """The name that was probably meant, in whatever case; `CUDAExecutionProvider` is `cuda`."""
    import difflib

    known = list(known)
    plain = {name.lower(): name for name in reversed(known)}
    given = word.lower().removesuffix("executionprovider")
    if (other := SYNONYMS.get(given)) in plain:
        return plain[other]
    # Case counts where it alone tells names apart.
    meant = difflib.get_close_matches(word, known, n=1, cutoff=0.9)
    return next(iter(meant or map(plain.get, difflib.get_close_matches(given, plain, n=1, cutoff=0.5))), None)
