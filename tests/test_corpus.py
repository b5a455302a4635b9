"""Readers of the official CSV form and of plain JSONL: what they give, and the fault they name for each bad file."""

import json
from pathlib import Path

import pytest

from rd.data.corpus import Dialogue, Turn, bundled, check, read_corpus, samples
from rd.data.intents import read_intents
from rd.data.jsonl import dialogue_line, read_jsonl, write_jsonl
from rd.errors import UserError
from rd.labels import EMOTIONS, INTENTS

HEADER = "conv_id,utterance_idx,context,prompt,speaker_idx,utterance,selfeval,tags"
ROWS = {
    "train": [
        "a:1,1,proud,I baked bread.,7,My first loaf_comma_ and it rose!,,",
        "a:1,2,proud,I baked bread.,9,Lovely. Is any left?,,",
        "a:1,3,proud,I baked bread.,7,Only crumbs.,,",
        "a:2,1,sad,The tram left.,4,It left without me.,,",
        "a:2,2,sad,The tram left.,4,Oh no.,,",
    ],
    "valid": [
        'b:1,1,angry,A "loud neighbour.,1,He drums at night.,,',
        'b:1,2,angry,A "loud neighbour.,2,How rude.,,,x|y',
    ],
    "test": ["c:1,1,joyful,Snow.,1,It snows!,,", "c:1,2,joyful,Snow.,0,Build a snowman.,,"],
}


def write(folder: Path, **changed: str | bytes) -> Path:
    """A sound corpus in `folder`, but for the files given whole."""
    folder.mkdir(exist_ok=True)
    for split, rows in ROWS.items():
        content = changed.get(split, "\n".join([HEADER, *rows]) + "\n")
        (folder / f"{split}.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def train(*rows: str, header: str = HEADER, end: str = "\n") -> str:
    return "\n".join([header, *rows]) + end


def test_reads_the_official_form(tmp_path: Path) -> None:
    corpus = read_corpus(write(tmp_path))
    first, second = corpus.splits["train"]
    assert first == Dialogue(
        "a:1",
        "proud",
        "I baked bread.",
        (Turn("My first loaf, and it rose!"), Turn("Lovely. Is any left?"), Turn("Only crumbs.")),
    )
    assert len(second.turns) == 2  # the same speaker_idx twice, as in the official files
    assert corpus.splits["valid"][0].prompt == 'A "loud neighbour.'  # a lone quote swallows no row
    assert corpus.splits["valid"][0].turns[1].text == "How rude."  # ninth field: candidates
    assert corpus.report["train"] == {"dialogues": 2, "turns": 5, "listener_turns": 2}
    assert corpus.report["known"]["train"].startswith("differs from the known counts")
    assert corpus.name == "empathetic_dialogues"


def test_subfolder_crlf_bom_and_missing_last_line_end(tmp_path: Path) -> None:
    plain = read_corpus(write(tmp_path / "plain")).splits
    data = b"\xef\xbb\xbf" + train(*ROWS["train"], end="").replace("\n", "\r\n").encode()
    write(tmp_path / "empathetic_dialogues", train=data)
    assert read_corpus(tmp_path).splits == plain


def test_unicode_line_separators_are_text(tmp_path: Path) -> None:
    text = "one\u2028two\x85three"
    corpus = read_corpus(write(tmp_path, test=train(f"c:1,1,sad,p,0,{text},,")))
    assert corpus.splits["test"][0].turns[0].text == text


A = "a:1,1,proud,p,0,Hello.,,"
FAULTS = {
    "missing column": (
        train(A.replace("proud,", ""), header=HEADER.replace("context,", "")),
        1,
        "missing column context",
    ),
    "unknown emotion": (train(A, A.replace("a:1", "a:2").replace("proud", "smug")), 3, "unknown emotion 'smug'"),
    "turn skipped": (train(A, "a:1,3,proud,p,0,Bye.,,"), 3, "turn out of order in a:1: utterance_idx '3', expected 2"),
    "turn repeated": (train(A, A), 3, "turn out of order"),
    "starts at two": (train("a:1,2,proud,p,0,Bye.,,"), 2, "turn out of order"),
    "comes back": (train(A, A.replace("a:1", "a:2"), "a:1,2,proud,p,1,Bye.,,"), 4, "comes back (it began in line 2)"),
    "emotion changes": (train(A, "a:1,2,sad,p,1,Bye.,,"), 3, "the emotion changes within a:1"),
    "prompt changes": (train(A, "a:1,2,proud,q,1,Bye.,,"), 3, "the prompt changes within a:1"),
    "empty utterance": (train("a:1,1,proud,p,0, ,,"), 2, "empty utterance in a:1, turn 1"),
    "not utf-8": (train(A).encode() + b"a:1,2,proud,p,1,caf\xe9,,\n", 3, "not UTF-8 (0xe9)"),
    "truncated row": (train(A, "a:1,2,proud,p,1,By", end=""), 3, "truncated: the last row has 6 of 8 fields"),
    "short row inside": (train("a:1,1,proud,p,0", "a:2,1,proud,p,0,Hi.,,"), 2, "5 of 8 fields"),
    "bare commas": (train("a:1,1,proud,p,0,one, two, three,,"), 2, "write commas inside texts as _comma_"),
    "bare comma in prompt": (train("a:1,1,proud,p, q,0,one,,"), 2, "is no number; write commas"),
    "header alone": (train(), 1, "a header and no row"),
    "empty": ("", 1, "the file is empty"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_named_with_file_and_line(tmp_path: Path, fault: str) -> None:
    content, line, message = FAULTS[fault]
    with pytest.raises(UserError) as error:
        read_corpus(write(tmp_path, train=content))
    assert str(error.value).startswith(f"{tmp_path / 'train.csv'}:{line}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_same_conversation_in_two_splits(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"test\.csv:3: conversation a:2 is also in another split \(.*train\.csv:5\)"):
        read_corpus(write(tmp_path, test=train("c:1,1,joyful,Snow.,1,It snows!,,", "a:2,1,sad,p,1,Hm.,,")))


def test_missing_file_and_folder(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "valid.csv").unlink()
    with pytest.raises(UserError, match=r"valid\.csv: no such file"):
        read_corpus(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        read_corpus(tmp_path / "nowhere")
    (tmp_path / "hollow").mkdir()
    with pytest.raises(UserError, match="no corpus here"):
        read_corpus(tmp_path / "hollow")


def test_mini_corpus() -> None:
    corpus = read_corpus()
    assert corpus.name == "mini"
    assert set(corpus.report["known"].values()) == {"as known (mini)"}
    dialogues = [dialogue for split in corpus.splits.values() for dialogue in split]
    assert len(dialogues) == 1024
    assert sum(len(dialogue.turns) for dialogue in dialogues) == 4124
    for split, each in {"train": 24, "valid": 4, "test": 4}.items():
        found = [dialogue.emotion for dialogue in corpus.splits[split]]
        assert {emotion: found.count(emotion) for emotion in EMOTIONS} == dict.fromkeys(EMOTIONS, each)
    for dialogue in dialogues:
        assert all(turn.reasons is not None and turn.intent is None for turn in dialogue.turns[0::2])
        assert all(turn.reasons is None and turn.intent in INTENTS for turn in dialogue.turns[1::2])
        assert "_comma_" not in dialogue.prompt + "".join(turn.text for turn in dialogue.turns)


def test_samples_are_the_listener_turns_of_the_file() -> None:
    test = read_corpus(labels=False).splits["test"]
    rows = [line.split(",") for line in (bundled("mini") / "test.csv").read_text(encoding="utf-8").splitlines()[1:]]
    expected = [(f"{row[0]}:{row[1]}", row[5].replace("_comma_", ",")) for row in rows if int(row[1]) % 2 == 0]
    found = samples(test)
    assert [(sample.id, sample.target.text) for sample in found] == expected
    assert all((*sample.context, sample.target) == sample.dialogue.turns[: sample.turn + 1] for sample in found)


def test_protocol_leaves_one_conversation_out() -> None:
    dialogue = Dialogue("hit:12416_conv:24832", "sad", "", tuple(Turn(word) for word in "abcd"))
    other = Dialogue("x", "sad", "", (Turn("a"), Turn("b"), Turn("c")))
    assert [sample.id for sample in samples([dialogue, other])] == ["x:2"]
    assert len(samples([dialogue, other], protocol=False)) == 3


def test_jsonl_round_trip(tmp_path: Path) -> None:
    corpus = read_corpus()
    for split, dialogues in corpus.splits.items():
        write_jsonl(tmp_path / f"{split}.jsonl", dialogues)
    again = read_corpus(tmp_path)
    assert again.splits == corpus.splits
    assert again.name == "jsonl"


def test_jsonl_alone_and_bare_strings(tmp_path: Path) -> None:
    row = {
        "id": "x",
        "emotion": None,
        "prompt": None,
        "turns": ["Hello.", "Hi!", {"text": "Fine.", "reasons": [[0, 4]]}],
    }
    (tmp_path / "test.jsonl").write_text(json.dumps(row) + "\n\n")
    dialogue = Dialogue("x", None, "", (Turn("Hello."), Turn("Hi!"), Turn("Fine.", reasons=((0, 4),))))
    assert read_corpus(tmp_path).splits == {"test": (dialogue,)}
    assert read_corpus(tmp_path / "test.jsonl").splits == {"test": (dialogue,)}
    write_jsonl(tmp_path / "again.jsonl", [dialogue])
    assert read_jsonl(tmp_path / "again.jsonl")[0] == [dialogue]
    (tmp_path / "valid.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=r"test\.jsonl:1: conversation x is also in another split"):
        read_corpus(tmp_path)


TURN = '{"id": "x", "turns": [%s]}'
JSONL_FAULTS = {
    '{"id": "x", "turns": ["a"]': "not JSON",
    '["a"]': "not a JSON object",
    '{"turns": ["a"]}': '"id" must be a string',
    '{"id": "x", "turns": []}': '"turns" must be a list',
    '{"id": "x", "emotion": "smug", "turns": ["a"]}': "unknown emotion 'smug'",
    '{"id": "x", "prompt": 3, "turns": ["a"]}': '"prompt" must be a string',
    '{"conv_id": "x", "turns": []}': "a label file, not a corpus",
    '{"id": "ok", "turns": ["a"]}': "id 'ok' occurs twice",
    TURN % '"a", "  "': "turn 2 is empty",
    TURN % '"a", 3': "turn 2 has no text",
    TURN % '"\\ud800"': "lone surrogate",
    TURN % '{"text": "abc", "reasons": [[1, 4]]}': "lie outside the 3 characters",
    TURN % '{"text": "abc", "reasons": [[2, 2]]}': "lie outside",
    TURN % '{"text": "abc", "reasons": [[0, 2], [1, 3]]}': "overlap at character 1",
    TURN % '{"text": "abc", "reasons": [[true, 2]]}': "no [start, end] pair",
    TURN % '{"text": "abc", "intent": "wishing"}': "an intent on a speaker turn",
    TURN % '"a", {"text": "abc", "reasons": []}': "reasons on a listener turn",
    TURN % '"a", {"text": "abc", "intent": "shouting"}': "unknown intent 'shouting'",
}


@pytest.mark.parametrize("line", JSONL_FAULTS)
def test_jsonl_fault_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "test.jsonl").write_text('{"id": "ok", "turns": ["a"]}\n' + line + "\n")
    with pytest.raises(UserError) as error:
        read_corpus(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / 'test.jsonl'}:2: ")
    assert JSONL_FAULTS[line] in str(error.value)


def test_dialogue_lines() -> None:
    for row in ({"dialogue": ["Hello.", "Hi!"], "mark": 5}, {"dialogue": ["Alone."]}):
        assert dialogue_line("in.jsonl:2", json.dumps(row).encode() + b"\r\n") == row
    assert dialogue_line("in.jsonl:2", b" \n") is None
    for line, message in {
        b'{"turns": []}': 'no "dialogue"',
        b'{"dialogue": "a"}': 'no "dialogue"',
        b'{"dialogue": ["a", null]}': "turn 2 has no text",
        b"{": "not JSON",
        b"[]": "not a JSON object",
        b'{"dialogue": ["\xff"]}': "not UTF-8 .0xff.",
    }.items():
        with pytest.raises(UserError, match=f"in.jsonl:2: .*{message}"):
            dialogue_line("in.jsonl:2", line)


def test_check_can_be_written_as_json(tmp_path: Path) -> None:
    report = json.loads(json.dumps(check()))
    assert report["samples"] == {split: counts["listener_turns"] for split, counts in report["splits"].items()}
    assert report["labels"]["test"]["listener_turns"] == report["splits"]["test"]["listener_turns"]
    assert set(report["sha256"]) >= {"train.csv", "valid.csv", "test.csv"}


def test_intents(tmp_path: Path) -> None:
    path = tmp_path / "train.tsv"
    path.write_text('label\ttext\nwishing\tgood "luck\nproud\ti won\nWishing\tAll  the best\nneutral\tok\tthen\n')
    rows = read_intents(tmp_path, "train")
    assert rows == [('good "luck', "wishing"), ("All  the best", "wishing"), ("ok\tthen", "neutral")]
    assert read_intents(tmp_path, "train", exclude_texts=["all the Best "]) == [rows[0], rows[2]]
    for line, message in {
        "wishing": "a tab",
        "wishing\t ": "a tab",
        "shouting\they": "unknown label 'shouting'",
    }.items():
        path.write_text(f"label\ttext\nneutral\tok\n{line}\n")
        with pytest.raises(UserError, match=f"train.tsv:3: .*{message}"):
            read_intents(tmp_path, "train")
    path.write_text("text,label\n")
    with pytest.raises(UserError, match="train.tsv:1: wrong header"):
        read_intents(tmp_path, "train")
