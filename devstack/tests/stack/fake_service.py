#!/usr/bin/env python3
"""A fake service. It describes its credentials, and has a generation per set of versions that it finds.

FAKE_TLS: both listeners speak TLS; with "stale", always with the first certificate. FAKE_CLIENTS: they also ask their
clients for a certificate. FAKE_DATABASES: its sections [databases.SECTION], as JSON. FAKE_MIGRATORS: the credentials of
`migrate`. FAKE_EAGER: it loads AWSPENDING. FAKE_STUBBORN: it ignores SIGTERM.
"""

import json
import os
import signal
import ssl
import sys
import tempfile
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer

public, admin = os.environ["FAKE_PUBLIC"], os.environ["FAKE_ADMIN"]
prefix = os.environ.get("APP_SECRETS__PREFIX", "fake")
ids = {"database": "elsewhere/database", "webhook": f"{prefix}/hooks/webhook"}
ids |= {name: os.environ.get(f"APP_SECRETS__IDS__{name.upper()}", id) for name, id in ids.items()}
databases = json.loads(os.environ.get("FAKE_DATABASES", "{}"))
migrators = os.environ.get("FAKE_MIGRATORS", "migrator").split()


def credential(name, kind, optional=False):
    return {"name": name, "id": ids.get(name, f"{prefix}/{name}"), "kind": kind, "optional": optional}


credentials = [
    credential("database", "login"),
    credential("reports", "login", optional=True),
    credential("signing", "signing_keys"),
    credential("webhook", "api_key", optional=True),
    *(credential(name, "login") for name in migrators),
]
if "FAKE_TLS" in os.environ:
    credentials.append(credential("server_tls", "tls_identity"))
if "FAKE_CLIENTS" in os.environ:
    credentials.append(credential("client_ca", "client_ca"))
held = {c["name"]: {"name": c["name"], "id": c["id"]} for c in credentials if c["name"] not in migrators}
generation = 0
hung_up = True
failing = False
stalled_until = 0
tls = None


def find(secret, stage):
    scope = "test/20260101/eu-west-1/secretsmanager/aws4_request"
    request = urllib.request.Request(
        os.environ["AWS_ENDPOINT_URL"],
        json.dumps({"SecretId": secret, "VersionStage": stage}).encode(),
        {
            "content-type": "application/x-amz-json-1.1",
            "x-amz-target": "secretsmanager.GetSecretValue",
            "authorization": f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0",
        },
    )
    try:
        return json.load(urllib.request.urlopen(request))
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise


def load(stage):
    global generation
    found = {name: find(one["id"], stage) or {} for name, one in held.items()}
    versions = {name: one.get("VersionId") for name, one in found.items()}
    changed = any(version not in (None, held[name].get("version")) for name, version in versions.items())
    for name, version in versions.items():
        if version:
            held[name] |= {"version": version, "stage": stage.removeprefix("AWS").lower()}
    generation += changed
    if "FAKE_TLS" in os.environ and (tls is None or os.environ["FAKE_TLS"] != "stale"):
        serve_with(found["server_tls"]["SecretString"], found.get("client_ca", {}).get("SecretString"))


def serve_with(identity, authority):
    global tls
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile("w") as file:
        file.write("".join(json.loads(identity).values()))
        file.flush()
        context.load_cert_chain(file.name)
    if authority:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=authority)
    tls = context


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def read(self):
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def answer(self, status, body=b""):
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Admin(Handler):
    protocol_version = "HTTP/1.0"

    def do_GET(self):
        global hung_up
        if hung_up:
            hung_up = False
            load("AWSCURRENT")
        elif "FAKE_EAGER" in os.environ:
            load("AWSPENDING")
        status = {"pid": os.getpid(), "generation": generation, "credentials": list(held.values())}
        self.answer(200, json.dumps(status).encode())


class Public(Handler):
    def do_GET(self):
        self.answer_in_time(200 if self.path == "/v1/things?all=1" else 404)

    def do_POST(self):
        what = self.path, self.headers["content-type"], json.loads(self.read())
        known = what == ("/v1/thing", "application/json", {"is": "Bob's"})
        print("written to", flush=True)
        self.answer_in_time(201 if known else 404)

    def answer_in_time(self, status):
        time.sleep(max(0, stalled_until - time.monotonic()))
        self.answer(503 if failing else status)


def listen(server, address, handler):
    host, port = address.split(":")
    server = server((host, int(port)), handler)
    accept = server.get_request

    def accept_tls():
        connection, client = accept()
        # A context without a certificate fails each handshake. The handshake happens in the handler.
        broken = failing and handler is Public
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if broken else tls
        return context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), client

    if tls:
        server.get_request = accept_tls
    return server


def on(name, handle):
    signal.signal(name, lambda *_: globals().update(handle()))


match sys.argv[1:]:
    case ["audit", "--of", url]:
        versions = [find(credential["id"], "AWSCURRENT") for credential in credentials]
        print(f"audited {url}", all(versions), *(name for name in os.environ if name.startswith("PG")))
        print("profile", os.environ.get("APP_PROFILE"), os.environ.get("APP_SERVER__DRAIN"))
        sys.exit(69)
    case ["config", "--json"]:
        speaks = {"tls": True} if "FAKE_TLS" in os.environ else {}
        server, listener = {"listen": public} | speaks, {"listen": admin} | speaks
        database = {"host": "db.example", "port": 5432, "name": "fake"}
        settings = {"server": server, "admin": listener, "database": database, "databases": databases}
        settings["secrets"] = {"ids": ids}
        print(json.dumps({"settings": settings, "credentials": credentials}))
    case ["migrate"]:
        names = [os.environ[f"APP_DATABASES__{section.upper()}__NAME"] for section in databases]
        print("migrated", os.environ["APP_DATABASE__NAME"], *names, file=sys.stderr)
    case ["serve"]:
        foreign = [name for name in os.environ if name.startswith("PG") or name == "AWS_PROFILE"]
        print("serving", os.environ["APP_TELEMETRY__FORMAT"], foreign, "APP_SECRETS__PREFIX" in os.environ, flush=True)
        print("profile", os.environ.get("APP_PROFILE"), "audience", os.environ.get("APP_AUTH__AUDIENCE"), flush=True)
        on(signal.SIGHUP, lambda: {"hung_up": True})
        on(signal.SIGUSR1, lambda: {"failing": not failing})
        on(signal.SIGUSR2, lambda: {"stalled_until": time.monotonic() + 1})
        stubborn = "FAKE_STUBBORN" in os.environ
        signal.signal(signal.SIGTERM, signal.SIG_IGN if stubborn else lambda *_: sys.exit(0))
        hung_up = False
        load("AWSCURRENT")
        threading.Thread(target=listen(ThreadingHTTPServer, public, Public).serve_forever, daemon=True).start()
        listen(HTTPServer, admin, Admin).serve_forever()
