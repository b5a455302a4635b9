"""`rd human export`: the blinded sheets as tasks of Label Studio, with its Pairwise tag for each aspect.

A Pairwise tag makes two Text tags its own (a second one would take their clicks away), so each aspect shows the replies
anew. It knows left and right only: a tie is a Choices tag of one box below them. A pair that is rated whole goes along
as an annotation, one rated in part as a prediction: Label Studio takes every annotated task for done and never offers
it again, while a prediction only fills the form in. Sides are those of each rater's sheet, so every rater has an own
file of tasks. Nothing in them tells a system's or a rater's name. `rd.human.labelled` reads the results.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

from rd.files import replace_text
from rd.human.guidelines import ASPECTS, guidelines
from rd.human.session import given
from rd.human.store import Pair, Store
from rd.run import save_json

SIDES = {"A": "left", "B": "right"}
REPLIES = ("reply_a", "reply_b")
TIE = "neither is better"
TASK = "Three times: click the better reply, or tick the box where neither is better. A second click takes it back."
FRAME = "flex: 1; border: 1px solid #888; border-radius: 4px"  # an empty reply can be seen and clicked


def export(store: Store, folder: Path) -> list[Path]:
    """label_config.xml and tasks-r1.json, tasks-r2.json, ... in `folder` (made if it is missing)."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "label_config.xml"
    replace_text(config, label_config())
    written = [config]
    for rater in store.raters:
        written.append(folder / f"tasks-{rater}.json")
        save_json(written[-1], tasks(store, rater))
    return written


def label_config() -> str:
    """The labelling interface: the context, then for each aspect its guideline, the two replies to click, a tie."""
    view = Xml.Element("View")
    Xml.SubElement(view, "Header", value=TASK, size="5")
    Xml.SubElement(view, "Text", name="context", value="$context")
    for aspect, text in guidelines().items():
        Xml.SubElement(view, "Header", value=f"{aspect}: {text}", size="5")
        names = [f"{aspect}_{reply}" for reply in REPLIES]
        Xml.SubElement(view, "Pairwise", name=aspect, toName=",".join(names))
        beside = Xml.SubElement(view, "View", style="display: flex; gap: 1em")
        for name, reply in zip(names, REPLIES):
            Xml.SubElement(Xml.SubElement(beside, "View", style=FRAME), "Text", name=name, value=f"${reply}")
        box = Xml.SubElement(view, "Choices", name=f"{aspect}_tie", toName="context", choice="single")
        Xml.SubElement(box, "Choice", value=TIE)
    Xml.indent(view)
    return Xml.tostring(view, encoding="unicode") + "\n"


def tasks(store: Store, rater: str) -> list[dict[str, Any]]:
    """One task a pair in the rater's order, with what the rater has said of it."""
    chosen = given(store, rater)
    return [_task(pair, rater, chosen) for pair in store.sheet(rater)]


def _task(pair: Pair, rater: str, chosen: dict[tuple[str, str], str]) -> dict[str, Any]:
    data = {"pair": pair.pair, "rater": rater, "context": pair.context, "reply_a": pair.a, "reply_b": pair.b}
    task: dict[str, Any] = {"data": data}
    if said := [(aspect, chosen[pair.pair, aspect]) for aspect in ASPECTS if (pair.pair, aspect) in chosen]:
        results = [_result(pair.pair, aspect, choice) for aspect, choice in said]
        if len(said) == len(ASPECTS):
            task["annotations"] = [{"result": results, "ground_truth": False}]  # else it is imported as true
        else:
            task["predictions"] = [{"result": results}]
    return task


def _result(pair: str, aspect: str, choice: str) -> dict[str, Any]:
    """One entry of an annotation, as Label Studio itself writes it: a Pairwise names itself as its object."""
    if choice == "tie":
        tag = {"type": "choices", "from_name": f"{aspect}_tie", "to_name": "context", "value": {"choices": [TIE]}}
    else:
        tag = {"type": "pairwise", "from_name": aspect, "to_name": aspect, "value": {"selected": SIDES[choice]}}
    return {"id": f"{pair}-{aspect}", **tag}
