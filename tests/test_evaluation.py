"""What samples.jsonl may hold."""

from dataclasses import replace

from rd.data.corpus import Corpus, Dialogue, Turn
from rd.evaluation import shareable

HEARD = "My aunt says the old red barn by the river burned down last night."
CORPUS = Corpus("empathetic_dialogues", {"train": (Dialogue("a", "sad", "", (Turn(HEARD), Turn("oh no"))),)}, {}, {})


def test_a_reply_that_repeats_ten_words_of_the_corpus_is_withheld():
    own = {"id": "x", "reply": "the old red barn by the river burned down , i am sorry"}  # nine in a row
    repeated = {"id": "y", "reply": "says the old red barn by the river burned down"}  # ten
    kept, held = shareable([own, repeated], CORPUS)
    assert kept == own
    assert held["reply"] is None and held["id"] == "y" and "10 words" in held["withheld"]


def test_the_mini_corpus_is_free():
    repeated = {"id": "y", "reply": HEARD.lower()}
    assert list(shareable([repeated], replace(CORPUS, name="mini"))) == [repeated]
