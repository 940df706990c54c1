#!/usr/bin/env python3
"""Stands in for a service: it says what it would ask for, and counts a generation for each SIGHUP."""

import json
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

public, admin = os.environ["FAKE_PUBLIC"], os.environ["FAKE_ADMIN"]
credentials = [
    {"name": "database", "id": "elsewhere/database", "kind": "login", "optional": False},
    {"name": "reports", "id": "fake/reports", "kind": "login", "optional": True},
    {"name": "signing", "id": "fake/signing", "kind": "signing_keys", "optional": False},
    {"name": "webhook", "id": "fake/webhook", "kind": "api_key", "optional": True},
    {"name": "migrator", "id": "fake/migrator", "kind": "login", "optional": False},
]
generation = 1


def hang_up(*_):
    global generation
    generation += 1


class Admin(BaseHTTPRequestHandler):
    def do_GET(self):
        held = [{"name": c["name"], "id": c["id"]} for c in credentials if c["name"] != "migrator"]
        body = json.dumps({"pid": os.getpid(), "generation": generation, "credentials": held}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


match sys.argv[1:]:
    case ["config", "--json"]:
        settings = {"server": {"listen": public}, "admin": {"listen": admin}, "database": {"name": "fake"}}
        print(json.dumps({"settings": settings, "credentials": credentials}))
    case ["migrate"]:
        print("migrated", os.environ["APP_DATABASE__NAME"], file=sys.stderr)
    case ["serve"]:
        foreign = [name for name in os.environ if name.startswith("PG") or name == "AWS_PROFILE"]
        print("serving", os.environ["APP_TELEMETRY__FORMAT"], foreign, "APP_SECRETS__PREFIX" in os.environ, flush=True)
        signal.signal(signal.SIGHUP, hang_up)
        stubborn = "FAKE_STUBBORN" in os.environ
        signal.signal(signal.SIGTERM, signal.SIG_IGN if stubborn else lambda *_: sys.exit(0))
        host, port = admin.split(":")
        HTTPServer((host, int(port)), Admin).serve_forever()
