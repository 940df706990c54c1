"""The credentials of the service, and the store that fetches them."""

import asyncio
import base64
import binascii
import json
import logging
import os
import ssl
import time
from dataclasses import dataclass, field

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

# Rejected logins fetch the credentials no more often than this, in seconds.
REJECTED_EVERY = 1.0

logger = logging.getLogger(__name__)


class CredentialError(Exception):
    """A reason why the credentials could not be loaded. It never quotes a secret."""


@dataclass(frozen=True)
class Login:
    """A login at the database."""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True)
class SigningKey:
    """A key for cursors. Its id is the id of its version."""

    id: str
    key: bytes = field(repr=False)


@dataclass(frozen=True)
class Credentials:
    """All credentials of the service, of one moment."""

    login: Login
    signing: SigningKey
    previous_key: SigningKey | None
    webhook: str = field(repr=False)
    tls: tuple[str, str, str] | None = field(repr=False)


@dataclass(frozen=True)
class Secret:
    """The value of a secret, and the id of its version."""

    text: str = field(repr=False)
    version: str


class CredentialStore:
    """Fetches the credentials, and has the newest ones."""

    current: Credentials

    def __init__(self, prefix: str, with_tls: bool) -> None:
        self._prefix = prefix
        self._with_tls = with_tls
        self._refreshing = asyncio.Lock()
        self._refreshed_at = 0.0
        config = Config(connect_timeout=2, read_timeout=5, retries={"mode": "standard", "total_max_attempts": 3})
        # A client of boto3 may be used by several threads. By itself, it does not read AWS_REGION.
        self._client = boto3.client("secretsmanager", region_name=os.environ["AWS_REGION"], config=config)

    async def refresh(self) -> None:
        """Fetches all credentials at the same time."""
        async with self._refreshing:
            await self._refresh()

    async def refresh_rejected(self, rejected: Login) -> bool:
        """Fetches all credentials because PostgreSQL rejected this login. Returns True if there is another one now."""
        async with self._refreshing:
            if self.current.login == rejected and time.monotonic() - self._refreshed_at >= REJECTED_EVERY:
                await self._refresh()
            return self.current.login != rejected

    async def _refresh(self) -> None:
        self._refreshed_at = time.monotonic()
        login, signing, previous, webhook, tls = await asyncio.gather(
            self._fetch("database"),
            self._fetch("signing"),
            self._fetch_previous("signing"),
            self._fetch("webhook"),
            self._fetch_tls(),
        )
        self.current = Credentials(
            login=read_login(login),
            signing=read_signing_key(signing),
            previous_key=read_previous_key(previous),
            webhook=webhook.text,
            tls=tls,
        )

    async def _fetch(self, name: str, stage: str = "AWSCURRENT") -> Secret:
        try:
            answer = await asyncio.to_thread(
                self._client.get_secret_value, SecretId=f"{self._prefix}/{name}", VersionStage=stage
            )
        except (BotoCoreError, ClientError) as error:
            raise CredentialError(f"could not fetch the secret `{name}`: {error}") from error
        return Secret(answer.get("SecretString", ""), answer["VersionId"])

    async def _fetch_previous(self, name: str) -> Secret | None:
        try:
            return await self._fetch(name, "AWSPREVIOUS")
        except CredentialError as error:
            if isinstance(error.__cause__, self._client.exceptions.ResourceNotFoundException):
                return None
            raise

    async def _fetch_tls(self) -> tuple[str, str, str] | None:
        if not self._with_tls:
            return None
        identity, client_ca = await asyncio.gather(self._fetch("server_tls"), self._fetch("client_ca"))
        try:
            pair = json.loads(identity.text)
            return pair["certificate"], pair["private_key"], client_ca.text
        except (ValueError, TypeError, KeyError):
            raise CredentialError("the secret `server_tls` is not the JSON of a certificate and its key") from None


def read_login(secret: Secret) -> Login:
    """Reads the JSON that RDS writes."""
    try:
        login = json.loads(secret.text)
        return Login(login["username"], login["password"])
    except (ValueError, TypeError, KeyError):
        # The error of the parser would quote the secret.
        raise CredentialError("the secret `database` is not the JSON of a login") from None


def read_signing_key(secret: Secret) -> SigningKey:
    """Reads base64 of at least 32 bytes."""
    try:
        key = base64.b64decode(secret.text, validate=True)
    except binascii.Error:
        key = b""
    if len(key) < 32:
        raise CredentialError("the secret `signing` is not base64 of at least 32 bytes")
    return SigningKey(secret.version, key)


def read_previous_key(secret: Secret | None) -> SigningKey | None:
    """Reads the key before the current one. A key that was never good has signed nothing: it counts as none."""
    try:
        return read_signing_key(secret) if secret else None
    except CredentialError as error:
        logger.warning("the previous signing key is of no use: %s", error)
        return None


def load_tls(context: ssl.SSLContext, credentials: Credentials) -> None:
    """Gives a context the certificate and the authorities of clients, for connections from now on."""
    certificate, private_key, client_ca = credentials.tls
    # The module ssl reads a certificate and its key only from a file. This one is in memory, and nobody else sees it.
    file = os.memfd_create("identity")
    try:
        os.write(file, f"{certificate}\n{private_key}".encode())
        context.load_cert_chain(f"/proc/self/fd/{file}")
    finally:
        os.close(file)
    context.load_verify_locations(cadata=client_ca)
