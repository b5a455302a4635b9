"""What comes with a batch beside the words of the context: knowledge, and the turn that the reply led to."""

from dataclasses import replace

import pytest
from made_up import VOCAB, collate, dialogues, examples, knowledge

from rd.data.text import tokenize
from rd.run import MODELS


def test_the_turn_after_the_reply_comes_along_as_a_label():
    rows = examples(6)
    given = collate()(rows)
    for row, after in zip(rows, given.after.tolist()):
        dialogue, turn = {d.id: d for d in dialogues(6)}[row.id.split(":")[0]], int(row.id.split(":")[1])
        gold = VOCAB.encode(tokenize(dialogue.turns[turn].text)) if turn < len(dialogue.turns) else []
        assert after == gold + [0] * (given.after.size(1) - len(gold))
    assert any(row.after.any() for row in rows) and not all(row.after.any() for row in rows)


def test_knowledge_of_a_context_against_a_loop():
    """Each concept once, the strongest first, of the word that calls it up most; commonsense of the last own turn."""
    lore, rows = knowledge(), examples(8)
    given = collate()(rows)
    asked = {d.id: d for d in dialogues(8)}
    for b, row in enumerate(rows):
        assert given.known.intensity[b, : len(row.words)].tolist() == pytest.approx(
            [lore.intensity.get(word, 0.0) for word in row.words]
        )
        called = [(w, i, c) for i, word in enumerate(row.words) for c, w in lore.concepts.get(word, ())]
        called = [row_ for row_ in called if row_[2] not in row.words]
        strongest = {c: max((w, i) for w, i, other in called if other == c) for _, _, c in called}
        best = sorted(strongest.items(), key=lambda pair: pair[1], reverse=True)[:4]
        width = given.known.concepts.size(1)
        assert given.known.concepts[b].tolist() == VOCAB.encode([c for c, _ in best]) + [0] * (width - len(best))
        assert given.known.heads[b].tolist()[: len(best)] == [i for _, (_, i) in best]
        assert given.known.weights[b].tolist()[: len(best)] == pytest.approx([w for _, (w, _) in best])
        name, turn = row.id.split(":")
        last = [t.text for t in asked[name].turns[: int(turn) - 1]][::2][-1]
        for r, said in enumerate(lore.commonsense([(name, last)])[0]):
            ids = given.known.commonsense[b, r].tolist()
            assert ids == VOCAB.encode(said) + [0] * (len(ids) - len(said))
    assert given.known.concepts.bool().any()


def test_a_model_that_reads_no_commonsense_asks_nobody():
    def refuse(queries):
        raise AssertionError("asked")

    lore = replace(knowledge(), commonsense=refuse, sources={"concepts": "a", "commonsense": "b"}).without_commonsense()
    assert lore.commonsense([("d", "text"), ("e", "more")]) == [((),) * 5] * 2
    assert lore.sources == {"concepts": "a"} and lore.concepts == knowledge().concepts
    assert {name for name, model in MODELS.items() if model.reads_commonsense} == {"case", "cab"}
