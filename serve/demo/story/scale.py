"""How long the story takes, and how much is sent."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """window_s, min_rows, min_psi: of model.yaml. clean_s: traffic before the scanner breaks. rows: of a request. label_share: of the
    requests, told label_delay_s after their answers. new_rows: labelled rows of the broken scanner that version 2 is trained on;
    checked_rows: later ones that its baseline is made of. stage_s: of each stage of the rollout. after_windows: of version 2 alone.
    """

    window_s: float = 5.0
    min_rows: int = 400
    min_psi: float = 0.25
    clean_s: float = 30.0
    requests_s: float = 120.0
    rows: int = 4
    label_share: float = 0.6
    label_delay_s: float = 2.0
    new_rows: int = 3000
    checked_rows: int = 1000
    stage_s: float = 5.0
    after_windows: int = 3


# For people to follow: about two minutes.
FULL = Scale()
# For a test.
QUICK = Scale(window_s=2.0, min_rows=200, clean_s=6.0, new_rows=2000, checked_rows=600, stage_s=1.5, after_windows=1)

__all__ = ["FULL", "QUICK", "Scale"]
