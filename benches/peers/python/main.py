"""A service that the example is compared with: the same list of notes, in Python.

It fetches every credential before it listens. SIGHUP, a poll and a login that PostgreSQL rejects fetch them again. The
pool asks for the login at each new connection, and is drained after a new one. Unlike the example, it does not prove a
new login before it uses it.
"""

import asyncio
import contextlib
import logging
import os
import signal
import ssl
import sys

import uvicorn
import uvloop

from credentials import CredentialError, CredentialStore, load_tls
from database import make_pool
from notes import make_application

REFRESH_EVERY = 5 * 60

logger = logging.getLogger("service")


class Service:
    """The service: its credentials, and what uses them."""

    def __init__(self) -> None:
        self.with_tls = os.environ["TLS"] == "true"
        self.store = CredentialStore(os.environ["SECRETS_PREFIX"], self.with_tls)
        self.pool = make_pool(self.store)
        self.reload_wanted = asyncio.Event()
        self.tls = None

    async def run(self) -> None:
        """Serves until SIGTERM or SIGINT."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.reload_wanted.set)
        async with asyncio.timeout(30):
            await self.store.refresh()
            await self.pool.open(wait=True, timeout=20)
        if self.with_tls:
            self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.tls.verify_mode = ssl.CERT_REQUIRED
            load_tls(self.tls, self.store.current)
        host, port = os.environ["LISTEN"].rsplit(":", 1)
        server = uvicorn.Server(
            uvicorn.Config(
                make_application(self.store, self.pool),
                host=host,
                port=int(port),
                ssl_context_factory=(lambda *_: self.tls) if self.tls else None,
                timeout_graceful_shutdown=25,
                access_log=False,
                log_config=None,
            )
        )
        reloading = asyncio.create_task(self.reload_forever())
        try:
            await server.serve()
        finally:
            reloading.cancel()
            await self.pool.close()

    async def reload_forever(self) -> None:
        """Fetches the credentials again at each SIGHUP, and now and then. After a failure, goes on with those held."""
        login = self.store.current.login
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.reload_wanted.wait(), REFRESH_EVERY)
            self.reload_wanted.clear()
            try:
                await self.store.refresh()
                if self.tls:
                    load_tls(self.tls, self.store.current)
            except (CredentialError, ssl.SSLError) as error:
                logger.error("could not refresh the credentials; keeping those held: %s", error)
                continue
            if self.store.current.login != login:
                login = self.store.current.login
                await self.pool.drain()
                logger.info("took up a new login")


async def main() -> None:
    await Service().run()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        uvloop.run(main())
    except CredentialError as error:
        sys.exit(f"the service ends: {error}")
