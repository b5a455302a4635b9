"""Shards put together again, after a check that each is whole and of this very input."""

from __future__ import annotations

import hashlib
from itertools import islice
from pathlib import Path
from typing import Any

from rd.annotation.blocks import MOST_SHARDS, count_lines, share
from rd.annotation.files import Job, shard_file
from rd.annotation.part import Part, State, chunks, read_state, state_file
from rd.errors import UserError


def merge_shards(job: Job, count: int) -> dict[str, Any]:
    """The shards 1 to `count` of `out`, one after the other, into `out`: the bytes of a run without shards.

    What `cat` gives, but nothing can be missing, doubled or of another time: each shard must be finished, of the same
    settings, of the lines that now stand in its share of the input, and as it was written. The shards stay.
    Returns dialogues, by, shards. Raises UserError naming the first shard that is not so.
    """
    if not 1 <= count <= MOST_SHARDS:
        raise UserError(f"--merge {count}: give the number of shards, 1 to {MOST_SHARDS}")
    if job.shard:
        raise UserError("--merge: it takes all shards; leave --shard out")
    lines = count_lines(job.source)
    names = [shard_file(job.out, place, count) for place in range(1, count + 1)]
    states = [_finished(name, f"{place}/{count}") for place, name in enumerate(names, 1)]
    common = states[0].settings | {"shard": None}
    for name, state in zip(names, states, strict=True):
        if state.settings | {"shard": None} != common or common["what"] != job.what:
            raise UserError(f"{name}: made with other settings than the rest; make it again")
    whole = hashlib.sha256()
    with Part(job.out, common, resume=False) as part, job.source.open("rb") as source:
        for place, (name, state) in enumerate(zip(names, states, strict=True), 1):
            mine = share(lines, place, count, common["block"])
            sha = hashlib.sha256()
            for line in islice(source, len(mine)):
                sha.update(line)
                whole.update(line)
            if mine and (state.line, state.read) != (mine.stop, sha.hexdigest()) or not mine and state.bytes:
                raise UserError(f"{name}: made of other input than {job.source} holds now; make it again")
            _copy(name, state, part)
        part.reach(lines, whole.hexdigest(), sum(state.dialogues for state in states))
        part.finish()
    return {"dialogues": part.state.dialogues, "by": common["by"], "shards": count}


def _finished(name: Path, shard: str) -> State:
    state = read_state(name)
    if state is None or not state.finished or not name.is_file():
        raise UserError(f"{name}: not there, or not finished; run it with --shard {shard} --resume")
    block = state.settings.get("block")
    if not {"what", "by"} <= state.settings.keys() or type(block) is not int or block < 1:
        raise UserError(f"{state_file(name)}: damaged (its settings are none); delete it and make the shard again")
    return state


def _copy(name: Path, state: State, part: Part) -> None:
    sha = hashlib.sha256()
    with name.open("rb") as file:
        for data in chunks(file, state.bytes + 1):
            sha.update(data)
            part.write(data)
    if sha.hexdigest() != state.written:
        raise UserError(f"{name}: not what was written there; delete it and make it again")
