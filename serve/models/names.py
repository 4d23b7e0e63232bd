"""What models, versions and labels may be called. One place, because files, requests and plans all name them."""

import re

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
# 18 digits stay inside int64, which Triton's version policy uses.
VERSION = re.compile(r"[1-9][0-9]{0,17}")

MODEL_NAME_RULE = "1 to 128 letters, digits, '.', '_' or '-', the first one a letter or a digit"
VERSION_RULE = "a positive integer without leading zeros, of at most 18 digits"
LABEL_RULE = "named like a model, but not all digits"


def is_model_name(text: str) -> bool:
    """Whether a model may be called so."""
    return MODEL_NAME.fullmatch(text) is not None


def is_version(text: str) -> bool:
    """Whether a version may be called so."""
    return VERSION.fullmatch(text) is not None


def is_label(text: str) -> bool:
    """Whether a label may be called so; a version never passes for one."""
    return is_model_name(text) and not text.isdigit()


def is_ignored(entry: str) -> bool:
    """Folder entries that are nobody's model: hidden files, what starts with an underscore, what mkfs puts at the root of a volume."""
    return entry.startswith((".", "_")) or entry == "lost+found"
