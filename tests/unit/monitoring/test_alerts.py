"""Alerts: m of n, hysteresis, and what late labels change."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.monitoring.alerts import (
    STALE_NS,
    Alert,
    Kind,
    Subject,
    Verdict,
    Watch,
    advance,
    forgotten,
    restored,
    standing,
    watch_document,
    watch_of,
)

S = Subject("digits", "1", "stable", Kind.DRIFT)
MINUTE = 60 * 10**9


def verdict(index: int, is_bad: bool) -> Verdict:
    return Verdict(index * MINUTE, (index + 1) * MINUTE, is_bad, {"features": [{"feature": f"f{index}"}]} if is_bad else {})


def run(words: str, m: int = 2, n: int = 3, subject: Subject = S) -> tuple[Watch, list[str]]:
    """`words`: a window each, b bad, g good, . not concluded. The watch, and what happened: raised@i, cleared@i."""
    watch, happened = Watch(), []
    for index, word in enumerate(words):
        if word == ".":
            continue
        before = watch.alert
        watch, changed = advance(watch, subject, verdict(index, word == "b"), m, n, (index + 1) * MINUTE, f"a{index}")
        if before is None and watch.alert is not None:
            happened.append(f"raised@{index}")
        if changed is not None and not changed.is_raised:
            happened.append(f"cleared@{index}")
    return watch, happened


@pytest.mark.parametrize(("words", "expected"), [
    ("gggg", []), ("gbg", []), ("bb", ["raised@1"]), ("bgb", ["raised@2"]), ("bggb", []), ("b.b", ["raised@2"]), ("...", []),
    ("bbggg", ["raised@1", "cleared@4"]), ("bbggbggg", ["raised@1", "cleared@7"]), ("bbgg.g", ["raised@1", "cleared@5"]),
    ("bbgggbb", ["raised@1", "cleared@4", "raised@6"]),
])
def test_two_of_three(words: str, expected: list[str]) -> None:
    assert run(words)[1] == expected


@given(st.text("bg.", max_size=40), st.integers(1, 4), st.integers(0, 3))
def test_against_a_look_at_the_whole_history(words: str, m: int, more: int) -> None:
    n = m + more
    happened, is_raised, seen = [], False, ""
    for index, word in enumerate(words):
        if word == ".":
            continue
        seen = (seen + word)[-n:]
        if not is_raised and seen.count("b") >= m:
            is_raised = True
            happened.append(f"raised@{index}")
        elif is_raised and len(seen) == n and "b" not in seen:
            is_raised = False
            happened.append(f"cleared@{index}")
    assert run(words, m, n)[1] == happened


def test_an_alert_says_since_when_and_what_is_newest() -> None:
    alert = run("gbgb")[0].alert
    assert alert is not None
    assert (alert.since_ns, alert.raised_ns, alert.window) == (MINUTE, 4 * MINUTE, (3 * MINUTE, 4 * MINUTE))
    assert alert.evidence == {"features": [{"feature": "f3"}]}
    later = run("gbgbgb")[0].alert
    assert later is not None
    assert (later.since_ns, later.window, later.id) == (MINUTE, (5 * MINUTE, 6 * MINUTE), alert.id)


def test_a_detector_needs_no_second_window() -> None:
    assert run("gbg", subject=replace(S, kind=Kind.CONCEPT_DRIFT))[1] == ["raised@1"]


def test_the_newest_word_about_a_window_counts() -> None:
    watch, _ = run("gbg")
    watch, changed = advance(watch, S, verdict(2, True), 2, 3, 4 * MINUTE, "a")
    assert (watch.alert, [one.is_bad for one in watch.recent]) == (changed, [False, True, True])
    watch, changed = advance(watch, S, verdict(1, False), 2, 3, 4 * MINUTE, "b")
    assert changed is not None
    assert changed.is_raised
    watch, changed = advance(watch, S, verdict(2, False), 2, 3, 4 * MINUTE, "b")
    assert changed is not None
    assert (changed.is_raised, watch.alert) == (False, None)
    assert advance(watch, S, verdict(-5, True), 1, 3, 4 * MINUTE, "c") == (watch, None)


def test_what_nothing_is_heard_of_is_forgotten() -> None:
    watch, _ = run("bb")
    assert forgotten(watch, 2 * MINUTE + STALE_NS - 1) is None
    gone = forgotten(watch, 2 * MINUTE + STALE_NS)
    assert gone is not None
    assert (gone.is_raised, gone.cleared_ns) == (False, 2 * MINUTE + STALE_NS)
    assert forgotten(Watch(), STALE_NS * 9) is None


def test_what_is_stored_is_read_back() -> None:
    watch, _ = run("gbb")
    assert watch.alert is not None
    seen = replace(watch.alert, acknowledged="ada", acknowledged_ns=5, is_told=True)
    assert restored(json.loads(json.dumps(seen.stored()))) == seen
    again = watch_of(json.loads(json.dumps(watch_document(watch))), seen)
    assert [(one.start_ns, one.end_ns, one.is_bad) for one in again.recent] == [(i * MINUTE, (i + 1) * MINUTE, i > 0) for i in range(3)]
    assert standing([Watch(), again]) == [seen]
    document = seen.as_document()
    assert (document["state"], document["since"], document["acknowledged_by"]) == ("raised", "1970-01-01T00:01:00.000000Z", "ada")


def test_alerts_of_a_subject_are_ordered_by_age() -> None:
    def made(id_: str, raised_ns: int) -> Watch:
        return Watch((), Alert(id_, S, 0, raised_ns, (0, 1), {}))

    assert [alert.id for alert in standing([made("b", 2), made("a", 2), made("c", 1)])] == ["c", "a", "b"]


def test_windows_of_a_clock_that_was_ahead_neither_hold_an_alert_nor_keep_others_from_counting() -> None:
    ahead, now = 1_000_000, 10 * MINUTE
    watch = Watch()
    for index in range(ahead, ahead + 3):
        watch, _ = advance(watch, S, verdict(index, True), 2, 3, (index + 1) * MINUTE, "a0")
    assert watch.alert is not None
    for index in range(7, 10):
        watch, changed = advance(watch, S, verdict(index, False), 2, 3, now, "a1")
    assert changed is not None
    assert (watch.alert, changed.cleared_ns) == (None, now)


def test_an_alert_of_a_clock_that_was_days_ahead_is_forgotten() -> None:
    watch, _ = run("bb")
    assert forgotten(watch, 2 * MINUTE) is None
    assert forgotten(replace(watch, recent=(verdict(9000, True),)), 2 * MINUTE) is not None
