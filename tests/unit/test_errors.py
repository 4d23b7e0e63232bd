"""Every error has a status in each protocol, and only one."""

import pytest

from serve import errors
from serve.errors import CONTROL_STATUS, STATUS, ConfigurationError, HeadraceError, grpc_code, http_status
from serve.store.port import LeaseLost, StoreConflict

KINDS = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, HeadraceError)]


@pytest.mark.parametrize("error", KINDS, ids=lambda error: error.__name__)
def test_every_kind_stands_in_one_table(error):
    assert (error.kind in STATUS) + (error.kind in CONTROL_STATUS) == 1


def test_no_table_has_a_kind_that_nobody_raises():
    assert STATUS.keys() | CONTROL_STATUS.keys() == {error.kind for error in KINDS} | {"OK"}


@pytest.mark.parametrize(("error", "grpc", "http"), [
    (errors.Conflict("x"), 10, 409), (errors.StaleGeneration("x"), 9, 412), (errors.PreconditionRequired("x"), 9, 428),
    (errors.Unprocessable("x"), 3, 422), (errors.InsufficientStorage("x"), 8, 507), (errors.NotFound("x"), 5, 404),
    (StoreConflict("traffic", "digits", 1, 2), 10, 409), (LeaseLost("x"), 10, 409), (ConfigurationError("x"), 13, 500),
    (KeyError("x"), 13, 500),
])
def test_statuses(error, grpc, http):
    assert (grpc_code(error), http_status(error)) == (grpc, http)
