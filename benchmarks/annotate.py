"""`rd annotate` as the work grows: dialogues/s, turns/s and peak memory of a made-up corpus of 1, 2, 4 and 8 shares.

    python benchmarks/annotate.py [--turns 1000000] [--bert-turns 4000] [--answers 400] [--out FILE.json]

Each row is a process of its own on one thread. `weak` reads up to --turns turns; ERA and the intent tagger (the
annotators of results/<preset>) up to --bert-turns. A language model is a server on this machine that answers every
question alike after a fixed time; "no server" calls the same function without HTTP: what is left is our own work.
Rates are given by the clock and by the process's own time, which other programs on the machine do not lengthen.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from rd.annotation.files import Job, annotate_file
from rd.memory import peak_mb
from rd.pipeline import Pipeline
from rd.provenance import provenance
from rd.run import save_json

SHARES = (8, 4, 2, 1)
LENGTHS = (2, 3, 4, 4, 5, 6)  # turns of a dialogue, about as in EMPATHETICDIALOGUES
WHO = ("My sister", "Our neighbour", "The old teacher", "A friend of mine", "My little boy", "The whole team", "I")
DID = ("lost the keys", "won a prize", "broke the window", "forgot the cake", "found a stray dog", "missed the train")
FELT = (
    "I was so proud.",
    "It made me terribly sad!",
    "I could not believe it.",
    "Now I'm afraid of tomorrow.",
    "We laughed.",
)
SAID = ("Oh no, what happened then?", "That is wonderful news!", "I am sorry to hear that.", "How do you feel now?")
SCHEMA_ANSWERS = {"Reasons": '{"phrases": ["so proud"]}', "Intent": '{"intent": "questioning"}'}


def write_corpus(path: Path, turns: int, seed: int = 0) -> int:
    """Made-up dialogues of so many turns in all; how many dialogues."""
    chance, count = random.Random(seed), 0
    with path.open("w", encoding="utf-8") as file:
        while turns > 0:
            length = min(chance.choice(LENGTHS), turns)
            talk = [_turn(chance, place) for place in range(length)]
            file.write(json.dumps({"dialogue": talk, "id": count}) + "\n")
            turns, count = turns - length, count + 1
    return count


def _turn(chance: random.Random, place: int) -> str:
    if place % 2:
        return f"{chance.choice(SAID)} Was it {chance.randrange(1000)} days ago?"
    return f"{chance.choice(WHO)} {chance.choice(DID)} on day {chance.randrange(1000)}. {chance.choice(FELT)}"


class Handler(BaseHTTPRequestHandler):
    """Answers every question of a form alike, after server.delay seconds."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:  # noqa: N802
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(self.server.delay)
        text = SCHEMA_ANSWERS[asked["response_format"]["json_schema"]["name"]]
        message = {"role": "assistant", "content": text}
        body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}
        body["choices"] = [{"index": 0, "finish_reason": "stop", "message": message}]
        data = json.dumps(body).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        self.wfile.write(head.encode() + data)

    def log_message(self, *_: object) -> None:
        """Silence."""


def measure(way: str, source: Path, out: Path, given: argparse.Namespace) -> dict[str, float]:
    """In this process: load with one dialogue, then annotate the file. Peak memory in MB, before and after."""
    what = "intents" if way == "tagger" else "reasons"
    desk = Pipeline(given.preset, data=given.data, out=given.results)
    if way == "no server":
        import rd.annotation.llm

        rd.annotation.llm.server = lambda: lambda prompt, schema: SCHEMA_ANSWERS[schema["title"]]
    by = "llm" if way in ("no server", "server") else way
    single = out.with_name("single.jsonl")
    with source.open() as file:
        single.write_text(file.readline())
    times = []
    for file in (single, single, source):  # the first loads; the second tells what loading costs the third
        out.with_suffix(".cache.jsonl").unlink(missing_ok=True)
        clock, own = time.perf_counter(), time.process_time()
        before = peak_mb()
        report = annotate_file(Job(what, file, out, by, concurrency=given.concurrency), desk)
        times.append((time.perf_counter() - clock, time.process_time() - own))
    clock, own = (max(third - second, 1e-9) for second, third in zip(*times[1:], strict=True))
    asked = report.get("asked", 0)
    return {"seconds": clock, "own_seconds": own, "before_mb": before, "peak_mb": peak_mb(), "asked": asked}


def row(way: str, turns: int, folder: Path, given: argparse.Namespace, more: dict[str, Any]) -> dict[str, Any]:
    """One measured row, from a process of its own."""
    source = folder / f"{turns}.jsonl"
    dialogues = write_corpus(source, turns)
    command = [sys.executable, __file__, "--one", way, str(source), "--preset", given.preset, "--data", given.data]
    command += ["--results", given.results, "--concurrency", str(more.get("concurrency", 1))]
    servers = {"OPENAI_BASE_URL": more.get("address", "http://127.0.0.1:9/v1"), "RD_LLM_MODEL": "made-up"}
    threads = {"OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(command, env=os.environ | servers | threads, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    source.unlink()
    rates = {name: n / found["seconds"] for name, n in (("dialogues_s", dialogues), ("turns_s", turns))}
    rates["turns_own_s"] = turns / found["own_seconds"]
    if found["asked"]:
        rates |= {
            "answers_s": found["asked"] / found["seconds"],
            "answers_own_s": found["asked"] / found["own_seconds"],
        }
    kept = {name: value for name, value in more.items() if name != "address"}
    return {"way": way, "turns": turns, "dialogues": dialogues, **kept, **found, **rates}


def rows(given: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """Every row, the small ones first."""
    for way, most in (("weak", given.turns), ("era", given.bert_turns), ("tagger", given.bert_turns)):
        for share in SHARES if way in given.only else ():
            yield row(way, most // share, folder, given, {})
    if "llm" not in given.only:
        return
    yield row("no server", 2 * given.answers, folder, given, {})
    for delay in (0.0, 0.05):
        for at_once in (1, 4, 16):
            http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
            http.daemon_threads, http.delay = True, delay
            threading.Thread(target=http.serve_forever, daemon=True).start()
            more = {"delay": delay, "concurrency": at_once, "address": f"http://127.0.0.1:{http.server_port}/v1"}
            yield row("server", 2 * given.answers, folder, given, more)
            http.shutdown()


def table(found: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| way | turns | dialogues/s | turns/s | turns/s of own time | answers/s | peak MB |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for r in found:
        name = r["way"] + (f", {r['delay'] * 1000:.0f} ms, {r['concurrency']} at once" if "delay" in r else "")
        answers = f"{r['answers_s']:.1f}" if "answers_s" in r else "–"
        numbers = (
            f"{r['turns']:,}",
            f"{r['dialogues_s']:.1f}",
            f"{r['turns_s']:.0f}",
            f"{r['turns_own_s']:.0f}",
            answers,
        )
        lines.append(f"| {name} | {' | '.join(numbers)} | {r['peak_mb']:.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table and write the file after each row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=1_000_000)
    parser.add_argument("--bert-turns", type=int, default=4000)
    parser.add_argument("--answers", type=int, default=400)
    parser.add_argument("--only", nargs="*", default=["weak", "era", "tagger", "llm"])
    parser.add_argument("--preset", default="mini")
    parser.add_argument("--data", default="", help="the corpus of the weak votes; default: the mini corpus")
    parser.add_argument("--results", default="results", help="where the annotators lie")
    parser.add_argument("--out", type=Path, help="rows there of ways that are not in --only stay")
    parser.add_argument("--one", nargs=2, metavar=("WAY", "FILE"), help=argparse.SUPPRESS)
    parser.add_argument("--concurrency", type=int, default=1, help=argparse.SUPPRESS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.one:
            way, source = given.one
            print(json.dumps(measure(way, Path(source), Path(folder) / "out.jsonl", given)))
            return
        kept = json.loads(given.out.read_text())["rows"] if given.out and given.out.is_file() else []
        ours = {"no server": "llm", "server": "llm"}
        found = [each for each in kept if ours.get(each["way"], each["way"]) not in given.only]
        for each in rows(given, Path(folder)):
            found.append(each)
            print(json.dumps(each), file=sys.stderr, flush=True)
            if given.out:
                save_json(given.out, {"provenance": provenance(preset=given.preset), "rows": found})
    print(table(found))


if __name__ == "__main__":
    main()
