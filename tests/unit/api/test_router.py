from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.api.router import Route, Router
from serve.errors import InvalidArgument

ROUTER = Router([
    Route("GET", "/v2", "root"),
    Route("GET", "/v2/models/stats", "all"),
    Route("GET", "/v2/models/{model}", "model"),
    Route("POST", "/v2/models/{model}", "post"),
    Route("GET", "/v2/models/{model}/versions/{version}", "version"),
    Route("POST", "/v2/repository/models/{model}/load", "load"),
    Route("POST", "/v2/repository/{repository}/index", "named"),
])


@pytest.mark.parametrize(("path", "target", "parameters"), [
    ("/v2", "root", ()),
    ("/v2/models/m", "model", ("m",)),
    ("/v2/models/stats", "all", ()),
    ("/v2/models/stats/versions/1", "version", ("stats", "1")),
    ("/v2/models/m/versions/v10", "version", ("m", "v10")),
    ("/v2/models/a%2Fb%20c", "model", ("a/b c",)),
    ("/v2/models/versions", "model", ("versions",)),
])
def test_a_path_leads_to_the_most_literal_template(path: str, target: str, parameters: tuple[str, ...]) -> None:
    match = ROUTER.match(path)
    assert match is not None
    assert (match.targets["GET"], match.parameters) == (target, parameters)


def test_a_literal_segment_does_not_hide_a_parameter_that_leads_on() -> None:
    match = ROUTER.match("/v2/repository/models/index")
    assert match is not None
    assert (match.targets, match.parameters) == ({"POST": "named"}, ("models",))


@pytest.mark.parametrize("path", ["", "/", "/v2/", "v2", "/v2/models", "/v2/models/", "/v2/models//versions/1", "/v2/models/m/versions/",
                                  "/v2/models/m/", "/V2", "/v2/nothing"])
def test_no_template_no_match(path: str) -> None:
    assert ROUTER.match(path) is None


def test_allow_names_every_verb_of_the_path() -> None:
    match = ROUTER.match("/v2/models/m")
    assert match is not None
    assert match.allow == "GET, HEAD, POST"


def test_a_name_that_is_not_utf8_is_the_callers_fault() -> None:
    with pytest.raises(InvalidArgument, match="%FF"):
        ROUTER.match("/v2/models/%FF")


def test_the_same_line_twice_is_refused() -> None:
    with pytest.raises(ValueError, match=r"two routes for GET /a/\{y\}"):
        Router([Route("GET", "/a/{x}", 1), Route("GET", "/a/{y}", 2)])


@given(st.text(min_size=1).filter(lambda name: name.isprintable() and name != "stats"))
def test_any_name_comes_back_as_it_was_encoded(name: str) -> None:
    match = ROUTER.match("/v2/models/" + quote(name, safe=""))
    assert match is not None
    assert match.parameters == (name,)
