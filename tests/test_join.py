"""Labels and text come together by conversation, turn and hash, and by nothing less."""

import csv
import hashlib
import json
import shutil
from pathlib import Path

import pytest

from rd.data.corpus import Dialogue, Turn, bundled, read_corpus
from rd.data.join import join_labels, read_labels
from rd.errors import UserError

TEXTS = ("Rain, rain, and my picnic is off.", "Oh dear, what now?", "I will dance, then.")


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def dialogue() -> Dialogue:
    return Dialogue("x", "sad", "", tuple(Turn(text) for text in TEXTS))


def label_line(**changed: object) -> dict:
    """A sound label line for `dialogue`; "t1", "t2", "t3" replace keys of a turn."""
    turns = [
        {"utterance_idx": 1, "sha256": digest(TEXTS[0]), "reasons": [[16, 32], [0, 4]]},
        {"utterance_idx": 2, "sha256": digest(TEXTS[1]), "intent": "questioning"},
        {"utterance_idx": 3, "sha256": digest(TEXTS[2]), "reasons": []},
    ]
    for index, turn in enumerate(turns, 1):
        turn.update(changed.get(f"t{index}", {}))
    return {"conv_id": changed.get("conv_id", "x"), "turns": turns}


def write(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_join(tmp_path: Path) -> None:
    labels = read_labels(write(tmp_path / "l.jsonl", label_line(), label_line(conv_id="elsewhere")))
    (joined,), counts = join_labels([dialogue()], labels)
    assert joined.turns == (
        Turn(TEXTS[0], reasons=((0, 4), (16, 32))),
        Turn(TEXTS[1], intent="questioning"),
        Turn(TEXTS[2], reasons=()),
    )
    assert [TEXTS[0][start:end] for start, end in joined.turns[0].reasons] == ["Rain", "my picnic is off"]
    assert counts == {"dialogues": 1, "speaker_turns": 2, "listener_turns": 1, "phrases": 2, "not_found": 1}


def test_labels_of_another_corpus_are_counted_not_joined(tmp_path: Path) -> None:
    labels = read_labels(write(tmp_path / "l.jsonl", label_line(conv_id="other")))
    joined, counts = join_labels([dialogue()], labels)
    assert joined == (dialogue(),)
    assert counts["dialogues"] == 0 and counts["not_found"] == 1


FAULTS = {
    "hash": ({"t2": {"sha256": "0" * 16}}, "l.jsonl:2: x, turn 2: the hash 0000000000000000 is not that of"),
    "hash of _comma_": ({"t1": {"sha256": digest(TEXTS[0].replace(",", "_comma_"))}}, "l.jsonl:2: x, turn 1: the hash"),
    "offset": ({"t1": {"reasons": [[3, 34]]}}, "l.jsonl:2: x, turn 1: offsets [3, 34] lie outside the 33 characters"),
    "negative": ({"t1": {"reasons": [[-2, 3]]}}, "l.jsonl:2: x, turn 1: offsets [-2, 3] lie outside"),
    "intent": ({"t2": {"intent": "shouting"}}, "l.jsonl:2: x, turn 2: unknown intent 'shouting'"),
    "turn beyond": ({"t3": {"utterance_idx": 5}}, "l.jsonl:2: x, turn 5: the corpus has only 3 turns"),
    "no index": ({"t3": {"utterance_idx": None}}, 'l.jsonl:2: x: a turn without "utterance_idx"'),
    "twice": ({"t3": {"utterance_idx": 1}}, "l.jsonl:2: x labels a turn twice"),
    "wrong side": ({"t1": {"intent": "wishing"}}, 'l.jsonl:2: x, turn 1: a speaker turn bears "reasons"'),
    "wrong side, listener": ({"t2": {"reasons": []}}, 'l.jsonl:2: x, turn 2: a listener turn bears "intent"'),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_names_line_conversation_and_turn(tmp_path: Path, fault: str) -> None:
    changed, message = FAULTS[fault]
    path = write(tmp_path / "l.jsonl", label_line(conv_id="elsewhere"), label_line(**changed))
    with pytest.raises(UserError) as error:
        join_labels([dialogue()], read_labels(path))
    assert message in str(error.value)


def copy_mini(folder: Path, labels: bool) -> Path:
    folder.mkdir()
    for file in bundled("mini").iterdir():
        if file.suffix == ".csv" or (labels and file.suffix == ".jsonl"):
            shutil.copy(file, folder)
    return folder


@pytest.mark.parametrize("labels", [True, False])  # label files beside the corpus, or the bundled ones
def test_one_changed_word_is_refused(tmp_path: Path, labels: bool) -> None:
    folder = copy_mini(tmp_path / "mini", labels)
    assert read_corpus(folder).splits == read_corpus().splits
    path = folder / "valid.csv"
    rows = path.read_text(encoding="utf-8").split("\n")
    fields = rows[2].split(",")
    fields[5] += " Really"
    path.write_text("\n".join([*rows[:2], ",".join(fields), *rows[3:]]), encoding="utf-8")
    with pytest.raises(UserError, match=rf"valid\.labels\.jsonl:1: {fields[0]}, turn 2: the hash"):
        read_corpus(folder)
    assert len(read_corpus(folder, labels=False).splits["valid"]) == 128


def test_bundled_labels_stay_away_from_another_text_with_the_same_ids(tmp_path: Path) -> None:
    header = "conv_id,utterance_idx,context,prompt,speaker_idx,utterance,selfeval,tags\n"
    for split in ("train", "valid", "test"):
        key = json.loads((bundled("annotations") / f"{split}.jsonl").open(encoding="utf-8").readline())["conv_id"]
        (tmp_path / f"{split}.csv").write_text(f"{header}{key},1,sad,p,0,My kite is gone.,,\n")
    corpus = read_corpus(tmp_path)
    assert corpus.report["labels"] == {} and "not joined" in corpus.report["notes"][0]
    assert corpus.splits["test"][0].turns[0].reasons is None
    # a label file of one's own is meant for this corpus, so there it is a fault
    (tmp_path / "annotations").mkdir()
    shutil.copy(bundled("annotations") / "test.jsonl", tmp_path / "annotations")
    with pytest.raises(UserError, match="the hash"):
        read_corpus(tmp_path)


def test_mini_offsets_land_on_whole_words() -> None:
    """Against the csv module and the label files read plainly."""
    phrases = 0
    corpus = read_corpus()
    for split in ("train", "valid", "test"):
        with (bundled("mini") / f"{split}.csv").open(encoding="utf-8", newline="") as file:
            texts = {
                (row["conv_id"], int(row["utterance_idx"])): row["utterance"].replace("_comma_", ",")
                for row in csv.DictReader(file, quoting=csv.QUOTE_NONE)
            }
        found = {(item.id, index): turn for item in corpus.splits[split] for index, turn in enumerate(item.turns, 1)}
        assert found.keys() == texts.keys()
        for line in (bundled("mini") / f"{split}.labels.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            for label in row["turns"]:
                key = (row["conv_id"], label["utterance_idx"])
                text, turn = texts[key], found[key]
                assert turn.text == text and turn.intent == label.get("intent")
                for start, end in label.get("reasons", ()):
                    assert (start, end) in turn.reasons
                    inside = text[start:end]
                    assert inside == inside.strip() and inside
                    assert not text[start - 1 : start].isalnum() and not text[end : end + 1].isalnum()
                    phrases += 1
    assert phrases == sum(counts["phrases"] for counts in corpus.report["labels"].values()) > 2000
