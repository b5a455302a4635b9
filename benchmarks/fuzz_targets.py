"""What benchmarks/fuzz.py throws its inputs at: for each reader valid made-up files, and a call that reads bytes.

A call also checks what was accepted: offsets lie in their text, ids in the vocabulary, what is written reads back.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file

from rd.annotation.llm import Client, Reasons, annotate_intents, annotate_reasons
from rd.config import Config, DiffusionConfig, ModelConfig, from_dict
from rd.data.corpus import Corpus, Dialogue, Turn, read_corpus, samples
from rd.data.intents import read_intents
from rd.data.join import join_labels, read_labels, text_hash
from rd.data.jsonl import dialogue_line, read_jsonl, write_jsonl, write_lines
from rd.data.official import read_csv
from rd.data.text import Vocabulary, _tokenizer, _tokens, normalise, words
from rd.data.vectors import word_vectors
from rd.human.filled import read_sheet
from rd.human.judge import Choice
from rd.human.sheets import _replies, make
from rd.human.store import Store
from rd.knowledge.files import read_conceptnet, read_vad
from rd.knowledge.knowledge import RELATIONS
from rd.knowledge.remembered import Remembered, remembered_graph
from rd.llm.answers import Answer, clipped
from rd.metrics import score_files
from rd.run import MODELS, load_run
from rd.scores import read_scores
from rd.settings import settings

Run = Callable[[bytes], object]


@dataclass(frozen=True)
class Target:
    """open: a folder -> the call. share: of all inputs, beside the others'."""

    name: str
    open: Callable[[Path], Run]
    seeds: list[bytes] = field(repr=False)
    share: float = 1.0


TURNS = (Turn("I lost my key, and it's so sad.", ((2, 13),)), Turn("Oh no!", None, "consoling"), Turn("Yes..."))
DIALOGUES = [Dialogue(f"d{i}", emotion, "I lost it.", TURNS) for i, emotion in enumerate(("sad", "proud", None))]
HEADER = "conv_id,utterance_idx,context,prompt,speaker_idx,utterance,selfeval,tags\n"
CSV = HEADER + "".join(
    f"d{i},{n},sad,I lost_comma_ it.,{n % 2},{text},5|5|5_2|2|5,\n"
    for i in range(3)
    for n, text in enumerate(("I lost my key_comma_ sadly.", "Oh no!"), 1)
)
TOLD = [{"text": TURNS[0].text, "reasons": [[2, 13]]}, "Oh no!"]
JSONL = "".join(json.dumps({"id": d.id, "emotion": d.emotion, "turns": TOLD}) + "\n" for d in DIALOGUES)
LABELS = "".join(
    json.dumps({"conv_id": d.id, "turns": [
        {"utterance_idx": 1, "sha256": text_hash(d.turns[0].text), "reasons": [[2, 13]]},
        {"utterance_idx": 2, "sha256": text_hash("Oh no!"), "intent": "consoling"},
    ]}) + "\n"
    for d in DIALOGUES
)  # fmt: skip
LINES = '{"dialogue": ["I lost my key.", "Oh no!"], "n": 1}\n{"dialogue": ["Fine."]}\n'
REPLIES = [
    b'{"phrases": ["lost my key", "so sad"]}', b'Sure! {"phrases": []} done', b'```json\n{"intent": "consoling"}\n```',
    b'{"choice": "tie"}', b'{"emotion": "sad", "cause": "key", "intent": "consoling", "reply": "oh no ."}',
]  # fmt: skip
CACHE = "".join(
    json.dumps({"key": key, "model": "m", "outcome": outcome, "result": result, "reason": None}) + "\n"
    for key, outcome, result in (
        ("a", "answered", {"phrases": ["key"]}),
        ("b", "gave_up", None),
        ("c", "refused", None),
    )
)
TEXTS = [
    b"I lost my key, and it's so sad... Can't you see? \"Oh no\"!",
    b"good. day . e.g., :-) ;-) http://x.y/z?q=1 $5 it's''s ``",
    b"cannot gonna, wanna. 1,000 a.b c? dr. 's",
    "\u0130stanbul \u03a3\u03a3 \u2018a\u2019 50% (x) [y] a--b".encode(),
]  # fmt: skip
VOCABULARY = json.dumps(["<pad>", "<unk>", "<s>", "</s>", "<ctx>", "i", "lost", "\u00e9"], indent=0)
OVERRIDES = [b"model.joint=true", b"model.width=96", b"train.lr=0.5", b"data.vectors=x.txt", b"model.routing=batch",
             b"model.diffusion.steps=20", b"train.batch=4", b"model.heads=2"]  # fmt: skip
NET = "".join(
    f'/a/[/r/{r}/,/c/en/{a}/,/c/en/{b}/]\t/r/{r}\t/c/en/{a}/n\t/c/en/{b}\t{{"weight": {w}, "surfaceText": null}}\n'
    for r, a, b, w in (("RelatedTo", "dog", "cat", 2.0), ("IsA", "key", "thing", 1.5), ("Causes", "rain", "wet", 9))
) + "/a/x\t/r/IsA\t/c/fr/chien\t/c/fr/animal\t{}\n"  # fmt: skip
VAD = "Word\tValence\tArousal\tDominance\ndog\t0.9\t0.5\t0.4\nrain\t0.3\t0.2\t0.1\nkey\t0.5\t0.5\t0.5\n"
GLOVE = "dog 0.1 0.2 -0.3\nrain 1e-3 2 3\nkey -1 -2 -3.5\n"
GRAPH = '{"dog": [["cat", 0.5], ["rain", 0.1]], "key": []}'
SAID = "".join(f"\n{json.dumps([f'k{i}', [['a', 'b']] + [[]] * (len(RELATIONS) - 1)])}" for i in range(3)) + "\n"
TSV = "label\ttext\nconsoling\tOh no!\nsad\tI lost it.\nquestioning\twhy ?\n"
SCORES = "id,nats,length,reference,match_1,match_2,match_3,match_4\nd1:2,2.5,5,4,2,1,0,0\nd2:2,1.5,3,4,2,1,0,0\n"
ANSWERED = '{"id": "d0:2", "reply": "oh no ."}\n{"id": "d1:2", "reply": null}\n'


def _file(read: Callable[[Path], object], name: str = "x") -> Callable[[Path], Run]:
    """The call that writes the bytes into a file and reads it."""

    def opened(folder: Path) -> Run:
        def run(data: bytes) -> None:
            (folder / name).write_bytes(data)
            read(folder / name)

        return run

    return opened


def _jsonl(path: Path) -> None:
    dialogues, _ = read_jsonl(path)
    write_jsonl(path, dialogues)
    assert not dialogues or read_jsonl(path)[0] == dialogues


def _annotate_lines(path: Path) -> None:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            dialogue_line(f"{path}:{number}", line)


def _official(path: Path) -> None:
    dialogues, lines = read_csv(path)
    assert dialogues and set(lines) == {d.id for d in dialogues}
    assert all(turn.text.strip() for d in dialogues for turn in d.turns)


def _corpus(folder: Path) -> Run:
    kinds = {
        "csv": ("train.csv", "valid.csv", "test.csv"),
        "jsonl": ("train.jsonl", "test.jsonl", "train.labels.jsonl"),
    }

    def run(data: bytes) -> None:
        kind = "csv" if data[:8] == HEADER[:8].encode() else "jsonl"
        place = folder / kind
        place.mkdir(exist_ok=True)
        for i, name in enumerate(kinds[kind]):
            text = CSV if kind == "csv" else LABELS if "labels" in name else JSONL
            (place / name).write_bytes(text.replace('"d', f'"{i or ""}d').replace("\nd", f"\n{i}d").encode())
        spoilt = kinds[kind][2 if b"conv_id" in data and kind == "jsonl" else len(data) % 2]
        (place / spoilt).write_bytes(data)
        corpus = read_corpus(place)
        assert all(sample.target.text for split in corpus.splits.values() for sample in samples(split))

    return run


def _labels(path: Path) -> None:
    joined, _ = join_labels(DIALOGUES, read_labels(path))
    spans = [(turn.text, span) for d in joined for turn in d.turns for span in turn.reasons or ()]
    assert all(0 <= start < end <= len(text) for text, (start, end) in spans)


def _reply(folder: Path) -> Run:
    turns = [DIALOGUES[0].turns[0].text, "Oh no!"]

    def run(data: bytes) -> None:
        text = data.decode("utf-8", "surrogatepass" if len(data) % 2 else "replace") if _whole(data) else str(data)
        client = Client(lambda prompt, schema: text, "m", folder / "cache.jsonl", sleep=lambda _: None, tries=2)
        (spans,) = annotate_reasons(turns[:1], client)
        assert spans is None or all(0 <= start < end <= len(turns[0]) for start, end in spans)
        annotate_intents(turns, client)
        client.answer("which?", Choice)
        answer = client.answer("what?", Answer)
        assert answer is None or isinstance(clipped(answer.reply), str)
        (folder / "cache.jsonl").unlink()

    return run


def _whole(data: bytes) -> bool:
    try:
        data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


def _cache(path: Path) -> None:
    client = Client(lambda prompt, schema: '{"phrases": []}', "m", path)
    for (key,) in client.known.index.execute("SELECT key FROM answers").fetchall():
        client.known[key]
    Client(lambda prompt, schema: "{}", "m", path, sleep=lambda _: None, tries=1).answer("why?", Reasons)


def _text(folder: Path) -> Run:
    vocab = Vocabulary.load(_written(folder / "v.json", VOCABULARY))

    def run(data: bytes) -> None:
        text = data.decode("utf-8", "replace")[:5000]
        found = words(text)
        assert all(0 <= w.start < w.end <= len(text) and w.text and not w.text.isspace() for w in found)
        piece = text.lower().replace('"', "")
        assert _tokens(piece) == _tokenizer().tokenize(piece)
        ids = vocab.encode(w.text for w in found)
        assert all(0 <= i < len(vocab) for i in ids)
        built = Vocabulary.build([[w.text for w in found]])
        known = [w.text for w in found if w.text not in built.words[:5]]
        assert built.decode(built.encode(known)) == known
        built.save(folder / "w.json")
        assert Vocabulary.load(folder / "w.json").words == built.words
        normalise(normalise(text))

    return run


def _written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def _vocabulary(path: Path) -> None:
    vocab = Vocabulary.load(path)
    assert all(isinstance(word, str) for word in vocab.words)
    vocab.save(path)


def _study(folder: Path) -> Corpus:
    write_jsonl(folder / "test.jsonl", DIALOGUES)
    corpus = read_corpus(folder, labels=False)
    for name in ("ours-s0", "theirs-s0"):
        (folder / name).mkdir()
        rows = [{"id": sample.id, "reply": f"= {name} ."} for sample in samples(corpus.splits["test"])]
        write_lines(folder / name / "samples.jsonl", rows)
    return corpus


def _sheet(folder: Path) -> Run:
    corpus = _study(folder)
    make([folder / "ours-s0", folder / "theirs-s0"], corpus, folder / "study", 2, raters=1)
    valid = (folder / "study" / "sheet-r1.csv").read_bytes()
    store = Store(folder / "study")
    SHEETS[:] = [valid, valid.replace(b",,,", b",A,tie,"), valid.replace(b",", b";")]

    def run(data: bytes) -> None:
        (folder / "sheet.csv").write_bytes(data)
        read_sheet(folder / "sheet.csv", store, "someone")

    return run


SHEETS = [b"rater,pair,context,reply A,reply B,empathy,relevance,fluency\n"]  # the study's own, once it is made


def _samples(folder: Path) -> Run:
    corpus = _study(folder)
    asked = {sample.id: sample for sample in samples(corpus.splits["test"])}

    def run(data: bytes) -> None:
        (folder / "ours-s0" / "samples.jsonl").write_bytes(data)
        found, _ = _replies(folder / "ours-s0", corpus, asked)
        assert all(reply.encode() is not None for reply in found.values())

    return run


def _override(folder: Path) -> Run:
    def run(data: bytes) -> None:
        config = settings("mini", changes=[data.decode("utf-8", "surrogateescape")])
        assert len(config.digest()) == 12 and config.model.width % config.model.heads == 0

    return run


def _config(folder: Path) -> Run:
    vocab = Vocabulary.load(_written(folder / "vocabulary.json", VOCABULARY))
    model = MODELS["transformer"](TINY.model, torch.zeros(len(vocab), TINY.model.width))
    save_file({name: tensor.clone() for name, tensor in model.state_dict().items()}, folder / "best.safetensors")

    def run(data: bytes) -> None:
        (folder / "config.json").write_bytes(data)
        try:
            same = from_dict(Config, json.loads(data)["config"]).model == TINY.model
        except Exception:
            same = True  # load_run has to refuse it
        if same:  # a width of a thousand millions is a number too, and no machine's memory is asked for it
            load_run(folder)

    return run


TINY = Config(model=ModelConfig(width=4, heads=2, ffn=4, diffusion=DiffusionConfig(latent=2)))
DESCRIBED = json.dumps({"model": "transformer", "config": asdict(TINY)})


def _remembered(folder: Path) -> Run:
    def run(data: bytes) -> None:
        (folder / "graph.json").write_bytes(data)
        graph = remembered_graph(folder / "graph.json", lambda: {"dog": (("cat", 0.5),)})
        assert all(isinstance(weight, float) for tails in graph.values() for _, weight in tails)
        (folder / "said.jsonl").write_bytes(data)
        asked = Remembered(folder / "said.jsonl", lambda: lambda queries: [((),) * len(RELATIONS)] * len(queries))
        assert len(asked([("d", "text")])) == 1

    return run


def _scores(folder: Path) -> Run:
    (folder / "run").mkdir()
    _written(folder / "run" / "metrics.json", json.dumps({"n": 2, "ppl": 7.39, "bleu_2": 0.0}))

    def run(data: bytes) -> None:
        (folder / "run" / "scores.csv").write_bytes(data)
        table, why = read_scores(folder / "run")
        assert (table is None) == bool(why)

    return run


def _responses(folder: Path) -> Run:
    def run(data: bytes) -> None:
        (folder / "hyp").write_bytes(data)
        (folder / "ref").write_bytes(TEXTS[0] + b"\n" + TEXTS[2])
        score_files(folder / "hyp", folder / "ref")
        score_files(folder / "ref", folder / "hyp")

    return run


def _vectors(path: Path) -> None:
    table, _ = word_vectors(Vocabulary.build([["dog", "rain", "key", "sea"]]), path, 4)
    assert torch.isfinite(table).all()


def _net(path: Path) -> None:
    graph = read_conceptnet(path, {"cat": 0.5}, 2, ["dog", "cat", "thing", "key", "wet"])
    assert all(0 <= weight <= 1 for tails in graph.values() for _, weight in tails)


def _vad(path: Path) -> None:
    assert all(0 <= value <= 1 for value in read_vad(path).values())


def _intents(path: Path) -> None:
    read_intents(path.parent, "train")


def _both(text: str) -> list[bytes]:
    """Plain and packed."""
    return [text.encode(), text.encode(), gzip.compress(text.encode(), mtime=0)]


TARGETS = [
    Target("official CSV", _file(_official), [CSV.encode()], 2),
    Target("dialogues as JSONL", _file(_jsonl), [JSONL.encode()], 2),
    Target("corpus folder", _corpus, [CSV.encode(), JSONL.encode(), LABELS.encode()], 1),
    Target("annotation joiner", _file(_labels), [LABELS.encode()], 2),
    Target("lines of rd annotate", _file(_annotate_lines), [LINES.encode()], 1),
    Target("EmpatheticIntents", _file(_intents, "train.tsv"), [TSV.encode()], 0.5),
    Target("language model's reply", _reply, REPLIES, 2),
    Target("answer cache", _file(_cache), [CACHE.encode()], 1),
    Target("words and vocabulary", _text, TEXTS, 2),
    Target("vocabulary file", _file(_vocabulary), [VOCABULARY.encode()], 1),
    Target("ratings sheet", _sheet, SHEETS, 1),
    Target("replies for sheets", _samples, [ANSWERED.encode()], 0.5),
    Target("--set", _override, OVERRIDES, 1),
    Target("config of a run", _config, [DESCRIBED.encode()], 0.3),
    Target("ConceptNet", _file(_net), _both(NET), 1),
    Target("NRC-VAD", _file(_vad), _both(VAD), 1),
    Target("kept knowledge", _remembered, [GRAPH.encode(), SAID.encode()], 0.5),
    Target("word vectors", _file(_vectors), [GLOVE.encode()], 1),
    Target("files of rd score", _responses, TEXTS, 0.3),
    Target("scores of a run", _scores, [SCORES.encode()], 0.3),
]  # fmt: skip
