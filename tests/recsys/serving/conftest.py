"""A small shop, served; and a client without a network."""

import pytest

pytest.importorskip("fastapi", reason="needs the extra `serve`")

from starlette.testclient import TestClient

from milk_recsys.serving.app import make_app
from milk_recsys.serving.service import Service
from tests.recsys.estimator.conftest import fitted, shop  # noqa: F401 (fixtures)


def client_of(service, **options):
    return TestClient(make_app(service, **options))


@pytest.fixture
def service(fitted, shop):  # noqa: F811
    """A service whose items a test may change."""
    return Service(fitted._fitted, fitted.prepare(shop.new_items))


@pytest.fixture
def client(service):
    with client_of(service) as made:
        yield made
