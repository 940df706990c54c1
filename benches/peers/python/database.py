"""The pool of connections."""

import logging
import os
from typing import Any

from psycopg import AsyncConnection, OperationalError
from psycopg_pool import AsyncConnectionPool

from credentials import CredentialError, CredentialStore, Login

MAX_CONNECTIONS = 10

logger = logging.getLogger(__name__)


def make_pool(store: CredentialStore) -> AsyncConnectionPool:
    """Makes a pool whose connections log in as the store says at that moment."""

    class Connection(AsyncConnection):
        """A connection that fetches the login again, and tries once more, if PostgreSQL rejects it."""

        @classmethod
        async def connect(cls, conninfo: str = "", **kwargs: Any) -> "Connection":
            try:
                return await super().connect(conninfo, **kwargs)
            except OperationalError as error:
                # libpq has no code for this.
                if "password authentication failed" not in str(error):
                    raise
                try:
                    is_other = await store.refresh_rejected(Login(kwargs["user"], kwargs["password"]))
                except CredentialError as reason:
                    logger.error("could not refresh the credentials; keeping those held: %s", reason)
                    raise error from None
                if not is_other:
                    raise
                return await super().connect(conninfo, **{**kwargs, **login()})

    def login() -> dict[str, str]:
        return {"user": store.current.login.username, "password": store.current.login.password}

    def parameters() -> dict[str, Any]:
        return {
            "host": os.environ["DATABASE_HOST"],
            "port": os.environ["DATABASE_PORT"],
            "dbname": os.environ["DATABASE_NAME"],
            "sslmode": "disable",
            "connect_timeout": 5,
            "autocommit": True,
            **login(),
        }

    return AsyncConnectionPool(
        connection_class=Connection,
        # The pool calls this for each new connection.
        kwargs=parameters,
        min_size=MAX_CONNECTIONS,
        max_size=MAX_CONNECTIONS,
        timeout=10,
        open=False,
    )
