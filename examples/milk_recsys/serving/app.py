"""The application: routes, their bodies, and the status of each error."""

from typing import Annotated, Any

from fastapi import Body, Depends, FastAPI, Path, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer

import invmod
from milk_recsys.base.errors import DataError
from milk_recsys.serving.errors import Conflict, NotFound
from milk_recsys.serving.guard import Guard
from milk_recsys.serving.schemas import (
    MAX_NAME,
    Added,
    Audience,
    AudienceList,
    Error,
    Explained,
    Health,
    ItemList,
    Limits,
    Listed,
    ListedUser,
    Lists,
    Part,
    audience_body,
    explain_body,
    fold_in_body,
    items_body,
    recommend_body,
)
from milk_recsys.serving.service import Entry, Selection, Service

__all__ = ["MAX_BYTES", "make_app", "make_routes"]

MAX_BYTES = 8 * 2**20
# Annotations of routes are read when the routes are added, so they must not be texts: no
# `from __future__ import annotations` here.

STATUS: dict[type[Exception], int] = {NotFound: 404, Conflict: 409, DataError: 422}


def make_app(
    service: Service,
    *,
    token: str | None = None,
    limits: Limits | None = None,
    max_bytes: int = MAX_BYTES,
) -> Guard:
    """Return the ASGI application.

    Arguments:
        token: that requests must bring, or None.
        max_bytes: maximum size of a body.
    """
    routes = make_routes(service, limits or Limits(), secured=token is not None)
    return Guard(routes, token, max_bytes)


def make_routes(service: Service, limits: Limits, *, secured: bool = False) -> FastAPI:
    """Return the routes alone. A method that cannot do something has no route for it."""
    bearer = [Depends(HTTPBearer(auto_error=False))] if secured else []
    app = FastAPI(
        title="milk-recsys",
        version=invmod.__version__,
        description="Lists of items for users and of users for items.",
        # The pages of documentation load scripts from other hosts; the schema is enough.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    for kind, status in STATUS.items():
        app.add_exception_handler(kind, _handler(status))
    app.add_exception_handler(RequestValidationError, _invalid)
    # The guard logs the error, without what the request said.
    app.add_exception_handler(Exception, _unexpected)
    refusals = [400, 401, 413] if secured else [400, 413]
    shared: dict[str, Any] = {"dependencies": bearer}

    def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
        return {status: {"model": Error} for status in (*refusals, *statuses)}

    _add_health(app, service)
    _add_lists(app, service, limits, shared, responses)
    _add_items(app, service, limits, shared, responses)
    if "explain" in service.abilities:
        _add_explain(app, service, shared, responses)
    return app


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/health", summary="What is served")
    def health() -> Health:
        fitted = service.fitted
        return Health(
            status="ok",
            model=fitted.options.run.model,
            users=len(service.scorer.trained_users),
            known_items=len(fitted.items),
            new_items=len(service.shelf.snapshot.names),
        )


def _add_lists(
    app: FastAPI, service: Service, limits: Limits, shared: dict[str, Any], responses: Any
) -> None:
    warm = "include_warm" in service.abilities
    content = service.fitted.user_content
    dims = {} if content is None else content.dims
    Recommend: Any = recommend_body(limits, include_warm=warm)
    FoldIn: Any = fold_in_body(limits, include_warm=warm, users=dims)
    AudienceOf: Any = audience_body(limits)

    @app.post("/recommend", summary="Items for users", responses=responses(404, 409, 422), **shared)
    def recommend(body: Annotated[Recommend, Body()]) -> Lists:
        found = service.recommend(body.users, _selection(body), body.exclude)
        both = zip(body.users, found, strict=True)
        return Lists(lists=[ItemList(user=user, items=_items(own)) for user, own in both])

    @app.post("/audience", summary="Users for items", responses=responses(404, 422), **shared)
    def audience(body: Annotated[AudienceOf, Body()]) -> Audience:
        found = service.audience(body.items, body.k, body.users, body.exclude)
        lists = [
            AudienceList(
                item=item,
                users=[ListedUser(user=entry.name, score=entry.score) for entry in own],
            )
            for item, own in zip(body.items, found, strict=True)
        ]
        return Audience(lists=lists)

    if "fold_in" not in service.abilities:
        return

    @app.post(
        "/fold-in", summary="Items for a new customer", responses=responses(404, 422), **shared
    )
    def fold_in(body: Annotated[FoldIn, Body()]) -> ItemList:
        given = getattr(body, "features", None)
        if (body.items is None) == (given is None):
            raise DataError("give either items or features.")
        features = None if given is None else given.model_dump(by_alias=True, exclude_unset=True)
        own = service.fold_in(body.items, features, _selection(body), body.exclude)
        return ItemList(user="new", items=_items(own))


def _add_items(
    app: FastAPI, service: Service, limits: Limits, shared: dict[str, Any], responses: Any
) -> None:
    NewItems: Any = items_body(limits, service.scorer.dims)

    @app.post(
        "/items",
        status_code=201,
        summary="Add new items",
        responses=responses(409, 422),
        **shared,
    )
    def add(body: Annotated[NewItems, Body()]) -> Added:
        items = {
            each.item: each.features.model_dump(by_alias=True, exclude_unset=True)
            for each in body.items
        }
        if len(items) < len(body.items):
            raise Conflict("an item is there twice.")
        names = service.add(items)
        return Added(added=list(names), new_items=len(service.shelf.snapshot.names))

    @app.delete(
        "/items/{name:path}",
        status_code=204,
        summary="Withdraw a new item",
        responses=responses(404, 422),
        **shared,
    )
    def withdraw(name: Annotated[str, Path(min_length=1, max_length=MAX_NAME)]) -> None:
        service.shelf.withdraw(name)


def _add_explain(app: FastAPI, service: Service, shared: dict[str, Any], responses: Any) -> None:
    Explain: Any = explain_body()

    @app.post("/explain", summary="Parts of a score", responses=responses(404, 409, 422), **shared)
    def explain(body: Annotated[Explain, Body()]) -> Explained:
        found = service.explain(body.user, body.item)
        parts = (
            [Part(name=name, part=part) for name, part in sums.items()]
            for sums in (found.by_modality, found.by_item)
        )
        by_modality, by_item = parts
        return Explained(
            user=body.user,
            item=body.item,
            score=found.score,
            by_modality=by_modality,
            by_item=by_item,
        )


def _selection(body: Any) -> Selection:
    return Selection(body.k, body.available, getattr(body, "include_warm", False))


def _items(entries: list[Entry]) -> list[Listed]:
    return [Listed(item=each.name, score=each.score, known=each.known) for each in entries]


# --- errors


def _handler(status: int) -> Any:
    async def handle(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status_code=status)

    return handle


async def _unexpected(_: Request, __: Exception) -> JSONResponse:
    return JSONResponse({"detail": "internal error."}, status_code=500)


async def _invalid(_: Request, error: Any) -> JSONResponse:
    """Say what is wrong with a body, without its values: they may be data of customers."""
    first = error.errors()[0]
    place = ".".join(str(step) for step in first["loc"] if isinstance(step, int | str))
    # Names of users are keys of `exclude`; only the first steps are shown.
    place = ".".join(place.split(".")[:2])
    return JSONResponse({"detail": f"{place}: {first['msg']}"}, status_code=422)
