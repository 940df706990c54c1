#!/usr/bin/env python3
"""Stands in for a service: it says what it would ask for, and has a generation for each set of versions it finds."""

import json
import os
import signal
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer

public, admin = os.environ["FAKE_PUBLIC"], os.environ["FAKE_ADMIN"]
credentials = [
    {"name": "database", "id": "elsewhere/database", "kind": "login", "optional": False},
    {"name": "reports", "id": "fake/reports", "kind": "login", "optional": True},
    {"name": "signing", "id": "fake/signing", "kind": "signing_keys", "optional": False},
    {"name": "webhook", "id": "fake/webhook", "kind": "api_key", "optional": True},
    {"name": "migrator", "id": "fake/migrator", "kind": "login", "optional": False},
]
held = {c["name"]: {"name": c["name"], "id": c["id"]} for c in credentials if c["name"] != "migrator"}
generation = 0
hung_up = True
failing = False
stalled_until = 0


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
        return json.load(urllib.request.urlopen(request))["VersionId"]
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise


def take_up(stage):
    global generation
    versions = {name: find(one["id"], stage) for name, one in held.items()}
    changed = any(version not in (None, held[name].get("version")) for name, version in versions.items())
    for name, version in versions.items():
        if version:
            held[name] |= {"version": version, "stage": stage.removeprefix("AWS").lower()}
    generation += changed


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, body=b""):
        self.rfile.read(int(self.headers.get("content-length", 0)))
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
            take_up("AWSCURRENT")
        elif "FAKE_EAGER" in os.environ:
            take_up("AWSPENDING")
        status = {"pid": os.getpid(), "generation": generation, "credentials": list(held.values())}
        self.answer(200, json.dumps(status).encode())


class Public(Handler):
    def do_GET(self, status=200):
        time.sleep(max(0, stalled_until - time.monotonic()))
        self.answer(503 if failing else status)

    def do_POST(self):
        self.do_GET(201)


def on(name, handle):
    signal.signal(name, lambda *_: globals().update(handle()))


match sys.argv[1:]:
    case ["audit", "--of", url]:
        versions = [find(credential["id"], "AWSCURRENT") for credential in credentials]
        print(f"audited {url}", all(versions), *(name for name in os.environ if name.startswith("PG")))
        sys.exit(69)
    case ["config", "--json"]:
        settings = {"server": {"listen": public}, "admin": {"listen": admin}, "database": {"name": "fake"}}
        print(json.dumps({"settings": settings, "credentials": credentials}))
    case ["migrate"]:
        print("migrated", os.environ["APP_DATABASE__NAME"], file=sys.stderr)
    case ["serve"]:
        foreign = [name for name in os.environ if name.startswith("PG") or name == "AWS_PROFILE"]
        print("serving", os.environ["APP_TELEMETRY__FORMAT"], foreign, "APP_SECRETS__PREFIX" in os.environ, flush=True)
        on(signal.SIGHUP, lambda: {"hung_up": True})
        on(signal.SIGUSR1, lambda: {"failing": not failing})
        on(signal.SIGUSR2, lambda: {"stalled_until": time.monotonic() + 1})
        stubborn = "FAKE_STUBBORN" in os.environ
        signal.signal(signal.SIGTERM, signal.SIG_IGN if stubborn else lambda *_: sys.exit(0))
        at = lambda address: (address.split(":")[0], int(address.split(":")[1]))
        threading.Thread(target=ThreadingHTTPServer(at(public), Public).serve_forever, daemon=True).start()
        HTTPServer(at(admin), Admin).serve_forever()
