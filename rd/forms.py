"""Results read back, JSON and CSV, in the form that their readers need: else one line that says what to do.

A form is a type (or a tuple of types), {key: form} (an object that has these keys; "key?" may be missing; "*" is every
key), [form] (a list of such) or [form, form] (a list of just these two).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import repeat
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import pandas as pd

from rd.data.jsonl import parse
from rd.errors import UserError

NUMBER = (int, float)
GAP = (int, float, NoneType)  # a number, or null with a reason elsewhere
LARGEST = 1e300  # of a number: no infinity, and no whole number that is too large for a float
FACTS = {"code": str, "hardware": str, "date": str}
MEASURE = "measure the run again (rd evaluate RUN)"


def read_form(path: Path, form: Any, remedy: str) -> Any:
    """The JSON of a file. Raises UserError, with `remedy`, where it cannot be read or is not in its form."""
    try:
        value = parse(path.read_bytes())
        json.dumps(value, ensure_ascii=False).encode()  # half a character could not be written again
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}); {remedy}") from None
    if wrong := fault(value, form):
        raise UserError(f"{path}: damaged, or of another version ({wrong}); {remedy}")
    return value


def fault(value: Any, form: Any, name: str = "it") -> str:
    """What is wrong with a value of JSON; "" where nothing is."""
    if isinstance(form, dict):
        return _fault_of_object(value, form, name)
    if isinstance(form, list):
        if not isinstance(value, list):
            return f"{name} is no list"
        if len(form) > 1 and len(value) != len(form):
            return f"{name} has {len(value)} entries, not {len(form)}"
        forms = form if len(form) > 1 else repeat(form[0])
        return next(filter(None, map(fault, value, forms, repeat(f"an entry of {name}"))), "")
    if not isinstance(value, form):
        return f"{name} is {'null' if value is None else type(value).__name__}"
    return f"{name} is no finite number" if isinstance(value, NUMBER) and not abs(value) < LARGEST else ""


def _fault_of_object(value: Any, form: dict[str, Any], name: str) -> str:
    if not isinstance(value, dict):
        return f"{name} is no object"
    for key, inside in (dict.fromkeys(value, form["*"]) if "*" in form else form).items():
        plain = key if key in value else key.removesuffix("?")
        if plain not in value:
            if plain == key:
                return f"{name} has no {key}"
        elif wrong := fault(value[plain], inside, plain):
            return wrong
    return ""


def read_table(
    file: Path,
    texts: Mapping[str, Collection[str] | None],
    numbers: Iterable[str],
    remedy: str,
    whole: Callable[[pd.DataFrame], bool] = lambda _: True,
) -> pd.DataFrame:
    """A CSV with columns of texts (of these; None: of any) and of finite numbers, of which `whole` is true.

    Raises UserError, with `remedy`, where it is another.
    """
    try:
        table = pd.read_csv(file)
        good = bool(np.isfinite(table[list(numbers)].to_numpy(dtype=float)).all())
        for name, known in texts.items():
            good &= bool((table[name].notna() if known is None else table[name].isin(list(known))).all())
        good = good and whole(table)
    except (ValueError, KeyError, TypeError, OverflowError):  # no table, or not these columns
        good = False
    if not good:
        raise UserError(f"{file}: damaged, or of another version; {remedy}")
    return table


def steps_taken(run: Path) -> int | None:
    """Steps of training, as the end of a run noted them; None where a run was not finished."""
    file = run / "machine.json"
    form, remedy = {"steps?": (int, NoneType)}, "get it again, or train the run again in another folder"
    return read_form(file, form, remedy).get("steps") if file.is_file() else None
