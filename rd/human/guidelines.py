"""What raters and judges are told, in the paper's words (App. A.2, D): one text for people and language models."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from importlib.resources import files
from re import sub

ASPECTS = ("empathy", "relevance", "fluency")
CHOICES = ("A", "B", "tie")


def guidelines() -> dict[str, str]:
    """Aspect -> its paragraph of prompts/guidelines.txt."""
    lines = _read("guidelines").splitlines()
    return {name: text.strip() for name, _, text in (line.partition(":") for line in lines if line)}


def folded() -> str:
    """The guidelines as HTML that opens at a click."""
    rows = "".join(f"<li><b>{escape(name)}</b>: {escape(text)}</li>" for name, text in guidelines().items())
    rule = "Say A or B where one reply is better in that aspect, tie where neither is. Judge each aspect by itself."
    return f"<details><summary>Guidelines (paper, App. D)</summary><ul>{rows}</ul><p>{rule}</p></details>"


def judge_prompt(aspect: str, context: str, first: str, second: str) -> str:
    """One question to a language model: which of two replies is better in one aspect. The replies' order is given."""
    given = {"aspect": aspect, "guideline": guidelines()[aspect], "context": context, "a": first, "b": second}
    return filled(_read("judge"), given)


def filled(template: str, values: Mapping[str, str]) -> str:
    """{name} -> its value, in one pass: braces inside a dialogue stay what they are. Raises KeyError."""
    return sub(r"\{(\w+)\}", lambda found: values[found[1]], template)


def _read(name: str) -> str:
    return files("rd.human").joinpath(f"prompts/{name}.txt").read_text("utf-8")
