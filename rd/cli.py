"""The `rd` command: thin; each verb calls one function. Exit 0, or 2 with one line for a user's mistake."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from rd.errors import UserError, machine_fault
from rd.files import check_target
from rd.human import commands
from rd.locks import locked
from rd.processes import by_main, index, main_first
from rd.settings import check_seed


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `rd`."""
    parser = build_parser()
    chosen = parser.parse_args(arguments)
    if index():
        sys.stdout = open(os.devnull, "w")  # the main process alone says what was made
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a sign shows "?"
    try:
        check_seed(getattr(chosen, "seed", 0))
        chosen.call(chosen)
    except UserError as error:
        print(f"rd: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        told = "rd: interrupted"
        if hasattr(chosen, "resume"):
            told += "; the same command with --resume goes on from the last saved state"
        elif chosen.call in (_generate, _evaluate):
            told += "; the same command goes on from there"
        print(told, file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    except Exception as error:
        if (line := machine_fault(error)) is None:
            raise
        print(f"rd: {line}", file=sys.stderr)
        return 2
    return 0


def build_parser() -> argparse.ArgumentParser:
    """All verbs and their options."""
    parser = argparse.ArgumentParser(prog="rd", description="ReflectDiffu: empathetic response generation.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    data = verbs.add_parser("data", help="check or fetch a corpus").add_subparsers(required=True, metavar="WHAT")
    check = _verb(data, "check", _data_check, "read a corpus folder, check every line, count")
    check.add_argument("folder", metavar="DIR")
    check.add_argument("--json", action="store_true")
    fetch = _verb(data, "fetch", _data_fetch, "download the official EMPATHETICDIALOGUES archive")
    fetch.add_argument("--out", default="data", metavar="DIR")

    annotate = _verb(verbs, "annotate", _annotate, "mark emotion reasons, or name response intents")
    annotate.add_argument("what", choices=("reasons", "intents"))
    annotate.add_argument("--in", dest="source", required=True, metavar="FILE.jsonl")
    annotate.add_argument("--out", required=True, metavar="FILE.jsonl")
    annotate.add_argument("--by", default=None, choices=("gold", "era", "tagger", "weak", "llm"))
    annotate.add_argument("--preset", default="mini")
    annotate.add_argument("--data", default="", metavar="DIR")
    annotate.add_argument("--results", default="results", metavar="DIR", help="where the annotators lie")
    annotate.add_argument("--shard", metavar="I/N", help="the I-th of N parts, into FILE.I-of-N.jsonl")
    annotate.add_argument("--merge", type=int, default=None, metavar="N", help="check N shards and put them together")
    annotate.add_argument("--resume", action="store_true")
    annotate.add_argument("--concurrency", type=int, default=4, metavar="K", help="requests to a server at once (4)")

    train = _verb(verbs, "train", _train, "train a model into a run folder")
    train.add_argument("model", metavar="MODEL")
    train.add_argument("--preset", default="mini")
    train.add_argument("--data", default="", metavar="DIR")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--max-steps", type=int, default=None)
    train.add_argument("--out", default=None, metavar="RUN")
    train.add_argument("--results", default="results", metavar="DIR", help="where annotators, knowledge and runs lie")
    train.add_argument("--resume", action="store_true")
    train.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PART.NAME=VALUE",
        help="another value than the preset's: model.joint=true, model.era=false, data.vectors=glove.6B.300d.txt, ...",
    )

    asks = _verb(verbs, "prompt", _prompt, "a language model answers by chain of thought: the rows + CoT of Table 2")
    tunes = _verb(verbs, "tune", _tune, "fine-tune a language model on the chain of thought, by LoRA")
    for verb in (asks, tunes):
        verb.add_argument("model", metavar="MODEL", help="hub name, folder, .gguf file, pip package, or served model")
        verb.add_argument("--data", default="", metavar="DIR")
        verb.add_argument("--seed", type=int, default=0)
        verb.add_argument("--resume", action="store_true")
    asks.add_argument("--split", default="test")
    asks.add_argument("--count", type=int, default=None, metavar="N", help="N samples, drawn with the seed (all)")
    asks.add_argument("--shots", type=int, default=None, metavar="K", help="train samples shown (6; 0 with --adapter)")
    asks.add_argument(
        "--calibrate", type=int, default=0, metavar="N", help="centre the labels' scores over N train contexts (off)"
    )
    asks.add_argument("--adapter", default="", metavar="DIR", help="what rd tune wrote")
    asks.add_argument("--precision", default="bf16", choices=("bf16", "fp32"))
    asks.add_argument("--preset", default="mini", help="the folder of results in which the row stands")
    asks.add_argument("--out", default=None, metavar="RUN")
    tunes.add_argument("--max-steps", type=int, default=None)
    tunes.add_argument("--out", required=True, metavar="DIR")

    answer = _verb(verbs, "generate", _generate, "answer a split")
    evaluate = _verb(verbs, "evaluate", _evaluate, "answer a split and measure: RUN/metrics.json")
    chat = _verb(verbs, "chat", _chat, "talk; shows reasons, emotion, first and final intent, reply")
    for verb in (answer, evaluate, chat):
        verb.add_argument("run", metavar="RUN")
        verb.add_argument("--data", default="", metavar="DIR")
    for verb in (answer, evaluate):
        verb.add_argument("--split", default="test")
    evaluate.add_argument(
        "--neural",
        nargs="?",
        type=int,
        const=0,
        default=None,
        metavar="N",
        help="also BERTScore, BARTScore and GPTScore of the first N replies (all), where their networks can be had",
    )
    answer.add_argument("--out", default=None, metavar="FILE.jsonl")
    answer.add_argument("--decode", default="greedy", choices=("greedy", "beam", "sample"))
    answer.add_argument("--seed", type=int, default=0)
    answer.add_argument(
        "--precision", default="fp32", choices=("fp32", "bf16"), help="bf16: faster, not to be reported"
    )

    score = _verb(verbs, "score", _score, "BLEU-1..4 and Dist-1/2 of two text files, one response a line")
    score.add_argument("--hyp", required=True, metavar="FILE")
    score.add_argument("--ref", required=True, metavar="FILE")
    score.add_argument("--json", action="store_true")

    tables = _verb(verbs, "tables", _tables, "every table and figure of a preset, from its runs")
    tables.add_argument("--preset", default="mini")
    tables.add_argument("--results", default="results", metavar="DIR")
    tables.add_argument("--data", default="", metavar="DIR", help="to gather what is missing; without it: what is kept")
    tables.add_argument("--runs", default=None, metavar="DIR", help="where weights and annotators lie (results/PRESET)")
    tables.add_argument("--into", nargs="+", default=[], metavar="FILE.md", help="documents whose table is renewed")
    page = _verb(verbs, "report", _report, "one page of all tables and figures: results/report.html")
    page.add_argument("--results", default="results", metavar="DIR")
    page.add_argument("--out", default=None, metavar="FILE")

    people = verbs.add_parser("human", help="human A/B: sheets, ratings, table, language-model judge")
    commands.add(people.add_subparsers(required=True, metavar="WHAT"), _verb)

    reproduce = _verb(verbs, "reproduce", _reproduce, "all notebooks in order, ending with the table and the report")
    reproduce.add_argument("--preset", default="mini")
    reproduce.add_argument("--data", default="", metavar="DIR")
    reproduce.add_argument("--out", default="results", metavar="DIR")
    reproduce.add_argument("--seed", type=int, default=0)
    return parser


def _verb(verbs: Any, name: str, call: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=text, description=text)
    parser.set_defaults(call=call)
    return parser


def _print(values: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(values, indent=1))
        return
    for name, value in values.items():
        print(f"{name:18} {value:.4f}" if isinstance(value, float) else f"{name:18} {value}")


# Each verb imports what it needs when it is called: `rd --help` and `rd score` do not wait for torch.


def _data_check(chosen: argparse.Namespace) -> None:
    from rd.data.corpus import check

    _print(check(chosen.folder), chosen.json)


def _data_fetch(chosen: argparse.Namespace) -> None:
    from rd.data.fetch import fetch

    print(fetch(Path(chosen.out)))


def _annotate(chosen: argparse.Namespace) -> None:
    from rd.annotation.files import Job, annotate_file
    from rd.annotation.shards import merge_shards
    from rd.pipeline import Pipeline

    more = (chosen.by, chosen.shard, chosen.resume, chosen.concurrency)
    job = Job(chosen.what, Path(chosen.source), Path(chosen.out), *more)
    desk = Pipeline(chosen.preset, data=chosen.data, out=chosen.results)
    _print(annotate_file(job, desk) if chosen.merge is None else merge_shards(job, chosen.merge), False)


def _train(chosen: argparse.Namespace) -> None:
    from rd.pipeline import Pipeline
    from rd.run import train_run

    desk = Pipeline(
        chosen.preset, chosen.seed, chosen.data, chosen.results, chosen.max_steps, changes=tuple(chosen.set)
    )
    folder = Path(chosen.out) if chosen.out else desk.run_folder(chosen.model)
    needed = desk.needed(chosen.model)
    more = (desk.annotators_folder, desk.known(chosen.model), desk.intents(chosen.model))
    train_run(chosen.model, desk.corpus, desk.config, folder, needed, chosen.resume, *more)
    print(folder)


def _prompt(chosen: argparse.Namespace) -> None:
    from rd.llm.baseline import Question, run_prompt, short_name
    from rd.pipeline import Pipeline

    desk = Pipeline(chosen.preset, chosen.seed, chosen.data)
    shots = (0 if chosen.adapter else Question.shots) if chosen.shots is None else chosen.shots
    question = Question(
        chosen.model, chosen.split, shots, chosen.calibrate, chosen.seed, chosen.adapter, chosen.precision
    )
    folder = Path(chosen.out) if chosen.out else desk.run_folder(short_name(chosen.model))
    more = (chosen.resume, lambda: desk.tagger, desk.config.preset)
    with locked(folder):
        found = run_prompt(question, desk.corpus, folder, chosen.count, *more)
    _print({name: value for name, value in found.items() if name != "notes"}, False)
    print(folder)


def _tune(chosen: argparse.Namespace) -> None:
    from rd.data.corpus import read_corpus
    from rd.llm.finetune import tune, tuning

    config = tuning(chosen.seed, chosen.max_steps)
    with locked(chosen.out):
        print(tune(chosen.model, read_corpus(chosen.data or None), Path(chosen.out), config, chosen.resume))


def _generate(chosen: argparse.Namespace) -> None:
    from rd.answering import answer, begun, split_inputs
    from rd.data.jsonl import write_lines
    from rd.generate import Decode
    from rd.pipeline import foreign, open_run

    run, corpus, annotations = open_run(chosen.run, chosen.data, chosen.split)
    low = "" if chosen.precision == "fp32" else chosen.precision
    name = "-".join(filter(None, (foreign(run, corpus), chosen.split, chosen.decode, low)))
    target = run.folder / f"{name}.jsonl" if chosen.out is None else Path(chosen.out)
    check_target(target)
    if not target.parent.is_dir():
        raise UserError(f"--out {target}: its folder is not there")
    inputs = main_first(lambda: split_inputs(run, corpus, chosen.split, annotations))
    with locked(run.folder) if target.parent == run.folder else nullcontext():
        decode = Decode(chosen.decode, precision=chosen.precision)
        kept = begun(target, run, inputs, chosen.split, asdict(decode), chosen.seed)
        records = answer(run, inputs, chosen.split, decode, seed=chosen.seed, kept=kept)
        by_main(lambda: (write_lines(target, records), kept.clear()))
    print(target)


def _evaluate(chosen: argparse.Namespace) -> None:
    from rd.pipeline import evaluate_run, foreign, open_run, open_tagger, result_name

    if (chosen.neural or 0) < 0:
        raise UserError(f"--neural {chosen.neural}: give the number of replies, or nothing for all of them")
    run, corpus, annotations = open_run(chosen.run, chosen.data, chosen.split)
    found = evaluate_run(run, corpus, chosen.split, annotations, open_tagger(run), chosen.neural)
    _print({name: value for name, value in found.items() if name not in ("provenance", "notes")}, False)
    print(run.folder / f"{result_name('metrics', chosen.split, foreign(run, corpus))}.json")


def _score(chosen: argparse.Namespace) -> None:
    from rd.metrics import score_files

    _print(score_files(chosen.hyp, chosen.ref), chosen.json)


def _chat(chosen: argparse.Namespace) -> None:
    from rd.chat import Chat, show

    chat = Chat(chosen.run, data=chosen.data)
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    print("Tell what moved you. An empty line ends.")
    while line := _ask():
        print(show(chat.say(line)))


def _ask() -> str:
    if sys.stdin is None:  # closed before we began
        return ""
    try:
        return input("> ").strip().encode(errors="replace").decode()  # bytes that are no text become "?"
    except EOFError:
        return ""


def _tables(chosen: argparse.Namespace) -> None:
    from rd.pipeline import Pipeline
    from rd.report import refresh

    desk = Pipeline(chosen.preset, data=chosen.data, out=chosen.results)
    for gap in refresh(desk, chosen.runs and Path(chosen.runs), [Path(file) for file in chosen.into]):
        print(f"left out: {gap}", file=sys.stderr)
    print(desk.folder / "tables")


def _report(chosen: argparse.Namespace) -> None:
    from rd.report import report

    print(report(chosen.results, chosen.out))


def _reproduce(chosen: argparse.Namespace) -> None:
    from rd.reproduce import reproduce

    reproduce(chosen.preset, chosen.seed, chosen.data, chosen.out)


if __name__ == "__main__":
    sys.exit(main())
