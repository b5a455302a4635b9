"""Readers of the real files: ConceptNet's assertions (Speer et al., AAAI 2017) and NRC-VAD (Mohammad, ACL 2018)."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from rd.data.jsonl import parse
from rd.errors import UserError
from rd.knowledge.words import STOP, content

CONCEPTNET = "https://github.com/commonsense/conceptnet5/wiki/Downloads"
NRC_VAD = "https://saifmohammad.com/WebPages/nrc-vad.html"
# Relations that KEMP (Li et al., AAAI 2022; its published code) leaves out: negations, places, forms, origins.
LEFT_OUT = frozenset(
    """
    Antonym AtLocation CreatedBy DerivedFrom DistinctFrom EtymologicallyDerivedFrom EtymologicallyRelatedTo ExternalURL
    FormOf MadeOf NotCapableOf NotDesires NotHasProperty SymbolOf Synonym dbpedia
    """.split()
)
LEAST, MOST = 1.0, 10.0  # confidence: less is dropped, and the two ends are scaled to 0 and 1; KEMP Sec. 3.1


def stamp(path: str | Path, where: str) -> list:
    """[name, size, time of change] of a source, by which its stored results are known; of a folder: of its files.

    Raises UserError, which tells `where` to get it, for what is not there.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file; get it from {where}, or leave the setting at its default")
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def read_conceptnet(
    path: str | Path, intensity: Mapping[str, float], per_word: int, known: Collection[str]
) -> dict[str, tuple[tuple[str, float], ...]]:
    r"""English word -> its `per_word` best concepts (tail, weight), best first, ties by the alphabet.

    $$ weight = (\min\max(confidence) + \eta(tail)) / 2 $$

    after KEMP (Sec. 3.1), which ranks by the same two; eta: `intensity`, 0 for words it lacks. As there, an assertion
    serves both of its words, confidence below 1 and the relations of LEFT_OUT are dropped, and a tail is a word of
    `known` (what the corpus can say) and no stop word. Both ends are single words, not lemmatised; of several
    assertions on one pair the surest counts. path: conceptnet-assertions-5.7.0.csv.gz, packed or not.
    Raises UserError(file:line: ...) for a line of another form and for a damaged file.
    """
    known = set(content(known))
    found: dict[str, dict[str, float]] = {}
    for number, line in _lines(Path(path)):
        if line.count("\t/c/en/") != 2 and line.count("\t") == 4:  # another language: no further look, for speed
            continue
        fields = line.split("\t")
        where = f"{path}:{number}"
        try:
            _, relation, first, second, notes = fields
            pair = [end.split("/")[3] for end in (first, second)]
            confidence = float(parse(notes)["weight"])
            if math.isnan(confidence):
                raise ValueError
        except (ValueError, KeyError, TypeError, IndexError, OverflowError):
            raise UserError(
                f"{where}: write uri, relation, start, end and JSON with a weight by tabs, as ConceptNet 5.7 does"
            ) from None
        if relation.removeprefix("/r/").split("/")[0] in LEFT_OUT or confidence < LEAST:
            continue
        if pair[0] == pair[1] or not all(word.isalpha() for word in pair):
            continue
        sure = (min(confidence, MOST) - LEAST) / (MOST - LEAST)
        for head, tail in (pair, pair[::-1]):
            if tail in known and head not in STOP:
                tails = found.setdefault(head, {})
                tails[tail] = max(tails.get(tail, 0.0), (sure + intensity.get(tail, 0.0)) / 2)
    if not found:
        raise UserError(f"{path}: not one assertion on two English words; get it again from {CONCEPTNET}")
    best = {
        head: sorted(tails.items(), key=lambda tail: (-tail[1], tail[0]))[:per_word] for head, tails in found.items()
    }
    return {head: tuple(tails) for head, tails in best.items()}


def read_vad(path: str | Path) -> dict[str, float]:
    r"""word -> emotional intensity of its valence V and arousal A (KEMP, Sec. 3.1, eq. 1), min-max over the file.

    $$ \eta(x) = \min\max \lVert (V(x) - 1/2, A(x) / 2) \rVert_2 $$

    path: NRC-VAD-Lexicon.txt: word, valence, arousal, dominance in 0..1 by tabs, with or without a head line. KEMP
    gives words that the file lacks 0 as well. Raises UserError(file:line: ...) for lines of another form.
    """
    norms: dict[str, float] = {}
    for number, line in _lines(Path(path)):
        fields = line.split("\t")
        if not line.strip() or number == 1 and [name.lower() for name in fields[1:3]] == ["valence", "arousal"]:
            continue
        try:
            word, valence, arousal, _ = fields[0], *map(float, fields[1:])
        except ValueError:
            word, valence, arousal = "", math.nan, math.nan
        if not (word and 0 <= valence <= 1 and 0 <= arousal <= 1):
            raise UserError(
                f"{path}:{number}: write word, valence, arousal and dominance in 0..1 by tabs, as NRC-VAD's first "
                f"version does; get it from {NRC_VAD}"
            )
        norms[word] = math.hypot(valence - 0.5, arousal / 2)
    low, high = min(norms.values(), default=0.0), max(norms.values(), default=0.0)
    if high <= low:
        raise UserError(f"{path}: no two words to compare; get it again from {NRC_VAD}")
    return {word: (norm - low) / (high - low) for word, norm in norms.items()}


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, text) of each line of a file, packed by gzip or not. Raises UserError where it is damaged."""
    number = 0
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield number, line.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise UserError(f"{path}:{number}: bytes that are not UTF-8; get the file again") from None
    except (OSError, EOFError, zlib.error) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path}:{number + 1}: cannot be read ({why}); get the file again") from None
