"""Documents of the admin API as a running server gives them, for tests of what draws and watches them."""

from typing import Any

STAGE = {"seconds": 60.0, "requests": 500, "pause": False, "pause_seconds": None}
PLAN = {
    "to": "2", "stable": None,
    "steps": [{"weight": weight, **STAGE} for weight in (100, 500, 2500, 5000)],
    "shadow": {"sample": 1000, "compare": [], **STAGE}, "holdback": None,
}


def finding(test: str, e_value: Any, limit: Any, sentence: str, action: str = "rollback", is_tripped: bool = False) -> dict[str, Any]:
    return {"test": test, "action": action, "is_tripped": is_tripped, "sentence": sentence, "e_value": e_value, "limit": limit,
            "estimate": None, "interval": None, "counts": {}, "thresholds": {}}


def judgement(verdict: str = "continue", why: str = "nothing speaks against version 2; 270 of 500 requests") -> dict[str, Any]:
    return {"verdict": verdict, "why": why, "generation": 4, "step_done": False, "findings": [
        finding("errors", 3.1, 166.67,
                "candidate 2 errors in 270 answers (0.74 %), stable 12 in 5,120 (0.23 %); evidence 3.1 against a limit of 167"),
        finding("streak", None, None, "longest streak of candidate failures is 1, under 5"),
        finding("latency", 0.4, 250.0, "runs over the stable version's p99: 1.1 % of 268, 1 % allowed"),
        finding("outputs", "inf", 100.0, "class 7 makes up 31 % of the candidate's answers, 10 % of stable's", "hold",
                is_tripped=verdict == "hold"),
        finding("shadow", 1.0, 100.0, "4 of 1,012 pairs disagree (0.4 %)", "hold"),
        finding("promotion", 31.0, 20.0, "error rate under 1.5 times stable's: shown", "none", is_tripped=True)]}


def rollout(phase: str = "stepping", step: int = 2, **changed: Any) -> dict[str, Any]:
    return {
        "id": "digits-r1", "model": "digits", "plan": PLAN, "stable": "1", "candidate": "2", "phase": phase, "step": step,
        "elapsed_s": 31.4, "waited_s": 0.1, "paused_s": 0.0, "total_elapsed_s": 200.0, "step_requests": 270, "paused_from": None,
        "pause_reason": None, "attempt": 1, "verdict": "continue", "verdict_why": "", "why": "", "generation": 4,
        "created": "2026-11-22T01:02:03.000000Z", "ended": "", "described": "step 2 of 4: 5 % to version 2 of digits",
        "possible": ["promote", "promote-full", "pause", "abort"], "judgement": judgement(), **changed}


TRAFFIC: dict[str, Any] = {
    "model": "digits", "generation": 4, "state": "in_force", "reason": "", "implied": False, "labels": {"stable": "1"},
    "owner": "rollout:digits-r1", "pending": None,
    "plan": {"variants": [{"version": "1", "weight": 9500}, {"version": "2", "weight": 500}], "sticky": {"header": "x-user-id"},
             "overrides": [{"header": "x-force", "value": "beta", "version": "2"}], "coverage": 9000,
             "shadows": [{"version": "3", "sample": 1000}], "salt": "0123"}}


def arm(name: str, assigned: int, errors: int) -> dict[str, Any]:
    return {"name": name, "version": name, "assigned": assigned, "keyed": assigned, "success": assigned - errors - 1, "errors": errors,
            "refused": 1, "judged": assigned, "judged_errors": errors}


COUNTERS: list[dict[str, Any]] = [
    {"generation": 3, "is_final": True, "streak": 0, "longest_streak": 0, "warmup_left": 0, "arms": [arm("1", 9, 0)], "shadows": []},
    {"generation": 4, "is_final": False, "streak": 0, "longest_streak": 1, "warmup_left": 0,
     "arms": [arm("1", 5120, 12), arm("2", 280, 2), {**arm("explicit", 7, 0), "version": ""}],
     "shadows": [{"version": "3", "sampled": 540, "compared": 500, "disagreement": 2.0, "failed": 1, "dropped": {"capacity": 39}}]},
]
