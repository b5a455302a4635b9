"""`rd annotate`: dialogues in, the same lines with reasons or intents out, block by block: size is no matter."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rd.annotation.blocks import BLOCK, count_lines, read_blocks, read_share, share
from rd.annotation.part import Part
from rd.annotation.ways import Desk, choose
from rd.errors import UserError
from rd.files import check_target

MOST_AT_ONCE = 256  # requests: each has a thread


@dataclass(frozen=True)
class Job:
    """What `rd annotate` is told. Raises OSError where `out` is no place for a file."""

    what: str  # "reasons" | "intents"
    source: Path
    out: Path
    by: str | None = None  # one of WAYS[what]; None: the first
    shard: str | None = None  # "3/8"
    resume: bool = False
    concurrency: int = 4  # requests to a server at once
    block: int = BLOCK

    def __post_init__(self) -> None:
        check_target(self.out)

    @property
    def target(self) -> Path:
        """The file that is written: `out`, or its shard. Raises UserError for a shard that is none."""
        return shard_file(self.out, *read_share(self.shard)) if self.shard else self.out


def shard_file(out: Path, place: int, count: int) -> Path:
    """out.03-of-12.jsonl: names in the order of the shards."""
    return out.with_name(f"{out.stem}.{place:0{len(str(count))}}-of-{count}{out.suffix}")


def annotate_file(job: Job, desk: Desk) -> dict[str, Any]:
    """Add "reasons" ([start, end) offsets per speaker turn) or "intents" (per listener turn) to every line, and "by".

    by: "era" and "tagger" are the annotators in the desk's folder; "gold" looks the dialogue up in the corpus; "weak"
    needs no labels; "llm" reads its server or model from the environment and is written as "llm:<model>". A label
    nobody could give is null. The file appears when it is whole; until then it can be gone on with (`Part`).
    Returns what was done: dialogues, by, and an LLM's counts (asked, cached, retried, refused, gave up, not found).
    Raises UserError for bad input (what stands before it is kept), for a way that does not fit, where gold labels are
    missing, and for work under way that is not resumed or was begun on other input or with other settings.
    """
    target = job.target
    if not target.parent.is_dir():
        raise UserError(f"--out {target}: its folder is not there")
    if not 1 <= job.concurrency <= MOST_AT_ONCE:
        raise UserError(f"--concurrency {job.concurrency}: give how many requests at once, 1 to {MOST_AT_ONCE}")
    lines = share(count_lines(job.source), *(read_share(job.shard) if job.shard else (1, 1)), job.block)
    way = choose(job.by, job.what, desk, target.with_suffix(".cache.jsonl"), job.concurrency)
    settings = {"what": job.what, "by": way.by, "shard": job.shard, "block": job.block, **way.made_of}
    with Part(target, settings, job.resume) as part:
        if part.state.finished and lines and part.state.line < lines.stop:
            raise UserError(f"{job.source}: longer than when {target} was made of it; leave --resume out to begin anew")
        blocks = read_blocks(job.source, lines, part.state.line, part.state.read, job.block)
        with closing(way.label(blocks)) as labelled:
            for block, labels in labelled:
                if block.fault:
                    raise _kept(block.fault, part)
                records = [row | {job.what: each, "by": way.by} for row, each in zip(block.rows, labels, strict=True)]
                part.write(b"".join(map(_line, records)))
                part.reach(block.end, block.read, len(records))
        part.finish()
        return {"dialogues": part.state.dialogues, "by": way.by, **way.report}


def _kept(fault: UserError, part: Part) -> UserError:
    done = part.state.dialogues
    return UserError(f"{fault}; {done} dialogues are done: mend it and go on with --resume") if done else fault


def _line(record: dict[str, Any]) -> bytes:
    try:
        return json.dumps(record, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # half a surrogate pair in a key of the user's own: no file can hold it, its escape can
        return json.dumps(record).encode() + b"\n"
