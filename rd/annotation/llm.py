"""Reasons and intents by a language model (Sec. 3.1, B.1), through a server or a local one.

The paper's annotators are ChatGLM4 (THUDM/glm-4-9b-chat) for reasons and Commonsense-QA-Mistral-7B for intents. Both,
and any other chat model, can be named: behind an OpenAI-compatible server (`server`) or as Hugging Face weights
(`local`). Prompts are the files prompts/{reasons,intents}.txt.
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
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.resources import files
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from rd.errors import UserError
from rd.labels import INTENTS

Ask = Callable[[str, dict], str]  # (prompt, JSON schema) -> the model's answer
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


class Again(Exception):
    """A failure that may pass. after: seconds the server asked to wait, None where it named none."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


class Refused(Exception):
    """The model declined; asking again would not help."""


class Failed(Exception):
    """The request itself was turned down; asking again would not help."""


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
        return None if result is None else form.model_validate(result)

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
                reason = f"broken answer: {_short(error)}"
                repair = f"\n\nYour last answer was not valid ({_short(error)}). Answer with the JSON object only."
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
            entry = json.loads(line) if line.endswith(b"\n") else None
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
    return json.JSONDecoder().raw_decode(text, start)[0]


def _short(error: Exception) -> str:
    text = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
    return " ".join(text.split())[:200]


def server(base_url: str | None = None, model: str | None = None, key: str | None = None, timeout: float = 60) -> Ask:
    """An OpenAI-compatible server, by arguments or OPENAI_BASE_URL, RD_LLM_MODEL, OPENAI_API_KEY.

    The returned function raises Again, Refused or Failed, and UserError for a wrong key, address or model name.
    """
    import openai

    model = model or os.environ.get("RD_LLM_MODEL")
    if not model:
        raise UserError("no language model is named; set RD_LLM_MODEL to the name the server knows it by")
    key = key or os.environ.get("OPENAI_API_KEY") or "none"  # servers of one's own ask for no key
    client = openai.OpenAI(base_url=base_url, api_key=key, timeout=timeout, max_retries=0)  # None: OPENAI_BASE_URL

    def ask(prompt: str, schema: dict) -> str:
        form = {"name": schema["title"], "strict": True, "schema": schema}
        try:
            reply = client.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": prompt}],
                temperature=0,
                response_format={"type": "json_schema", "json_schema": form},
            )
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
            what = "check OPENAI_API_KEY, OPENAI_BASE_URL and RD_LLM_MODEL"
            raise UserError(f"{client.base_url}: {_short(error)}; {what}") from None
        except openai.APIStatusError as error:
            reason = f"HTTP {error.status_code}: {_short(error)}"
            if error.status_code in (408, 409, 429) or error.status_code >= 500:
                raise Again(reason, _seconds(error.response.headers.get("retry-after"))) from None
            raise Failed(reason) from None
        except openai.APIError as error:  # time-outs and lost connections among them
            raise Again(f"{type(error).__name__}: {_short(error)}") from None
        choices = getattr(reply, "choices", None)
        if not choices:
            raise Again("a reply without choices")
        if choices[0].message.refusal or choices[0].finish_reason == "content_filter":
            raise Refused(choices[0].message.refusal or "content filter")
        return choices[0].message.content or ""

    return ask


def _seconds(retry_after: str | None) -> float | None:
    """Retry-After in its two forms, seconds or a date; None where it is missing or neither."""
    if retry_after is None or re.fullmatch(r"\d+(\.\d+)?", retry_after):
        return None if retry_after is None else float(retry_after)
    try:
        return max(0.0, (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def local(name: str, longest: int = 200) -> Ask:
    """A causal language model by hub name, folder or .gguf file; greedy. Raises UserError where it cannot be read."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = Path(name)
    place, more = (str(path.parent), {"gguf_file": path.name}) if path.suffix == ".gguf" else (name, {})
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, **more)
        model = AutoModelForCausalLM.from_pretrained(place, dtype="auto", **more).eval()
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"language model {name}: {_short(error)}; name a hub model or a local folder") from None
    model.to("cuda" if torch.cuda.is_available() else "cpu")

    def ask(prompt: str, schema: dict) -> str:
        if tokenizer.chat_template:
            turns = [{"role": "user", "content": prompt}]
            prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=not tokenizer.chat_template)
        inputs = inputs.to(model.device)
        with torch.inference_mode():
            out = model.generate(**inputs, max_new_tokens=longest, do_sample=False, pad_token_id=tokenizer.eos_token_id)
        return tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    return ask


def client_from_environment(cache: Path | None) -> Client:
    """The server of OPENAI_BASE_URL or OPENAI_API_KEY, else the local model RD_LLM_MODEL. Raises UserError."""
    model = os.environ.get("RD_LLM_MODEL", "")
    if not model:
        raise UserError(
            "no language model is configured; set RD_LLM_MODEL to a hub name or local folder, or to a served model "
            "together with OPENAI_BASE_URL and, where it needs one, OPENAI_API_KEY"
        )
    key = os.environ.get("OPENAI_API_KEY") and not Path(model).exists()
    if os.environ.get("OPENAI_BASE_URL") or key:
        return Client(server(), model, cache)
    return Client(local(model), model, cache, sleep=lambda _: None, tries=2)  # greedy: one repair, nothing to wait for


def locate(text: str, phrase: str) -> tuple[int, int] | None:
    """[start, end) of the first place where the phrase stands as whole words, in any case; None where it does not."""
    words = [re.escape(word) for word in phrase.split()]
    found = re.search(r"(?<!\w)" + r"\s+".join(words) + r"(?!\w)", text, re.IGNORECASE) if words else None
    return found.span() if found else None


def _prompt(name: str, turns: list[str], place: int) -> str:
    """The prompt file filled with the turns up to and including `place`; later turns stay unseen."""
    so_far = [f"{'listener' if i % 2 else 'speaker'}: {turn}" for i, turn in enumerate(turns[: place + 1])]
    text = files("rd.annotation").joinpath(f"prompts/{name}.txt").read_text("utf-8")
    head, _, rest = text.partition("{dialogue}")  # not str.format: dialogues may hold braces
    middle, _, tail = rest.partition("{turn}")
    return head + "\n".join(so_far) + middle + turns[place] + tail


def annotate_reasons(turns: list[str], client: Client) -> list[list[tuple[int, int]] | None]:
    """Character spans of the reasons of each speaker turn (turns[0::2]); None where the model gave no answer."""
    labels: list[list[tuple[int, int]] | None] = []
    for place in range(0, len(turns), 2):
        reply = client.answer(_prompt("reasons", turns, place), Reasons)
        spans = [locate(turns[place], phrase) for phrase in reply.phrases] if reply else []
        client.report["not_found"] += spans.count(None)
        labels.append(sorted({span for span in spans if span}) if reply else None)
    return labels


def annotate_intents(turns: list[str], client: Client) -> list[str | None]:
    """The intent of each listener turn (turns[1::2]); None where the model gave no answer."""
    replies = [client.answer(_prompt("intents", turns, place), Intent) for place in range(1, len(turns), 2)]
    return [reply.intent if reply else None for reply in replies]
