"""Language models to ask: an OpenAI-compatible server, or a causal one run here. Neither retries; the client does."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

import torch
from pydantic import ValidationError

from rd.errors import UserError

Ask = Callable[[str, dict], str]  # (prompt, JSON schema) -> the model's answer


class Again(Exception):
    """A failure that may pass. after: seconds the server asked to wait, None where it named none."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


class Refused(Exception):
    """The model declined; asking again would not help."""


class Failed(Exception):
    """The request itself was turned down; asking again would not help."""


def short(error: Exception) -> str:
    """What went wrong, in one line."""
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
            raise UserError(f"{client.base_url}: {short(error)}; {what}") from None
        except openai.APIStatusError as error:
            reason = f"HTTP {error.status_code}: {short(error)}"
            if error.status_code in (408, 409, 429) or error.status_code >= 500:
                raise Again(reason, _seconds(error.response.headers.get("retry-after"))) from None
            raise Failed(reason) from None
        except openai.APIError as error:  # time-outs and lost connections among them
            raise Again(f"{type(error).__name__}: {short(error)}") from None
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
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = Path(name)
    place, more = (str(path.parent), {"gguf_file": path.name}) if path.suffix == ".gguf" else (name, {})
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, **more)
        model = AutoModelForCausalLM.from_pretrained(place, dtype="auto", **more).eval()
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"language model {name}: {short(error)}; name a hub model or a local folder") from None
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
