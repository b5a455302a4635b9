"""Whom the annotators ask: it retries, remembers, and may be shared by several threads."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from threading import Lock
from typing import TypeVar

from pydantic import BaseModel

from rd.annotation.answers import Answers
from rd.annotation.llm_backends import Again, Ask, Failed, Refused, short
from rd.errors import UserError

LONGEST_WAIT = 60.0  # seconds, unless the server itself names a time
Form = TypeVar("Form", bound=BaseModel)


class Client:
    """Asks, retries, and remembers answers (`Answers`), keyed by sha256(model + prompt + schema). Threads may share it.

    report counts asked, cached, retried, refused, gave_up, not_found (phrases that do not stand in their turn). Answers
    and refusals are final; what was given up on (a dead server, say) is recorded and asked anew by the next client.
    A question that is under way is asked once: who else has it waits. Where the server names a time to wait or has too
    much to do (429), all wait. Where it stayed silent `patience` times in a row, UserError; None: never.
    """

    patience: int | None = None

    def __init__(
        self, ask: Ask, model: str, cache: Path | None, sleep: Callable[[float], object] = time.sleep, tries: int = 5
    ) -> None:
        self.ask, self.model, self.sleep, self.tries = ask, model, sleep, tries
        self.report: Counter[str] = Counter(asked=0, cached=0, retried=0, refused=0, gave_up=0, not_found=0)
        self.cache, self.known = cache, Answers(cache)
        self.lock = Lock()  # of the report, the answers, and the three below
        self.under_way: dict[str, Future] = {}
        self.silent = 0  # questions in a row that the server left without any answer
        self.quiet_until = 0.0  # by time.monotonic: before it nobody asks

    def answer(self, prompt: str, form: type[Form]) -> Form | None:
        """The model's answer in the given form; None where it refused or every try failed."""
        schema = form.model_json_schema()
        key = hashlib.sha256(json.dumps([self.model, prompt, schema], sort_keys=True).encode()).hexdigest()
        with self.lock:
            asked = self.under_way.get(key)
            known = asked is not None or key in self.known
            self.report["cached" if known else "asked"] += 1
            if not known:
                self.under_way[key] = Future()
            result = self.known[key] if known and asked is None else None
        if asked is not None:
            result = asked.result()
        elif not known:
            result = self._asked(key, prompt, schema, form)
        try:
            return None if result is None else form.model_validate(result)
        except ValueError as error:
            raise UserError(f"{self.cache}: an answer is not of its form ({short(error)}); delete the file") from None

    def count(self, what: str, number: int = 1) -> None:
        """Add to the report."""
        with self.lock:
            self.report[what] += number

    def _asked(self, key: str, prompt: str, schema: dict, form: type[Form]) -> dict | None:
        """The answer, recorded; whoever waits for it gets it, or the error, too. Raises UserError after a silence."""
        try:
            outcome, result, reason = self._ask(prompt, schema, form)
            if outcome != "answered":
                self.count(outcome)
                logging.getLogger(__name__).warning("%s: %s (%s)", self.model, outcome, reason)
            with self.lock:
                self.known.add(key, self.model, outcome, result, reason)
                self.under_way.pop(key).set_result(result)
                if self.patience and self.silent >= self.patience:
                    what = f"{self.silent} questions in a row went unanswered ({reason})"
                    raise UserError(f"{self.model}: {what}; look to the server, then go on with --resume")
        except BaseException as error:
            with self.lock:
                if key in self.under_way:
                    self.under_way.pop(key).set_exception(error)
            raise
        return result

    def _ask(self, prompt: str, schema: dict, form: type[Form]) -> tuple[str, dict | None, str | None]:
        """(outcome, result, reason)."""
        reason, repair = "", ""
        for attempt in range(self.tries):
            wait, until = min(2.0**attempt, LONGEST_WAIT), 0.0
            if (rest := self.quiet_until - time.monotonic()) > 0:
                self.sleep(rest)  # another one was told to wait
            try:
                text = self.ask(prompt + repair, schema)
                self.silent = 0
                return "answered", form.model_validate(_json_object(text)).model_dump(), None
            except Refused as error:
                return "refused", None, str(error)
            except Failed as error:
                return "gave_up", None, str(error)
            except Again as error:
                reason, wait = str(error), wait if error.after is None else error.after
                until = time.monotonic() + wait
                if error.everyone:
                    with self.lock:
                        self.quiet_until = max(self.quiet_until, until)
            except ValueError as error:  # broken JSON, or not the form (pydantic's error is a ValueError)
                reason = f"broken answer: {short(error)}"
                repair = f"\n\nYour last answer was not valid ({short(error)}). Answer with the JSON object only."
            if attempt + 1 < self.tries:
                self.count("retried")
                self.sleep(wait)
                with self.lock:
                    self.quiet_until *= self.quiet_until > until  # it was slept through
        if not repair:
            with self.lock:
                self.silent += 1
        return "gave_up", None, f"{self.tries} tries, last: {reason}"


def _json_object(text: str) -> dict:
    """The first JSON object in the text. Raises ValueError where there is none."""
    start = text.find("{")
    if start < 0:
        raise ValueError("no JSON object")
    try:
        return json.JSONDecoder().raw_decode(text, start)[0]
    except RecursionError:
        raise ValueError("JSON nested too deep") from None
