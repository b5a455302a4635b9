"""Kill tests: a killed command that is started again ends with the bytes of one that nobody disturbed.

    python benchmarks/kills.py [--rounds N] [--seed N] [--only NAME ...] [--out FILE.md]

Each command runs in a process of its own, on made-up dialogues of a few seconds' work, first undisturbed, then
- "rename": at the n-th start it is killed (SIGKILL) at the n-th time that it puts a file in place, now just before, now
  just after, until it gets through;
- "random": it is killed at random moments of its work, up to --kills times, then let through; --rounds times.
Compared are the names of all files that are left and their bytes; in JSON dates, durations and memory are left out, of
a state its tensors and numbers are taken, of a database its ratings without their times.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any

import torch

from rd.checkpoint import load_state
from rd.cli import main as rd
from rd.data.corpus import read_corpus, samples
from rd.data.fetch import fetch
from rd.data.jsonl import write_lines
from rd.human.guidelines import ASPECTS
from rd.human.session import Session, take_seat
from rd.human.sheets import make
from rd.human.store import Store
from rd.labels import EMOTIONS, INTENTS

WORDS = "i you the a dog cat rain sun lost found my your was very so happy sad why did that hope fine".split()
SIZES = {"train": 32, "valid": 6, "test": 160}
SETTINGS = """
    data.max_context=40 model.width=12 model.heads=2 model.ffn=16 train.batch=4 train.precision=fp32 train.warmup=4
    train.validate_every=6 train.save_every=3 final.steps=6 final.batch=4 final.precision=fp32 final.warmup=2
    final.validate_every=3 final.save_every=2
""".split()
STEPS = 24
BYTES = 3_000_000  # of each file to fetch
PASSING = ("date", "seconds", "process_peak_mb", "gpu_peak_mb")  # in JSON: what no two runs share
PRELOADED = ["rd.pipeline", "rd.llm.baseline", "rd.annotation.files", "torch._dynamo", "openai", "evaluate"]
Facts = dict[str, str]  # what the commands need: paths, addresses


@dataclass(frozen=True)
class Case:
    """begin: sets the folder up; work: the command, which goes on where it was; exit status."""

    begin: Callable[[Path, Facts], Any]
    work: Callable[[Path, Facts], int]


def nothing(folder: Path, facts: Facts) -> None:
    """The command begins with an empty folder."""


def train(folder: Path, facts: Facts) -> int:
    """`rd train --resume`: two stages."""
    sets = [f"--set={change}" for change in (*SETTINGS, f"data.vectors={facts['vectors.txt']}")]
    more = ["--data", facts["data"], "--out", str(folder / "run"), "--max-steps", str(STEPS), "--resume"]
    return rd(["train", "transformer", *more, *sets])


def trained(folder: Path, facts: Facts) -> None:
    """A finished run."""
    shutil.copytree(facts["run"], folder / "run")


def evaluate(folder: Path, facts: Facts) -> int:
    """`rd evaluate`."""
    return rd(["evaluate", str(folder / "run"), "--data", facts["data"]])


def generate(folder: Path, facts: Facts) -> int:
    """`rd generate`, by chance."""
    return rd(["generate", str(folder / "run"), "--data", facts["data"], "--decode", "sample"])


def annotate(folder: Path, facts: Facts) -> int:
    """`rd annotate`."""
    more = ["--in", facts["lines.jsonl"], "--out", str(folder / "out.jsonl"), "--by", "weak", "--data", facts["data"]]
    return rd(["annotate", "reasons", *more])


def prompt(folder: Path, facts: Facts) -> int:
    """`rd prompt --resume` against a server on this machine."""
    os.environ |= {"OPENAI_BASE_URL": facts["server"], "NO_PROXY": "127.0.0.1"}
    more = ["--data", facts["data"], "--shots", "0", "--out", str(folder / "run"), "--resume"]
    return rd(["prompt", "made-up", *more])


def study(folder: Path, facts: Facts) -> None:
    """A study of two made-up systems."""
    corpus, chance = read_corpus(facts["data"]), random.Random(0)
    for name in ("ours", "theirs"):
        (folder / name).mkdir()
        replies = ({"id": s.id, "reply": " ".join(chance.choices(WORDS, k=5))} for s in samples(corpus.splits["test"]))
        write_lines(folder / name / "samples.jsonl", replies)
    make([folder / "ours", folder / "theirs"], corpus, folder / "study", 20, raters=2)


def rate(folder: Path, facts: Facts) -> int:
    """One rater, who goes on where the work stopped."""
    with Store(folder / "study") as store:
        session = Session(store, take_seat(store, "Ann"))
        while session.pair:
            key = session.pair.pair
            for aspect in [aspect for aspect in ASPECTS if session.choice(aspect) is None]:
                session.rate(aspect, random.Random(f"{key} {aspect}").choice(("A", "B", "tie")))
    return 0


def download(folder: Path, facts: Facts) -> int:
    """`rd data fetch`, from a server on this machine."""
    os.environ["NO_PROXY"] = "127.0.0.1"
    fetch(folder / "data", facts["archive"], facts["sha256"])
    return 0


CASES = {
    "train": Case(nothing, train),
    "evaluate": Case(trained, evaluate),
    "generate": Case(trained, generate),
    "annotate": Case(nothing, annotate),
    "prompt": Case(nothing, prompt),
    "rate": Case(study, rate),
    "fetch": Case(nothing, download),
}


class Handler(BaseHTTPRequestHandler):
    """Sends an archive slowly, from any place; answers questions of `rd prompt`, each always alike."""

    archive = b""

    def do_GET(self) -> None:
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        self._head(206 if start else 200, len(self.archive) - start)
        for place in range(start, len(self.archive), 1 << 16):
            self.wfile.write(self.archive[place : place + (1 << 16)])
            time.sleep(0.002)

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers["Content-Length"]))
        chance = random.Random(json.loads(asked)["messages"][-1]["content"])
        said = {"emotion": chance.choice(EMOTIONS), "cause": chance.choice(WORDS), "intent": chance.choice(INTENTS)}
        said["reply"] = " ".join(chance.choices(WORDS, k=6))
        message = {"role": "assistant", "content": json.dumps(said)}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        body = json.dumps(
            {"id": "1", "object": "chat.completion", "created": 0, "model": "made-up", "choices": [choice]}
        )
        time.sleep(0.01)
        self._head(200, len(body), "application/json")
        self.wfile.write(body.encode())

    def _head(self, status: int, length: int, kind: str = "application/gzip") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.send_header("Content-Type", kind)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """Clients are killed in mid-answer here."""

    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Say nothing."""


def tools(folder: Path) -> tuple[Facts, Server]:
    """Made-up dialogues, word vectors, an archive, and the server, which runs until it is shut down."""
    chance = random.Random(0)
    (folder / "data").mkdir(parents=True)

    def dialogue(key: str) -> dict[str, Any]:
        turns = [" ".join(chance.choices(WORDS, k=chance.randint(3, 9))) for _ in range(chance.choice((2, 4)))]
        return {"id": key, "emotion": chance.choice(EMOTIONS), "prompt": turns[0], "turns": turns}

    for split, size in SIZES.items():
        write_lines(folder / "data" / f"{split}.jsonl", (dialogue(f"{split}{i}") for i in range(size)))
    write_lines(folder / "lines.jsonl", ({"dialogue": dialogue("")["turns"]} for _ in range(200)))
    (folder / "vectors.txt").write_text("".join(f"{word} {' '.join(['0.1'] * 12)}\n" for word in WORDS))
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=0) as tar:
        for split in SIZES:
            member = tarfile.TarInfo(f"corpus/{split}.csv")
            member.size = BYTES
            tar.addfile(member, io.BytesIO(chance.randbytes(BYTES)))
    server = Server(("127.0.0.1", 0), type("Own", (Handler,), {"archive": packed.getvalue()}))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    address, sha256 = f"http://127.0.0.1:{server.server_port}", hashlib.sha256(packed.getvalue()).hexdigest()
    facts = {name: str(folder / name) for name in ("data", "run", "lines.jsonl", "vectors.txt")}
    return facts | {"server": f"{address}/v1", "archive": f"{address}/corpus.tar.gz", "sha256": sha256}, server


def child(name: str, folder: str, facts: Facts, die_at: int) -> None:
    """The command in a process of its own, which kills itself at its `die_at`-th rename (odd: before, even: after)."""
    with open(f"{folder}.log", "a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    torch.set_num_threads(1)
    if die_at:
        left, put = [(die_at + 1) // 2], os.replace

        def replace(*places: Any, **more: Any) -> None:
            left[0] -= 1
            if not left[0] and die_at % 2:
                os.kill(os.getpid(), signal.SIGKILL)
            put(*places, **more)
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)

        os.replace = replace
    sys.exit(CASES[name].work(Path(folder), facts))


class Starter:
    """Starts commands. They are forked off one process that has read the libraries already, and done nothing else."""

    def __init__(self) -> None:
        os.environ["PYTHONWARNINGS"] = "ignore"  # Python's own tracker counts what the killed could not give back
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOADED)

    def run(self, name: str, folder: Path, facts: Facts, die_at: int = 0, after: float | None = None) -> bool:
        """Whether the command got through. after: seconds until it is killed. Raises RuntimeError where it failed."""
        process = self.context.Process(target=child, args=(name, str(folder), facts, die_at))
        process.start()
        process.join(after)
        if process.is_alive():
            process.kill()
        process.join()
        if process.exitcode not in (0, -signal.SIGKILL):
            raise RuntimeError(f"{name}: exit {process.exitcode}\n{Path(f'{folder}.log').read_text()[-2000:]}")
        return process.exitcode == 0

    def whole(self, name: str, folder: Path, facts: Facts) -> float:
        """The undisturbed run, from its beginning; its seconds."""
        folder.mkdir()
        CASES[name].begin(folder, facts)
        began = time.monotonic()
        assert self.run(name, folder, facts)
        return time.monotonic() - began

    def at_renames(self, name: str, folder: Path, facts: Facts, stride: int = 1) -> int:
        """Killed at its first rename, `stride` moments later at the next start, ...; the number of kills."""
        folder.mkdir()
        CASES[name].begin(folder, facts)
        return next(kills for kills in count() if self.run(name, folder, facts, die_at=1 + stride * kills))

    def at_random(self, name: str, folder: Path, facts: Facts, seconds: float, chance: random.Random, most: int) -> int:
        """Killed at random moments of a run of `seconds`, at most `most` times; the number of kills."""
        folder.mkdir()
        CASES[name].begin(folder, facts)
        for kills in range(most):
            if self.run(name, folder, facts, after=chance.uniform(0, seconds)):
                return kills
        assert self.run(name, folder, facts)
        return most


def kept(folder: Path) -> dict[str, Any]:
    """All files under a folder, hidden ones too, by name: what the command left."""
    return {str(path.relative_to(folder)): _content(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def _content(path: Path) -> Any:
    if path.suffix == ".json":
        return _timeless(json.loads(path.read_text("utf-8")))
    if path.name == "state.pt":
        return json.dumps(_timeless(load_state(path)), default=lambda tensor: tensor.tolist())
    if path.suffix == ".sqlite":
        with sqlite3.connect(path) as db:
            return db.execute("SELECT rater, pair, aspect, choice FROM ratings ORDER BY 1, 2, 3").fetchall()
    return path.read_bytes()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _timeless(part)
            for key, part in value.items()
            if key not in ("date", "seconds", "process_peak_mb", "gpu_peak_mb")
        }
    return value


def rounds(name: str, folder: Path, facts: Facts, start: Starter, number: int, most: int, seed: int) -> list[list]:
    """Rows of the table: command, how it was killed, rounds, kills, restarts, whether all ended alike."""
    seconds = start.whole(name, folder / "whole", facts)
    want, rows = kept(folder / "whole"), []
    kills = start.at_renames(name, folder / "rename", facts)
    if kills:  # a database puts no file in place
        rows.append([name, "rename", 1, kills, "yes" if kept(folder / "rename") == want else "NO"])
    total, equal, chance = 0, True, random.Random(f"{seed} {name}")
    for i in range(number):
        total += start.at_random(name, folder / f"random{i}", facts, seconds, chance, most)
        equal &= kept(folder / f"random{i}") == want
    return [*rows, [name, "random", number, total, "yes" if equal else "NO"]]


def main() -> int:
    """Print the table; status 1 where a killed command ended otherwise."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--kills", type=int, default=6, help="at most, in one round")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    start, lines = Starter(), ["| command | killed at | rounds | kills | as if undisturbed |", "|---|---|---|---|---|"]
    print("\n".join(lines), flush=True)
    with tempfile.TemporaryDirectory() as where:
        facts, server = tools(Path(where) / "tools")
        begun = Path(where) / "begun"
        start.whole("train", begun, facts)
        shutil.copytree(begun / "run", facts["run"])
        for name in chosen.only:
            (Path(where) / name).mkdir()
            for row in rounds(name, Path(where) / name, facts, start, chosen.rounds, chosen.kills, chosen.seed):
                lines.append(f"| {' | '.join(map(str, row))} |")
                print(lines[-1], flush=True)
        server.shutdown()
    if chosen.out:
        chosen.out.write_text("\n".join(lines) + "\n")
    return int(any("NO" in line for line in lines))


if __name__ == "__main__":
    sys.exit(main())
