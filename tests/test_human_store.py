"""Ratings outlive a crash, two raters at once lose nothing, names stay inside, another file is named as such."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pytest
from human_study import study

from rd.errors import UserError
from rd.human.guidelines import ASPECTS
from rd.human.schema import VERSION
from rd.human.session import Session, given, save_ratings, take_seat
from rd.human.store import WAIT, Store, create, outcome, sided

RATES = """
import sys
from rd.human.session import Session, take_seat
from rd.human.store import Store
folder, name, letters = sys.argv[1:]
store = Store(folder)
session = Session(store, take_seat(store, name))
print("ready", flush=True)
sys.stdin.readline()
while session.pair:
    session.typed(letters)
"""


def rater(script, *arguments):
    """A rater in a process of its own, as another notebook is."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_two_raters_at_once_lose_nothing(tmp_path):
    folder = study(tmp_path, count=3, raters=2)
    both = [rater(RATES, folder, *who) for who in (("Ann", "aaa"), ("Bob", "ttt"))]
    assert [process.stdout.readline() for process in both] == ["ready\n"] * 2
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.wait(120) for process in both] == [0, 0]
    for process in both:
        process.communicate()
    with Store(folder) as store:
        said = {tuple({*given(store, code).values()}) for code in store.raters}
        assert said == {("A",), ("tie",)} and len(store.votes()) == 2 * 6 * len(ASPECTS)


KILLED = """
import sys
from rd.human.session import Session, take_seat
from rd.human.store import Store
store = Store(sys.argv[1])
session = Session(store, take_seat(store, "Ann"))
while True:
    for aspect in ("empathy", "relevance", "fluency"):
        session.rate(aspect, "B")
        print(session.rater, aspect, flush=True)
        if aspect == "relevance" and session.done == 3:
            store.db.execute("BEGIN IMMEDIATE")
            store.db.execute("UPDATE ratings SET choice = 'A'")  # half done when the end comes
            print("ready", flush=True)
            sys.stdin.read()
"""


def test_killed_in_the_middle_of_a_rating(tmp_path):
    folder = study(tmp_path)
    one, told = rater(KILLED, folder), []
    for line in one.stdout:
        if line == "ready\n":
            break
        told.append(line)
    os.kill(one.pid, signal.SIGKILL)
    assert one.wait() == -signal.SIGKILL
    one.communicate()
    with Store(
        folder
    ) as store:  # what was told to be saved is there, what was not finished is not, and writing goes on
        assert len(told) == 3 * 3 + 2 == len(store.votes())
        assert set(given(store, "r1").values()) == {"B"}
        session = Session(store, take_seat(store, "Ann"))
        assert session.rater == "r1" and session.done == session.place == 3 and session.choice("fluency") is None
        session.rate("fluency", "tie")
        assert session.place == 4


def test_a_writer_waits_for_another(tmp_path, monkeypatch):
    folder = study(tmp_path)
    assert WAIT >= 10
    monkeypatch.setattr("rd.human.store.WAIT", 0.05)
    with Store(folder) as one, Store(folder) as two, one.writing():
        with pytest.raises(UserError, match="locked"):
            take_seat(two, "Bob")
        assert len(two.sheet("r1")) == 20  # readers are not held up


def test_one_word_a_rater_pair_and_aspect(tmp_path):
    with Store(study(tmp_path)) as store:
        pair = store.sheet("r1")[0].pair
        for choice in ("A", "tie"):
            save_ratings(store, "r1", {(pair, "empathy"): choice})
        assert given(store, "r1") == {(pair, "empathy"): "tie"} and len(store.votes()) == 1
        for rater, aspect, choice in (("r9", "empathy", "A"), ("r1", "beauty", "A")):
            with pytest.raises(UserError, match="not written"):
                save_ratings(store, rater, {(pair, "fluency"): "B", (pair, aspect): choice})
        with pytest.raises(ValueError, match="both"):
            save_ratings(store, "r1", {(pair, "empathy"): "both"})
        assert len(store.votes()) == 1  # all of a transaction or nothing


def test_seats(tmp_path):
    with Store(study(tmp_path)) as store:
        assert [take_seat(store, name) for name in ("Ann", " Bob  B. ", "Ann", "Bob B.")] == ["r1", "r2", "r1", "r2"]
        with pytest.raises(UserError, match="taken"):
            take_seat(store, "Cid", "r2")
        with pytest.raises(UserError, match="taken"):
            take_seat(store, "Ann", "r3")
        save_ratings(store, "r3", {(store.sheet("r3")[0].pair, "empathy"): "A"})  # of a sheet without a name
        with pytest.raises(UserError, match="every seat"):
            take_seat(store, "Cid")
        with pytest.raises(UserError, match="name"):
            take_seat(store, "  ")


def test_a_session_goes_on_where_it_stopped(tmp_path):
    with Store(study(tmp_path, count=2)) as store:
        session = Session(store, "r1")
        session.typed("a B t")
        session.rate("empathy", "B")
        again = Session(store, "r1")
        assert again.place == 1 and again.choice("empathy") == "B" and again.done == 1
        again.typed("back")
        assert [again.choice(aspect) for aspect in ASPECTS] == ["A", "B", "tie"] and again.place == 0
        again.rate("fluency", "A")  # said otherwise: one stays there to look at it
        assert again.place == 0 and again.choice("fluency") == "A"
        for wrong in ("", "ab", "abc", "abtt", "bacK!"):
            with pytest.raises(UserError, match="three letters"):
                again.typed(wrong)
        again.typed("ttt")
        assert again.place == 1 and again.done == 1
        while again.pair:
            again.typed("abt")
        assert again.done == 4
        with pytest.raises(UserError, match="all pairs"):
            again.typed("abt")


def test_outcome_is_the_reply_that_was_chosen():
    for ours_first in (True, False):
        a, b = sided("ours", "theirs", ours_first)
        chosen = {"A": a, "B": b}
        for choice in "AB":
            assert (outcome(choice, ours_first) == "win") == (chosen[choice] == "ours")
        assert outcome("tie", ours_first) == "tie"


def test_other_files_are_named(tmp_path):
    folder = study(tmp_path)
    other, text, empty = (tmp_path / name for name in ("other.sqlite", "text.sqlite", "empty.sqlite"))
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE ratings (rater)")
    text.write_text("rater,pair\n" * 100)
    empty.touch()
    for path, what in ((other, "something else"), (text, "not a database"), (empty, "something else")):
        before = path.read_bytes()
        with pytest.raises(UserError, match=what):
            Store(path)
        assert path.read_bytes() == before
    with pytest.raises(UserError, match="no such file"):
        Store(tmp_path)
    with Store(folder) as store:
        store.db.execute(f"PRAGMA user_version = {VERSION + 1}")
    with pytest.raises(UserError, match=f"schema {VERSION + 1}"):
        Store(folder)


@pytest.mark.parametrize(
    "damage",
    [
        # SQLite's own error quotes these bytes, which Python cannot decode
        lambda data: data.replace(b"tablepairs", b"table\xff\xff\xff\xff\xff").replace(b"TABLE pairs", b"TABLF pairs"),
        lambda data: data.replace(b"CREATE TABLE pairs", b"CREATE TABLF pairs"),
        lambda data: data[: len(data) // 2],
        lambda data: data[:8192] + bytes(4096) + data[12288:],
        lambda data: data[::-1].replace(b"10p", b"10q", 1)[::-1],  # of a table and its index, one only
        lambda data: data.replace(b'["reflectdiffu', b'{"reflectdiffu'),
        lambda data: data.replace(b"equal", b"equol"),  # the name of a fact
    ],
)
def test_a_damaged_study_is_named_as_such(tmp_path, damage):
    path = study(tmp_path) / "ratings.sqlite"
    data = path.read_bytes()
    path.write_bytes(damage(data))
    assert path.read_bytes() != data
    with pytest.raises(UserError, match=f"{path}: the database is damaged"), Store(path) as store:
        assert store.facts


def test_nothing_is_written_over(tmp_path):
    folder = study(tmp_path)
    with Store(folder) as store:
        Session(store, "r1").typed("abt")
    before = sorted((path.name, path.read_bytes()) for path in folder.iterdir())
    with pytest.raises(UserError, match="3 ratings"):
        create(folder / "ratings.sqlite", {})
    assert sorted((path.name, path.read_bytes()) for path in folder.iterdir()) == before


def test_waiting_is_for_a_while_only(tmp_path, monkeypatch):
    """The wait itself: a lock that goes away in time is no error."""
    folder = study(tmp_path)
    holder = sqlite3.connect(folder / "ratings.sqlite", isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")

    def let_go():
        time.sleep(0.2)
        holder.execute("COMMIT")

    thread = threading.Thread(target=let_go)
    thread.start()
    with Store(folder) as store:
        assert take_seat(store, "Ann") == "r1"
    thread.join()
    holder.close()


def test_threads_may_share_a_store(tmp_path):
    """JupyterLab answers a widget in another thread than the cell's."""
    with Store(study(tmp_path, count=3)) as store:
        sessions, faults = [Session(store, code) for code in store.raters], []

        def work(session):
            try:
                while session.pair:
                    session.typed("abt")
            except Exception as error:  # a thread's own would only be printed
                faults.append(error)

        threads = [threading.Thread(target=work, args=(session,)) for session in sessions]
        with store.writing():  # nobody gets in between
            for thread in threads:
                thread.start()
            threads[0].join(0.2)
        for thread in threads:
            thread.join()
        assert not faults and len(store.votes()) == 3 * 6 * len(ASPECTS)
