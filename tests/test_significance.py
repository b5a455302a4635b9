"""Who is compared with whom, what a difference is, and when it bears a mark."""

import json

import numpy as np
import pytest

import rd.significance
from rd.metrics import bleu, paired_bootstrap
from rd.scores import FILE, score_rows, write_scores
from rd.significance import KEPT, Trained, compare, marks, pairs, significance

IDS = [f"d{i // 2}:{i}" for i in range(12)]
GOLD = [f"a b c d e {i}" for i in range(12)]
WEAK = [f"a b x d e {i}" for i in range(12)]
STRONG = [f"a b c d e {i}" if i % 4 else "a b c d" for i in range(12)]


def table(replies, nats=None):
    return score_rows(IDS, replies, GOLD, nats)


def put(folder, name, replies, steps, nats=None):
    run = folder / name
    run.mkdir(exist_ok=True)
    write_scores(table(replies, nats), run / FILE)
    kept = [(r, g) for r, g in zip(replies, GOLD, strict=True) if r is not None]
    ppl = None if nats is None else float(np.exp(np.mean(nats)))
    (run / "metrics.json").write_text(json.dumps({"n": 12, "ppl": ppl, **bleu(*zip(*kept, strict=True))}))
    (run / "machine.json").write_text(json.dumps({"steps": steps}))


def test_the_same_steps_are_compared_and_reflectdiffu_never_with_less():
    runs = [
        Trained(f"{name}-s{seed}", name.split("-")[0] if name.endswith(("-long", "-short")) else name, seed, steps)
        for name, seed, steps in [
            *[("transformer", "0", 5), ("transformer-long", "0", 13), ("transformer", "1", 5)],
            *[("reflectdiffu", "0", 8), ("reflectdiffu-short", "0", 5), ("reflectdiffu-era-False", "0", 5)],
            *[("mime", "0", 5), ("mime", "1", 5), ("cab", "0", 4)],
        ]
    ]
    assert {(a.folder, b.folder) for a, b in pairs(runs)} == {
        ("reflectdiffu-s0", "transformer-long-s0"),  # nobody took 8: the next one up
        ("reflectdiffu-short-s0", "transformer-s0"),
        ("reflectdiffu-era-False-s0", "transformer-s0"),
        ("reflectdiffu-era-False-s0", "reflectdiffu-short-s0"),
        ("mime-s0", "transformer-s0"),
        ("mime-s0", "reflectdiffu-short-s0"),
        ("mime-s1", "transformer-s1"),
    }  # and cab, which stopped before, with nobody


def test_a_difference_is_that_of_the_metrics_and_turns_round():
    nats = np.linspace(1, 2, 12)
    found = compare(table(STRONG, nats), table(WEAK, nats + 0.5), resamples=300)
    back = compare(table(WEAK, nats + 0.5), table(STRONG, nats), resamples=300)
    for n in (1, 2, 3, 4):
        gap = bleu(STRONG, GOLD)[f"bleu_{n}"] - bleu(WEAK, GOLD)[f"bleu_{n}"]
        assert found[f"bleu_{n}"]["difference"] == pytest.approx(gap) == -back[f"bleu_{n}"]["difference"]
    again = paired_bootstrap(nats, nats + 0.5, [key.split(":")[0] for key in IDS], 300)
    assert found["nats_a_word"] == again | {"samples": 12, "of": 12} and again["dialogues"] == 6


def test_only_samples_of_both_are_compared_in_any_order():
    part, nats = table([None, *STRONG[1:]]), np.arange(12.0)
    mixed = table([None, *STRONG[1:]], nats).sample(frac=1, random_state=0, ignore_index=True)
    whole = compare(mixed, table([*WEAK[:-1], None], nats + 1), resamples=100)
    found, same = whole["bleu_2"], whole["nats_a_word"]
    ends = [same["low"], same["high"], same["difference"]]
    assert ends == pytest.approx([-1, -1, -1])  # sample by sample: any other pairing would spread
    gap = bleu(STRONG[1:-1], GOLD[1:-1])["bleu_2"] - bleu(WEAK[1:-1], GOLD[1:-1])["bleu_2"]
    assert found["difference"] == pytest.approx(gap) and (found["samples"], found["of"]) == (10, 12)
    assert "nats_a_word" not in compare(part, table(WEAK), resamples=10)


def test_what_is_kept_is_not_made_again_until_the_scores_change(tmp_path, monkeypatch):
    put(tmp_path, "transformer-s0", WEAK, 5)
    put(tmp_path, "mime-s0", STRONG, 5)
    (tmp_path / "mtrs-s0").mkdir()
    (tmp_path / "mtrs-s0" / "metrics.json").write_text("{}")
    (tmp_path / "mtrs-s0" / "machine.json").write_text('{"steps": 5}')
    first = significance(tmp_path, 100)
    assert [(one["a"], one["b"]) for one in first["comparisons"]] == [("mime-s0", "transformer-s0")]
    assert "mtrs-s0" in first["missing"] and first == json.loads((tmp_path / KEPT).read_text())
    with monkeypatch.context() as patched:
        patched.setattr(rd.significance, "compare", None)  # would fail if it were called
        assert significance(tmp_path, 100) == first
    put(tmp_path, "mime-s0", WEAK, 5)
    assert significance(tmp_path, 100)["comparisons"][0]["a_minus_b"]["bleu_1"]["difference"] == 0


def test_nothing_to_compare_leaves_the_file_alone(tmp_path):
    put(tmp_path, "mime-s0", WEAK, 5)
    (tmp_path / KEPT).write_text('{"a": "measured by hand"}')
    assert significance(tmp_path)["comparisons"] == []
    assert (tmp_path / KEPT).read_text() == '{"a": "measured by hand"}'


def one(a, b, p=0.01, difference=1.0, samples=12, steps=(5, 5)):
    gap = {"p": p, "difference": difference, "samples": samples, "of": 12}
    return {"a": a, "b": b, "steps": list(steps), "a_minus_b": {"bleu_1": gap, "nats_a_word": gap | {"p": 0.5}}}


def test_marks_say_from_whom_on_both_sides():
    found = [one("mime-s0", "transformer-s0"), one("mime-s0", "reflectdiffu-short-s0")]
    assert marks("mime", found) == {"bleu_1": "*†"}
    assert marks("reflectdiffu", [one("reflectdiffu-s0", "transformer-s0")]) == {"bleu_1": "*"}
    assert marks("transformer", [one("reflectdiffu-s0", "transformer-s0")]) == {"bleu_1": "†"}
    assert marks("reflectdiffu-short", found) == {}  # that it differs from MIME is no mark of its own


DOUBTS = [{"p": 0.06}, {"difference": -1.0}, {"samples": 9}, {"steps": (5, 6), "p": 0.9}]


@pytest.mark.parametrize("doubt", DOUBTS, ids=lambda doubt: next(iter(doubt)))
def test_one_doubtful_seed_takes_the_mark_away(doubt):
    sure = one("mime-s0", "transformer-s0")
    assert marks("mime", [sure, one("mime-s1", "transformer-s1")]) == {"bleu_1": "*"}
    left = {"bleu_1": "*"} if "steps" in doubt else {}  # other steps: not compared at all
    assert marks("mime", [sure, one("mime-s1", "transformer-s1", **doubt)]) == left
