import pytest

from serve.models.names import is_ignored, is_label, is_model_name, is_version


@pytest.mark.parametrize("name", ["a", "7", "resnet-50_v1.5", "A" * 128])
def test_model_names(name: str) -> None:
    assert is_model_name(name)


@pytest.mark.parametrize("name", ["", ".a", "_a", "-a", "a b", "a/b", "ä", "A" * 129, "a\n", "a@b"])
def test_not_model_names(name: str) -> None:
    assert not is_model_name(name)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", True),
        ("9" * 18, True),
        ("0", False),
        ("01", False),
        ("-1", False),
        ("", False),
        ("9" * 19, False),
        ("1a", False),
        ("١", False),
        ("1\n", False),
    ],
)
def test_versions(text: str, expected: bool) -> None:
    assert is_version(text) is expected


@pytest.mark.parametrize(
    ("text", "expected"), [("stable", True), ("v10", True), ("1-rc", True), ("10", False), ("007", False), ("", False)]
)
def test_a_label_is_never_all_digits(text: str, expected: bool) -> None:
    assert is_label(text) is expected


@pytest.mark.parametrize(("entry", "expected"), [(".git", True), ("_old", True), ("lost+found", True), ("model", False)])
def test_ignored_entries(entry: str, expected: bool) -> None:
    assert is_ignored(entry) is expected
