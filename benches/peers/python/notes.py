"""The route of notes: lists them, newest first."""

import logging
from datetime import datetime
from http import HTTPStatus
from typing import Annotated
from uuid import UUID

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from psycopg import OperationalError
from psycopg.rows import class_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout
from pydantic import BaseModel, Field

from credentials import CredentialStore
from cursor import CursorError, open_cursor, seal_cursor

LIST = "SELECT id, body, created_at, created_by FROM notes WHERE id < %s ORDER BY id DESC LIMIT %s"
NEWEST = UUID(int=2**128 - 1)

logger = logging.getLogger(__name__)


class Note(BaseModel):
    """A note. Its id is a UUIDv7, so the order of ids is the order of creation."""

    id: UUID
    body: str
    created_at: datetime
    created_by: str | None = Field(exclude_if=lambda subject: subject is None)


class Page(BaseModel):
    """A page of the list."""

    notes: list[Note]
    next_cursor: str | None


def make_application(store: CredentialStore, pool: AsyncConnectionPool) -> FastAPI:
    """Makes the application with its route and its answers to errors."""
    application = FastAPI()

    @application.get("/v1/notes")
    async def list_notes(limit: Annotated[int, Query(ge=1, le=100)] = 20, cursor: str | None = None) -> Page:
        before = open_cursor(store.current, cursor) if cursor else NEWEST
        async with pool.connection() as connection, connection.cursor(row_factory=class_row(Note)) as rows:
            await rows.execute(LIST, (before, limit + 1))
            notes = await rows.fetchall()
        if len(notes) <= limit:
            return Page(notes=notes, next_cursor=None)
        return Page(notes=notes[:limit], next_cursor=seal_cursor(store.current, notes[limit - 1].id))

    @application.exception_handler(CursorError)
    async def bad_cursor(request: Request, error: Exception) -> JSONResponse:
        return problem(400, "`cursor` is not one of ours, or has expired: start again without it")

    @application.exception_handler(RequestValidationError)
    async def bad_request(request: Request, error: RequestValidationError) -> JSONResponse:
        return problem(400, "; ".join(one["msg"] for one in error.errors()))

    @application.exception_handler(OperationalError)
    async def no_database(request: Request, error: Exception) -> JSONResponse:
        logger.error("the database failed: %s", error)
        if not isinstance(error, PoolTimeout):
            # If the server has closed this connection, then perhaps others too: replaces them all at once. With the pool's
            # option `check`, one request would wait a second and longer before it looks at the next connection.
            await pool.check()
        return problem(503, "the database is not available; try again soon")

    return application


def problem(status: int, detail: str) -> JSONResponse:
    """Makes an answer with RFC 9457's description of a problem."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return JSONResponse(body, status, media_type="application/problem+json")
