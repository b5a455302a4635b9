"""Many questions at once against a fake server that is slow, fails, and answers out of order."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rd.annotation import ways
from rd.annotation.blocks import Block
from rd.annotation.client import Client
from rd.annotation.files import Job, annotate_file
from rd.annotation.llm import Intent
from rd.annotation.llm_backends import Again, server
from rd.annotation.workers import in_order
from rd.errors import UserError
from rd.labels import INTENTS

GOOD = '{"intent": "wishing"}'
TALKS = [[f"I lost my dog {n % 11}.", "Oh no.", f"He came back {n}!", "Good luck."] for n in range(20)]


class Handler(BaseHTTPRequestHandler):
    """Names an intent by the prompt's length and letters, sooner or later; one in five questions fails at first."""

    def do_POST(self) -> None:  # noqa: N802
        prompt = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][-1]["content"]
        here, sort = self.server, sum(map(ord, prompt))
        with here.changed:
            here.asked[prompt] += 1
            here.flying += 1
            here.peak = max(here.peak, here.flying)
            here.changed.notify_all()
            here.changed.wait_for(lambda: here.answers != 0, 20)
            here.answers -= 1
        time.sleep(random.Random(sort).random() / 50)
        failed = sort % 5 == 0 and here.asked[prompt] == 1
        message = {"role": "assistant", "content": json.dumps({"intent": INTENTS[sort % len(INTENTS)]})}
        body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}
        body["choices"] = [{"index": 0, "finish_reason": "stop", "message": message}]
        data = json.dumps({"error": {"message": "made up"}} if failed else body).encode()
        with here.changed:
            here.flying -= 1
        try:
            self.send_response((500, 429)[sort % 2] if failed else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:  # the one who asked is gone
            pass

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def fake(monkeypatch):
    """answers: how many it gives before it only listens; -1: no end."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    http.asked, http.flying, http.peak, http.answers, http.changed = Counter(), 0, 0, -1, threading.Condition()
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{http.server_port}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "made-up")
    monkeypatch.setenv("RD_LLM_MODEL", "m")
    yield http
    with http.changed:
        http.answers = -1
        http.changed.notify_all()
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"dialogue": talk}) + "\n" for talk in TALKS))
    return path


def until(reached) -> None:
    """Wait for another thread; 20 seconds are a failure."""
    end = time.monotonic() + 20
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.001)


def hasty(monkeypatch, make=None) -> None:
    """Clients that never really sleep."""
    new = make or (lambda cache: Client(server(), "m", cache, sleep=lambda _: None))
    monkeypatch.setattr(ways, "client_from_environment", new)


def annotated(source: Path, name: str, **more) -> tuple[bytes, dict]:
    out = source.with_name(name)
    report = annotate_file(Job("intents", source, out, "llm", **more), None)
    return out.read_bytes(), report


def test_several_at_once_give_what_one_gives(fake, source, monkeypatch):
    hasty(monkeypatch)
    alone, told = annotated(source, "one.jsonl", concurrency=1, block=4)
    assert fake.peak == 1 and told["retried"] > 0 and told["gave_up"] == 0
    asked = fake.asked.copy()
    fake.asked.clear()
    many, again = annotated(source, "many.jsonl", concurrency=4, block=4)
    assert many == alone and fake.asked == asked and 1 < fake.peak <= 4
    assert again == told and told["cached"] > 0  # equal questions were asked once
    lines = [source.with_name(f"{name}.cache.jsonl").read_text().splitlines() for name in ("one", "many")]
    assert len(lines[0]) == len(asked) == told["asked"] and sorted(lines[0]) == sorted(lines[1])
    rows = [json.loads(line) for line in many.splitlines()]
    assert [row["dialogue"] for row in rows] == TALKS and all(len(row["intents"]) == 2 for row in rows)


def test_ctrl_c_ends_at_once_and_the_rest_is_asked_later(fake, source, monkeypatch):
    fake.answers = 12
    out = source.with_name("out.jsonl")
    given = ["annotate", "intents", "--by", "llm", "--in", str(source), "--out", str(out), "--concurrency", "3"]
    command = [sys.executable, "-m", "rd.cli", *given]
    free = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}  # a shell's & ignores it
    one = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **free)
    with fake.changed:
        assert fake.changed.wait_for(lambda: fake.answers == 0 and fake.flying == 3, 120)
    os.kill(one.pid, signal.SIGINT)  # three questions have no answer, and will have none
    said = one.communicate(timeout=60)[1]
    assert one.returncode == 130 and "--resume" in said and not out.exists()
    with fake.changed:
        fake.answers = -1
        fake.changed.notify_all()
    before = fake.asked.copy()
    known = out.with_suffix(".cache.jsonl").read_text().count('"answered"')
    hasty(monkeypatch)
    found, told = annotated(source, "out.jsonl", resume=True)
    assert found == annotated(source, "other.jsonl")[0] and told["gave_up"] == 0
    assert known >= 6 and told["asked"] == len(before | fake.asked) - known  # what was answered is not asked again


def test_a_silent_server_ends_the_work_and_nothing_is_null(fake, source, monkeypatch):
    def silent(*_):
        raise Again("HTTP 503")

    hasty(monkeypatch, lambda cache: Client(silent, "m", cache, sleep=lambda _: None, tries=2))
    with pytest.raises(UserError, match=r"2\d questions in a row went unanswered .*HTTP 503.* --resume"):
        annotated(source, "out.jsonl")
    assert not source.with_name("out.jsonl").exists()
    hasty(monkeypatch)
    found, told = annotated(source, "out.jsonl", resume=True)
    assert b"null" not in found and told["gave_up"] == 0


def asked_at_once(client, number, go):
    """What the client gives to `number` threads with one question; `go` is set when all but one wait for the first."""
    with ThreadPoolExecutor(number) as pool:
        found = [pool.submit(client.answer, "Which?", Intent) for _ in range(number)]
        try:
            until(lambda: client.report["cached"] == number - 1)
        finally:
            go.set()
    return found


def test_a_question_under_way_is_asked_once(tmp_path):
    go, asked = threading.Event(), []

    def ask(prompt, schema):
        asked.append(prompt)
        assert go.wait(20)
        return GOOD

    client = Client(ask, "m", tmp_path / "cache.jsonl")
    found = asked_at_once(client, 5, go)
    assert [each.result().intent for each in found] == ["wishing"] * 5 and asked == ["Which?"]
    assert client.report["asked"] == 1 and (tmp_path / "cache.jsonl").read_bytes().count(b"\n") == 1


def test_an_error_reaches_all_who_wait_and_is_no_answer(tmp_path):
    go, asked = threading.Event(), []

    def ask(prompt, schema):
        asked.append(prompt)
        if len(asked) == 1:
            assert go.wait(20)
            raise UserError("a wrong key")
        return GOOD

    client = Client(ask, "m", None)
    found = asked_at_once(client, 3, go)
    assert [str(each.exception()) for each in found] == ["a wrong key"] * 3
    assert client.answer("Which?", Intent).intent == "wishing" and len(asked) == 2


@pytest.mark.parametrize(("everyone", "waits"), [(True, True), (False, False)])
def test_who_is_told_to_wait_holds_up_the_others(everyone, waits):
    """While the first question waits, another one is asked: by way of the first one's sleep."""
    events: list = []

    def ask(prompt, schema):
        events.append(prompt)
        if events == ["first"]:
            raise Again("busy", 7.0, everyone)
        return GOOD

    def sleep(seconds: float) -> None:
        events.append(seconds)
        if len(events) == 2:
            client.answer("other", Intent)

    client = Client(ask, "m", None, sleep)
    client.answer("first", Intent)
    assert events[:2] == ["first", 7.0] and [e for e in events if isinstance(e, str)] == ["first", "other", "first"]
    assert (events[2] == "other") is not waits and (not waits or events[2] == pytest.approx(7, abs=1))
    assert len(events) == 5 if waits else 4  # the first, having slept, does not wait again


def test_slow_labels_slow_the_reading():
    """Three at once, blocks of four rows: while nothing ends, two blocks are read; they come out in order."""
    go, lock, begun, read = threading.Event(), threading.Lock(), [], []

    def label(row):
        with lock:
            begun.append(row["n"])
        assert go.wait(20)
        time.sleep(random.random() / 200)
        return -row["n"]

    def blocks():
        for end in range(4, 44, 4):
            read.append(end)
            yield Block(end, [{"n": n} for n in range(end - 4, end)], "")

    found: list = []
    thread = threading.Thread(target=lambda: found.extend(in_order(label, blocks(), 3)))
    thread.start()
    until(lambda: len(begun) == 3)
    time.sleep(0.05)
    assert len(begun) == 3 and read == [4, 8]
    go.set()
    thread.join()
    assert [label for _, labels in found for label in labels] == [-n for n in range(40)]
    assert [block.end for block, _ in found] == read == list(range(4, 44, 4))


@pytest.mark.parametrize("at_once", [1, 3])
def test_an_error_comes_in_its_turn(at_once):
    def label(row):
        if row["n"] == 9:
            raise UserError("nine")
        return row["n"]

    blocks = [Block(end, [{"n": n} for n in range(end - 4, end)], "") for end in range(4, 44, 4)]
    found = []
    with pytest.raises(UserError, match="nine"):
        for _, labels in in_order(label, iter(blocks), at_once):
            found += labels
    assert found == list(range(8))
