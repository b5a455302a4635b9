"""Knowledge beside the corpus, from the real files or computed from the train split; results name which was used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

# COMET-2020's relations on the person who speaks (Hwang et al., AAAI 2021), those that CEM, CASE and CAB read.
RELATIONS = ("xIntent", "xNeed", "xWant", "xEffect", "xReact")
Said = tuple[tuple[str, ...], ...]  # the words of each relation


@dataclass(frozen=True)
class Knowledge:
    """What models may look up about any words; it never depends on a label of valid or test."""

    concepts: Mapping[str, tuple[tuple[str, float], ...]]  # word -> its emotional concepts, best first, weight 0 to 1
    intensity: Mapping[str, float]  # word -> emotional intensity, 0 to 1; a word that is not there has none
    commonsense: Callable[[Sequence[tuple[str, str]]], list[Said]]  # (dialogue id, a speaker's turn) of each query
    sources: Mapping[str, str]  # "concepts", "intensity", "commonsense" -> where it is from

    def without_commonsense(self) -> Knowledge:
        """For a model that does not read it: nobody is asked, every relation is empty."""
        nothing: Said = tuple(() for _ in RELATIONS)
        sources = {kind: source for kind, source in self.sources.items() if kind != "commonsense"}
        return replace(self, commonsense=lambda queries: [nothing for _ in queries], sources=sources)
