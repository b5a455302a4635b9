"""Draws one conversation with a run as papers/example.svg: the picture at the top of the README.

    python benchmarks/example.py RUN [--dialogue mini:1013] [--out papers/example.svg]

The speaker's turns come from the bundled mini corpus (CC0), which no paper-preset run was trained on; everything else
(marks, emotion, both intents, replies) is the run's own, as `rd chat` shows it.
"""

from __future__ import annotations

import argparse
import re
import textwrap
from html import escape
from pathlib import Path

from rd.chat import Chat, Turned
from rd.data.corpus import read_corpus
from rd.run import load_run

COLUMNS, LINE, PAD = 62, 24, 14  # characters a line, pixels between lines, pixels around text
INK, GREY, BROWN, BLUE, RED = "#222", "#77726a", "#8a5a00", "#3367a8", "#a23b3b"


def marked(text: str, reasons: list[str]) -> list[str]:
    """The text as lines of SVG, its reasons underlined. A mark may run over the end of a line."""
    inside = [False] * len(text)
    for reason in reasons:
        at = text.find(reason)
        inside[at : at + len(reason)] = [True] * len(reason)
    lines, start = [], 0
    for line in textwrap.wrap(text, COLUMNS):
        start = text.index(line, start)
        parts = re.finditer("1+|0+", "".join(str(int(i)) for i in inside[start : start + len(line)]))
        lines.append("".join(_span(line[p.start() : p.end()], p[0][0] == "1") for p in parts))
        start += len(line)
    return lines


def _span(text: str, reason: bool) -> str:
    style = f'fill="{BROWN}" font-weight="600" text-decoration="underline"'
    return f"<tspan {style}>{escape(text)}</tspan>" if reason else escape(text)


def draw(exchanges: list[tuple[str, Turned]], caption: str) -> str:
    """The whole SVG: speaker boxes left, what the model made of each at the right, its reply below."""
    parts, y = [], 20
    for text, turned in exchanges:
        said, reply = marked(text, turned.reasons), marked(turned.reply, [])
        parts += _box(y, "speaker", said, "#ffffff", "#d9d5cb")
        notes = [("emotion", turned.emotion, RED), ("first intent", turned.first, BLUE), ("final", turned.final, BLUE)]
        for i, (name, value, colour) in enumerate(notes):
            place = f'x="640" y="{y + 20 + 22 * i}"'
            parts.append(
                f'<text {place}><tspan fill="{GREY}" font-size="12">{name} </tspan>'
                f'<tspan fill="{colour}" font-weight="600">{value}</tspan></text>'
            )
        y += max(len(said) * LINE + 2 * PAD, 78)
        parts += _box(y, "listener", reply, "#eaf1fa", "#3367a8")
        y += len(reply) * LINE + 2 * PAD + 12
    parts.append(f'<text x="24" y="{y + 14}" fill="{GREY}" font-size="12">{escape(caption)}</text>')
    frame = f'<rect x=".5" y=".5" width="859" height="{y + 29}" rx="10" fill="#fbfaf7" stroke="#d9d5cb"/>'
    font = 'font-family="-apple-system, \'Segoe UI\', Helvetica, Arial, sans-serif" font-size="15"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 860 {y + 30}" {font} role="img">'
    return "\n".join([head, "<title>A conversation with the model</title>", frame, *parts, "</svg>"]) + "\n"


def _box(y: int, who: str, lines: list[str], fill: str, stroke: str) -> list[str]:
    height = len(lines) * LINE + PAD
    box = f'<rect x="90" y="{y}" width="520" height="{height}" rx="8" fill="{fill}" stroke="{stroke}"/>'
    name = f'<text x="24" y="{y + 25}" fill="{GREY}" font-size="12">{who}</text>'
    texts = [f'<text x="104" y="{y + 25 + i * LINE}" fill="{INK}">{line}</text>' for i, line in enumerate(lines)]
    return [box, name, *texts]


def main() -> None:
    """Talk, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--dialogue", default="mini:1013")
    parser.add_argument("--out", default="papers/example.svg", type=Path)
    given = parser.parse_args()
    dialogues = {d.id: d for d in read_corpus(None).splits["test"]}
    spoken = [turn.text for turn in dialogues[given.dialogue].turns[::2]]
    run, chat = load_run(given.run), Chat(given.run)
    exchanges = [(text, chat.say(text)) for text in spoken]
    caption = (
        f"Speaker: mini corpus, test, {given.dialogue} (CC0). All else: {run.name}, preset {run.config.preset}, "
        f"seed {run.config.train.seed}, config {run.described['digest']}, greedy."
    )
    given.out.write_text(draw(exchanges, caption), encoding="utf-8")
    print(given.out)


if __name__ == "__main__":
    main()
