"""Commonsense from the train split: a stand-in for COMET. It is NOT COMET: it infers nothing, it looks up.

A turn is answered by the speaker turns of the train split that are most like it, and by what stands around them:

    xReact   the emotion labels of their dialogues, three at most
    xWant    their speakers' next turns
    xEffect  the listeners' replies to them
    xNeed    the two turns before them; for a first turn, the situation its speaker wrote
    xIntent  the turns themselves

Each gives its most telling words that the query itself lacks: by tf-idf times likeness, summed over the neighbours,
of the words that two neighbours share. One neighbour's own are chance: of the words of xEffect, 3.3 % stand in the true
reply, and 2.2 % where one neighbour is enough (40 neighbours, valid).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from rd.data.records import Dialogue
from rd.data.text import tokenize
from rd.errors import UserError
from rd.knowledge.knowledge import RELATIONS, Said
from rd.knowledge.words import content
from rd.labels import EMOTIONS

CHUNK = 512  # queries at a time: a product of some 100 MB on the full corpus
LEAST = 3  # turns that hold a word, at least; ours: rarer ones are names and misspellings
SHARED = 2  # neighbours that hold a word of an answer, at least; ours
LABELS = 3  # emotions of xReact at most; ours. Valid, first turns: the true one is first in 34 %, one of three in 54 %;
# over all turns that models ask about, in 26 % and 45 %


class Neighbours:
    """(dialogue id, a speaker's turn) of each query -> the words of each of RELATIONS.

    Likeness: cosine of tf-idf over content words (log tf, l2; idf over all train turns). A query never sees its own
    dialogue or another of the same situation, nor a turn of the same words as its own, wherever it is from. Nothing
    alike: no words. An answer does not depend on the other queries.
    """

    def __init__(self, train: Sequence[Dialogue], count: int, phrase: int, least: int = LEAST) -> None:
        """count: neighbours; phrase: words of a relation at most. Raises UserError where no turn holds a word."""
        self.count, self.phrase = count, phrase
        said = [[tokenize(turn.text) for turn in dialogue.turns] for dialogue in train]
        turns = [turn for dialogue in said for turn in dialogue]
        self.tfidf = TfidfVectorizer(analyzer=content, sublinear_tf=True, min_df=min(least, max(len(turns), 1)))
        try:
            every = self.tfidf.fit_transform(turns)
        except ValueError:
            raise UserError(
                f"the train split has no content word in {least} turns, and commonsense comes from its nearest turns; "
                "give a larger corpus, or a COMET model by knowledge.commonsense"
            ) from None
        self.names = np.array(self.tfidf.get_feature_names_out(), object)
        # One table of all turns, then all situations, then a row of nothing for what is not there.
        told = self.tfidf.transform([tokenize(dialogue.prompt) for dialogue in train])
        table = sparse.csr_array(sparse.vstack([every, told, sparse.csr_array((1, every.shape[1]))]))
        owner, own, reply, follows, before, earlier = np.array(list(_places(said)), np.int64).T
        self.owner = owner
        situations: dict[Any, int] = {}  # several dialogues tell of one, and bear one emotion
        told_of = np.array([situations.setdefault(d.prompt.strip() or (i,), i) for i, d in enumerate(train)])
        self.situation = told_of[owner]
        self.own = table[own]
        self.forms = {form: i for i, form in enumerate(dict.fromkeys(map(tuple, turns)))}
        self.form = np.array([self.forms[tuple(turns[i])] for i in own])
        self.dialogues = {dialogue.id: told_of[i] for i, dialogue in enumerate(train)}
        needed = table[before] + table[earlier]
        self.around = {
            "xIntent": self.own,
            "xNeed": needed - needed.multiply(self.own > 0),
            "xWant": table[follows],
            "xEffect": table[reply],
        }
        emotions = np.array([EMOTIONS.index(d.emotion) if d.emotion in EMOTIONS else -1 for d in train])[owner]
        known = np.flatnonzero(emotions >= 0)
        ones = (np.ones(len(known)), (known, emotions[known]))
        self.felt = sparse.csr_array(ones, shape=(len(owner), len(EMOTIONS)))

    def __call__(self, queries: Sequence[tuple[str, str]]) -> list[Said]:
        """One answer a query, in order."""
        return [said for i in range(0, len(queries), CHUNK) for said in self._answers(queries[i : i + CHUNK])]

    def nearest(self, queries: Sequence[tuple[str, str]]) -> list[tuple[np.ndarray, np.ndarray]]:
        """(numbers of the nearest speaker turns, likest first and ties by place; their cosines) of each query."""
        tokens = [tokenize(text) for _, text in queries]
        return self._nearest(self._vectors(tokens), queries, tokens)

    def _vectors(self, tokens: list[list[str]]) -> sparse.csr_array:
        return sparse.csr_array(self.tfidf.transform(tokens))

    def _nearest(self, vectors: sparse.csr_array, queries: Sequence, tokens: list[list[str]]) -> list[tuple]:
        alike, found = sparse.csr_array(vectors @ self.own.T), []
        for i, ((dialogue, _), words) in enumerate(zip(queries, tokens)):
            part = slice(alike.indptr[i], alike.indptr[i + 1])
            turns, cosines = alike.indices[part], alike.data[part]
            other = self.situation[turns] != self.dialogues.get(dialogue, -1)
            other &= self.form[turns] != self.forms.get(tuple(words), -1)
            found.append(_largest(turns[other], cosines[other], self.count))
        return found

    def _answers(self, queries: Sequence[tuple[str, str]]) -> list[Said]:
        tokens = [tokenize(text) for _, text in queries]
        vectors = self._vectors(tokens)
        near = self._nearest(vectors, queries, tokens)
        ends = np.cumsum([0, *(len(turns) for turns, _ in near)])
        turns, cosines = (np.concatenate([pair[i] for pair in near]) for i in (0, 1))
        weight = sparse.csr_array((cosines, turns, ends), shape=(len(queries), len(self.owner)))
        asked = vectors > 0
        words = {"xReact": _best(weight @ self.felt, np.array(EMOTIONS, object), min(LABELS, self.phrase))}
        for name, table in self.around.items():
            shared = ((weight > 0).astype(int) @ (table > 0).astype(int)) >= SHARED
            scores = (weight @ table).multiply(shared)
            words[name] = _best(scores - scores.multiply(asked), self.names, self.phrase)
        return list(zip(*(words[name] for name in RELATIONS)))


def _places(said: Sequence[Sequence]) -> Iterator[tuple[int, ...]]:
    """Of each speaker turn: its dialogue, the rows of itself, the reply, the next, the one before, the one earlier."""
    total, start = sum(map(len, said)), 0
    nothing = total + len(said)
    for number, turns in enumerate(said):
        for i in range(0, len(turns), 2):
            after = [start + j if j < len(turns) else nothing for j in (i + 1, i + 2)]
            before = [start + i - 1, start + i - 2] if i else [total + number, nothing]
            yield number, start + i, *after, *before
        start += len(turns)


def _best(scores: sparse.sparray, names: np.ndarray, most: int) -> list[tuple[str, ...]]:
    """The names of the largest scores above 0 of each row, ties by the order of the names."""
    scores = sparse.csr_array(scores)
    rows = ((scores.indices[a:b], scores.data[a:b]) for a, b in zip(scores.indptr[:-1], scores.indptr[1:]))
    return [tuple(names[_largest(columns, values, most)[0]]) for columns, values in rows]


def _largest(places: np.ndarray, values: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The places of the `most` largest values above 0, and these; equal to nine digits: the first place comes first."""
    values = np.round(values, 9)
    places, values = places[values > 0], values[values > 0]
    if len(values) > most:
        enough = values >= np.partition(values, -most)[-most]
        places, values = places[enough], values[enough]
    order = np.lexsort((places, -values))[:most]
    return places[order], values[order]
