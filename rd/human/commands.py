"""The verbs of `rd human`. Each imports what it needs when it is called."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rd.errors import UserError


def add(verbs: Any, verb: Callable[..., argparse.ArgumentParser]) -> None:
    """make, read, table, judge, supervise, export. verb: `rd.cli`'s way to add one."""
    made = verb(verbs, "make", _make, "blinded pairs of replies: a database, and a CSV sheet for each rater")
    made.add_argument("runs", nargs="+", metavar="RUN", help="ReflectDiffu's run folder, then those of its opponents")
    made.add_argument("--out", required=True, metavar="FOLDER", help="holds text of the corpus: keep it out of git")
    made.add_argument("--count", type=int, default=100, metavar="N", help="pairs against each opponent (100)")
    made.add_argument("--raters", type=int, default=3, metavar="N")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--data", default="", metavar="DIR")
    read = verb(verbs, "read", _read, "a filled sheet into the database, checked line by line")
    read.add_argument("sheet", metavar="SHEET", help="the sheet as CSV, or what Label Studio exported as JSON")
    read.add_argument("--into", required=True, dest="study", metavar="DB")
    read.add_argument("--name", required=True, help="the rater's; it stays in the database")
    for name, call, text in (
        ("table", _table, "win/lose/tie beside Table 3, agreement, sign test, splits: human.csv and human.md"),
        ("judge", _judge, "a language model (RD_LLM_MODEL) judges each pair in both orders: judge.csv, .json, .md"),
        ("supervise", _supervise, "a language model (RD_LLM_MODEL) settles the splits, and nothing else"),
        ("export", _export, "tasks and labelling interface for Label Studio"),
    ):
        parser = verb(verbs, name, call, text)
        parser.add_argument("study", metavar="DB", help="the study's folder, or its ratings.sqlite")
        if name != "supervise":
            parser.add_argument("--out", default=None, metavar="DIR", help="where to write (beside the database)")
        if name == "judge":
            parser.add_argument("--count", type=int, default=None, metavar="N", help="the first N pairs (all)")


def _make(chosen: argparse.Namespace) -> None:
    from rd.data.corpus import read_corpus
    from rd.human.sheets import make

    out, runs = Path(chosen.out), [Path(run) for run in chosen.runs]
    report = make(runs, read_corpus(chosen.data or None, labels=False), out, chosen.count, chosen.raters, chosen.seed)
    for name, count in report["withheld"].items():
        print(f"{name}: {count} replies are withheld, their samples were skipped")
    print(f"{report['pairs']} pairs, {report['equal']} of them with two equal replies (kept: a tie by right)")
    print(out)


def _read(chosen: argparse.Namespace) -> None:
    from rd.human.filled import read_sheet
    from rd.human.store import Store

    with Store(chosen.study) as store:
        _told(read_sheet(chosen.sheet, store, chosen.name))


def _table(chosen: argparse.Namespace) -> None:
    from rd.human.store import Store
    from rd.human.table import write

    with Store(chosen.study) as store:
        print(write(store, _folder(chosen, store.path)).read_text("utf-8"))


def _judge(chosen: argparse.Namespace) -> None:
    from rd.human.judge import all_questions, ask
    from rd.human.store import Store
    from rd.human.verdict import write
    from rd.provenance import code_version

    if chosen.count is not None and chosen.count < 1:
        raise UserError(f"--count {chosen.count}: give a whole number of at least 1")
    with Store(chosen.study) as store:
        client, folder, code = _client(store), _folder(chosen, store.path), code_version()
        ask(store, client, all_questions(store, chosen.count))
        print(write(store, client.model, folder, _told(client.report), code).read_text("utf-8"))


def _supervise(chosen: argparse.Namespace) -> None:
    from rd.human.judge import supervise
    from rd.human.store import Store

    with Store(chosen.study) as store:
        client = _client(store)
        _told({**supervise(store, client), **client.report})


def _export(chosen: argparse.Namespace) -> None:
    from rd.human.export import export
    from rd.human.store import Store

    with Store(chosen.study) as store:
        for path in export(store, _folder(chosen, store.path)):
            print(path)


def _client(store: Any) -> Any:
    """The configured language model; its answers (no text, hashes only) are remembered beside the database."""
    from rd.annotation.llm import client_from_environment

    return client_from_environment(store.path.with_name("cache.jsonl"))


def _folder(chosen: argparse.Namespace, database: Path) -> Path:
    folder = Path(chosen.out) if chosen.out else database.parent
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _told(report: dict[str, int]) -> dict[str, int]:
    """Counts, printed; those of other verbs' business (phrases of reasons) left out."""
    kept = {name: count for name, count in report.items() if name != "not_found"}
    for name, count in kept.items():
        print(f"{name:10} {count}")
    return kept
