"""The language-model annotators against a fake OpenAI-compatible server that misbehaves. Nothing really sleeps."""

import json
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from tiny_bert import random_bert
from transformers import LlamaConfig, LlamaForCausalLM

from rd.annotation.llm import (
    Client,
    Intent,
    Reasons,
    annotate_intents,
    annotate_reasons,
    client_from_environment,
    local,
    locate,
    server,
)  # fmt: skip
from rd.annotation.llm_backends import HOSTED, log_likelihoods, stored
from rd.cli import main
from rd.data.records import check_spans
from rd.errors import UserError
from rd.labels import INTENTS

GOOD = '{"intent": "wishing"}'
TURNS = ["My parrot flew away.", "Oh no, poor thing.", "He came back, I am so relieved!", "Good luck to you both."]


class Handler(BaseHTTPRequestHandler):
    """Plays server.script, one entry a request: "hang", a status (with headers), a refusal, a text, or a body."""

    def do_POST(self):  # noqa: N802
        self.server.keys.append(self.headers["Authorization"])
        self.server.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        act = self.server.script.pop(0)
        if act == "hang":
            self.server.release.wait(20)
            return
        status, headers = (act[0], act[1]) if isinstance(act, tuple) else (200, {})
        message = {"role": "assistant", **(act if isinstance(act, dict) else {"content": act})}
        body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}
        body["choices"] = [{"index": 0, "finish_reason": "stop", "message": message}]
        body = body if status == 200 else {"error": {"message": "made up"}}
        data = act if isinstance(act, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def fake(monkeypatch):
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "RD_LLM_MODEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    http.script, http.asked, http.keys, http.release, http.slept = [], [], [], threading.Event(), []
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield http
    http.release.set()
    http.shutdown()
    thread.join()
    http.server_close()


def client(fake, *script, cache=None, timeout=5.0, **more):
    """A client of the fake server, which plays `script` next."""
    fake.script[:] = script
    ask = server(f"http://127.0.0.1:{fake.server_port}/v1", "m", "made-up", timeout=timeout)
    return Client(ask, "m", cache, sleep=fake.slept.append, **more)


def test_every_misfortune_is_outlived(fake):
    script = ("hang", (500, {}), (429, {"Retry-After": "7"}), '{"intent": "wi', '{"intent": "praising"}', GOOD)
    one = client(fake, *script, timeout=2.0, tries=6)
    assert one.answer("Which?", Intent) == Intent(intent="wishing")
    assert fake.slept == [1, 2, 7, 8, 16]  # doubled each time, but for the wait that the server asked for
    assert len(fake.asked) == 6 and one.report["retried"] == 5 and one.report["gave_up"] == 0
    form = fake.asked[0]["response_format"]
    assert form["type"] == "json_schema" and form["json_schema"]["schema"] == Intent.model_json_schema()
    prompts = [body["messages"][-1]["content"] for body in fake.asked]
    assert prompts[:4] == ["Which?"] * 4  # a broken answer is shown to the model, bad weather is not
    assert all("not valid" in prompt for prompt in prompts[4:])


def test_a_date_to_retry_after(fake):
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=500), usegmt=True)
    assert client(fake, (429, {"Retry-After": later}), GOOD).answer("Which?", Intent)
    assert 300 < fake.slept[0] <= 500


@pytest.mark.parametrize(
    "when",
    ["9" * 400, "99999999999", "Fri, 31 Dec 9999 23:59:59 GMT", f"Fri, 31 Dec {'9' * 30} 23:59:59 GMT", "", "tomorrow"],
)
def test_a_wait_without_end_is_not_waited_for(fake, when):
    busy = (429, {"Retry-After": when})
    one = client(fake, busy, GOOD, *[busy] * 2, tries=2)
    assert one.answer("Which?", Intent) and fake.slept == [1]
    assert one.answer("And now?", Intent) is None and fake.slept == [1, 1] and one.report["gave_up"] == 1


@pytest.mark.parametrize(
    "body",
    [
        *("null", "[]", "7", '"abc"', "{}", '{"choices": null}', '{"choices": "abc"}', '{"choices": {"a": 1}}'),
        *('{"choices": 7}', '{"choices": []}', '{"choices": [{}]}', '{"choices": [null]}', '{"choices": ["abc"]}'),
        *(f'{{"choices": [{{"message": {message}}}]}}' for message in ("null", "7", '"abc"', "[]", "{}")),
        *(f'{{"choices": [{{"message": {{"content": {said}}}}}]}}' for said in ("null", "7", "[]", "{}", "true")),
        pytest.param('{"choices": ' + "[" * 100_000 + "]" * 100_000 + "}", id="deep"),
        "{",
    ],
)
def test_a_reply_of_any_form_is_a_failed_answer(fake, body):
    one = client(fake, body.encode(), body.encode(), GOOD, tries=2)
    assert one.answer("Which?", Intent) is None and one.report["gave_up"] == 1 and fake.slept == [1]
    assert one.answer("And now?", Intent).intent == "wishing"


def test_a_reply_that_tells_no_more_than_its_text_is_read(fake):
    body = json.dumps({"choices": [{"message": {"content": GOOD}}]})
    assert client(fake, body.encode()).answer("Which?", Intent).intent == "wishing"


def test_lost_connection_is_tried_again(fake):
    ask = server("http://127.0.0.1:9/v1", "m", "made-up", timeout=5)  # the discard port: nobody listens
    one = Client(ask, "m", None, sleep=fake.slept.append, tries=3)
    assert one.answer("Which?", Intent) is None
    assert fake.slept == [1, 2] and one.report["gave_up"] == 1


def test_refusals_are_recorded_and_final(fake, tmp_path):
    cache = tmp_path / "deep" / "cache.jsonl"
    one = client(fake, {"content": None, "refusal": "I would rather not."}, cache=cache)
    assert annotate_intents(TURNS[:2], one) == [None]
    assert one.report["refused"] == 1 and not fake.slept
    (line,) = map(json.loads, cache.read_text().splitlines())
    assert line["outcome"] == "refused" and line["reason"] == "I would rather not." and line["result"] is None
    again = client(fake, cache=cache)
    assert annotate_intents(TURNS[:2], again) == [None] and len(fake.asked) == 1 and again.report["cached"] == 1


def test_what_was_given_up_is_recorded_and_asked_anew(fake, tmp_path):
    cache = tmp_path / "cache.jsonl"
    assert client(fake, (500, {}), (503, {}), cache=cache, tries=2).answer("Which?", Intent) is None
    assert json.loads(cache.read_text())["outcome"] == "gave_up" and fake.slept == [1]
    assert client(fake, (400, {}), cache=cache).answer("Which?", Intent) is None  # not tried again: it would not help
    assert fake.slept == [1] and client(fake, GOOD, cache=cache).answer("Which?", Intent).intent == "wishing"
    assert client(fake, cache=cache).answer("Which?", Intent).intent == "wishing" and len(fake.asked) == 4


def test_the_cache_answers_only_the_same_question(fake, tmp_path):
    cache = tmp_path / "cache.jsonl"
    assert client(fake, GOOD, cache=cache).answer("Which?", Intent)
    before = cache.read_bytes()
    assert client(fake, cache=cache).answer("Which?", Intent).intent == "wishing" and len(fake.asked) == 1
    assert cache.read_bytes() == before
    for prompt, form, reply in (("Which one?", Intent, GOOD), ("Which?", Reasons, '{"phrases": []}')):
        assert client(fake, reply, cache=cache).answer(prompt, form) is not None
    assert Client(lambda *_: GOOD, "another", cache).answer("Which?", Intent)
    assert cache.read_bytes().startswith(before) and cache.read_bytes().count(b"\n") == 4


def test_a_torn_line_is_cut_off_and_a_broken_one_named(fake, tmp_path):
    cache = tmp_path / "cache.jsonl"
    client(fake, GOOD, cache=cache).answer("Which?", Intent)
    whole = cache.read_bytes()
    for torn in (whole[:-1], whole[:-20]):
        cache.write_bytes(whole + torn)
        assert client(fake, cache=cache).answer("Which?", Intent).intent == "wishing"
        assert cache.read_bytes() == whole
    cache.write_bytes(b"{}\n" + whole)
    with pytest.raises(UserError, match=r"cache.jsonl:1: "):
        client(fake, cache=cache)


def test_intents_see_the_past_only(fake):
    one = client(fake, '{"intent": "sympathizing"}', f"Here it is: ```json\n{GOOD}\n```")
    assert annotate_intents(TURNS, one) == ["sympathizing", "wishing"]
    first, second = (body["messages"][-1]["content"] for body in fake.asked)
    assert TURNS[0] in first and TURNS[1] in first and TURNS[2] not in first and TURNS[3] not in first
    assert all(turn in second for turn in TURNS)


def test_reasons_become_places_in_the_turn(fake):
    one = client(fake, '{"phrases": ["PARROT flew away", "my dog"]}', '{"phrases": []}')
    (spans, none) = annotate_reasons(TURNS, one)
    assert [TURNS[0][start:end] for start, end in spans] == ["parrot flew away"] and none == []
    assert one.report["not_found"] == 1


def test_phrases_that_all_stand_elsewhere_are_no_answer(fake):
    one = client(fake, '{"phrases": ["...", "my dog"]}', '{"phrases": []}')
    assert annotate_reasons(TURNS, one) == [None, []] and one.report["not_found"] == 2


def test_phrases_that_overlap_are_one(fake):
    one = client(fake, '{"phrases": ["so relieved", "am so", "came back", "relieved"]}')
    (spans,) = annotate_reasons(TURNS[2:3], one)
    assert [TURNS[2][start:end] for start, end in spans] == ["came back", "am so relieved"]
    assert check_spans("here", [list(span) for span in spans], TURNS[2]) == tuple(spans)  # the readers take them back


@pytest.mark.parametrize(
    ("text", "phrase", "found"),
    [
        ("A saddle is sad. So SAD!", "Sad", (12, 15)),  # the first whole word
        ("I lost  my\tjob", "lost my job", (2, 14)),
        ("What (a) day?", "(a) day?", (5, 13)),
        ("İ was scared", "SCARED", (6, 12)),  # a letter that grows in lower case moves no offset
        ("I was scared", "scare", None),
        ("I was scared", " ", None),
    ],
)
def test_locate(text, phrase, found):
    assert locate(text, phrase) == found


def test_mistakes_of_the_user(fake, monkeypatch, tmp_path):
    with pytest.raises(UserError, match="RD_LLM_MODEL"):
        client_from_environment(None)
    with pytest.raises(UserError, match="RD_LLM_MODEL"):
        server("http://127.0.0.1:9/v1")
    for status in (401, 403, 404):
        with pytest.raises(UserError, match="OPENAI_API_KEY"):
            client(fake, (status, {})).answer("Which?", Intent)
    monkeypatch.setenv("RD_LLM_MODEL", str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="nothing"):
        client_from_environment(None)


def test_the_environment_names_the_server(fake, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{fake.server_port}/v1")
    monkeypatch.setenv("RD_LLM_MODEL", "served")
    fake.script[:] = [GOOD]
    assert client_from_environment(None).answer("Which?", Intent).intent == "wishing"
    assert fake.asked[0]["model"] == "served" and fake.keys == ["Bearer none"]  # one's own server: a placeholder
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    fake.script[:] = [GOOD]
    assert client_from_environment(None).answer("Which?", Intent) and fake.keys[1] == "Bearer secret"


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({}, "RD_LLM_MODEL"),
        ({"OPENAI_API_KEY": "k"}, "RD_LLM_MODEL"),
        ({"OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}, "RD_LLM_MODEL"),
        ({"RD_LLM_MODEL": "m", "OPENAI_BASE_URL": HOSTED}, "OPENAI_API_KEY"),
        ({"RD_LLM_MODEL": "m", "OPENAI_BASE_URL": HOSTED + "/", "OPENAI_API_KEY": ""}, "OPENAI_API_KEY"),
        ({"RD_LLM_MODEL": "m", "OPENAI_BASE_URL": "localhost:8000/v1"}, "http://"),
        ({"RD_LLM_MODEL": "no-such-q4-gguf", "OPENAI_API_KEY": ""}, "pip install"),
        ({"RD_LLM_MODEL": "no/such.gguf"}, "no such file"),
    ],
)
def test_what_is_missing_is_one_line_and_status_2(fake, monkeypatch, tmp_path, capsys, settings, word):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(json.dumps({"dialogue": TURNS}) + "\n")
    for what in ("reasons", "intents"):
        assert main(["annotate", what, "--by", "llm", "--in", str(source), "--out", str(out)]) == 2
        said = capsys.readouterr().err
        assert word in said and said.startswith("rd: ") and said.count("\n") == 1
    assert not out.exists()


def test_no_address_is_the_hosted_server(fake):
    with pytest.raises(UserError, match="OPENAI_API_KEY"):
        server(model="m")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The folder of a language model whose weights are chance."""
    tokenizer, _ = random_bert()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2,
        pad_token_id=0, bos_token_id=2, eos_token_id=3, initializer_range=0.5,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("tiny")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_log_likelihoods_against_one_pass_each(tiny):
    model, chance = LlamaForCausalLM.from_pretrained(tiny).eval(), torch.Generator().manual_seed(1)
    prompt, *answers = (torch.randint(4, 60, (n,), generator=chance) for n in (9, 3, 1, 5))
    with torch.inference_mode():
        found = log_likelihoods(model, prompt, answers)
        for answer, value in zip(answers, found, strict=True):
            scores = model(torch.cat([prompt, answer])[None]).logits[0].log_softmax(-1)
            told = sum(scores[len(prompt) + i - 1, token] for i, token in enumerate(answer))
            assert value.item() == pytest.approx(told.item(), abs=1e-4)


def test_a_local_model_cannot_leave_a_closed_set(fake, monkeypatch, tiny):
    monkeypatch.setenv("RD_LLM_MODEL", str(tiny))
    monkeypatch.setenv("OPENAI_API_KEY", "k")  # what is stored here is not asked of a server
    one = client_from_environment(None)
    assert all(intent in INTENTS for intent in annotate_intents(TURNS, one))
    assert one.report["asked"] == 2 and one.report["retried"] == one.report["gave_up"] == 0 and not fake.asked
    many = {one.answer(f"{place} so sad {place}", Intent).intent for place in range(12)}
    assert len(many) > 1  # the prompt matters


def test_a_local_model_is_asked_twice_at_most(fake, monkeypatch, tiny, tmp_path, capsys):
    form = Reasons.model_json_schema()
    ask = local(str(tiny), longest=4)
    assert ask("i am so sad", form) == ask("i am so sad", form) and ask("i am", form).startswith('{"phrases":')
    monkeypatch.setenv("RD_LLM_MODEL", str(tiny))
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(json.dumps({"dialogue": TURNS}) + "\n")
    assert main(["annotate", "reasons", "--by", "llm", "--in", str(source), "--out", str(out)]) == 0
    row, said = json.loads(out.read_text()), capsys.readouterr().out.split()
    assert row["reasons"] == [None, None] and row["by"] == f"llm:{tiny}"  # its weights are chance: no JSON comes
    assert all(said[said.index(name) + 1] == "2" for name in ("asked", "retried", "gave_up"))
    assert [json.loads(line)["outcome"] for line in (tmp_path / "out.cache.jsonl").open()] == ["gave_up"] * 2


def test_a_pip_package_may_assemble_the_model(fake, monkeypatch, tmp_path):
    (tmp_path / "made_up_gguf.py").write_text(f"def assemble():\n    return {str(tmp_path / 'broken.gguf')!r}\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert stored("made-up-gguf") and stored(str(tmp_path)) and not stored("made-up") and not stored("no-such-gguf")
    for torn in (b"no weights", b"GGUF\x03\x00\x00\x00\x01"):
        (tmp_path / "broken.gguf").write_bytes(torn)
        with pytest.raises(UserError, match="made-up-gguf"):
            local("made-up-gguf")


def test_torn_weights_are_named(tiny, tmp_path):
    for path in tiny.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(UserError, match=str(tmp_path)):
        local(str(tmp_path))
