#!/usr/bin/env python3
"""A webhook subscriber that keeps a sales report; it needs nothing but Python's standard library.

    WEBHOOK_SECRET=whsec_... python3 sales_report.py --listen 127.0.0.1:9000 --database report.db

Make the subscriber by `POST /api/v1/admin/webhooks {"url": "http://127.0.0.1:9000/"}`; the answer has
the secret. While a secret is replaced, name both with a space between them. `GET /report` shows the
report, by date: seats that are sold, what was paid for them, and what of it was cancelled.

What it counts, and what it has counted, change in one transaction, before it answers. So it may be
killed at any moment: a delivery that was not answered comes again, and is known if it was counted.
Facts of a date are numbered without a gap (`aggregateSeq`), for good: by that it knows them. What
this subscriber gets is numbered, too (`sequence`): a gap in that says that facts were lost.
"""

import argparse
import base64
import hashlib
import hmac
import json
import os
import sqlite3
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOLERANCE_S = 300
BODY_BYTES_MAX = 16 * 1024 * 1024

TABLES = """
CREATE TABLE IF NOT EXISTS position (one INTEGER PRIMARY KEY CHECK (one = 1), sequence INTEGER);
CREATE TABLE IF NOT EXISTS seen (topic TEXT, aggregate TEXT, seq INTEGER,
                                 PRIMARY KEY (topic, aggregate));
CREATE TABLE IF NOT EXISTS gap (sequence INTEGER);
CREATE TABLE IF NOT EXISTS held (reservation TEXT PRIMARY KEY, seats INTEGER, total INTEGER);
CREATE TABLE IF NOT EXISTS sales (schedule TEXT PRIMARY KEY, seats_sold INTEGER DEFAULT 0,
                                  revenue INTEGER DEFAULT 0, seats_cancelled INTEGER DEFAULT 0);
"""


def keys(text):
    """The keys of secrets as Standard Webhooks writes them."""
    found = [base64.b64decode(one.removeprefix("whsec_")) for one in text.split()]
    if not found:
        sys.exit("WEBHOOK_SECRET is not set")
    return found


def is_genuine(secrets, headers, body):
    """Whether one of the secrets has signed it, and not long ago."""
    name, sent = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not name or "." in name or not (sent.isascii() and sent.isdigit()):
        return False
    if abs(time.time() - int(sent)) > TOLERANCE_S:
        return False
    signed = f"{name}.{sent}.".encode() + body
    given = [
        one.removeprefix("v1,").encode()
        for one in headers.get("webhook-signature", "").split()
        if one.startswith("v1,")
    ]
    genuine = False
    for key in secrets:
        expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest())
        for one in given:
            genuine |= hmac.compare_digest(expected, one)
    return genuine


def learn(db, schedule, fact):
    """Counts one fact. A kind that is not known says nothing about sales."""

    def sold(seats, total):
        db.execute(
            "INSERT INTO sales (schedule, seats_sold, revenue) VALUES (?, ?, ?) "
            "ON CONFLICT DO UPDATE SET seats_sold = seats_sold + excluded.seats_sold, "
            "revenue = revenue + excluded.revenue",
            (schedule, seats, total),
        )

    kind = fact.get("type")
    if kind in ("Held", "Reheld"):
        hold = fact["hold"]
        seats, total = len(hold["seats"]), hold["total"]["amount"]
        if kind == "Reheld":
            sold(seats, total)
        else:
            db.execute(
                "INSERT OR REPLACE INTO held VALUES (?, ?, ?)",
                (hold["reservationId"], seats, total),
            )
    elif kind in ("Sold", "Ended"):
        row = db.execute(
            "DELETE FROM held WHERE reservation = ? RETURNING seats, total",
            (fact["reservationId"],),
        ).fetchone()
        if kind == "Sold" and row:
            sold(*row)
    elif kind == "Cancelled":
        seats = len(fact["seats"])
        db.execute(
            "UPDATE sales SET seats_sold = seats_sold - ?, seats_cancelled = seats_cancelled + ? "
            "WHERE schedule = ?",
            (seats, seats, schedule),
        )


def take(db, delivery):
    """Counts a delivery, unless it was counted before. All of it in one transaction."""
    topic, aggregate, seq = delivery["type"], delivery["aggregateId"], delivery["aggregateSeq"]
    sequence = delivery["sequence"]
    db.execute("BEGIN IMMEDIATE")
    try:
        counted = db.execute(
            "INSERT INTO seen VALUES (?, ?, ?) "
            "ON CONFLICT DO UPDATE SET seq = excluded.seq WHERE excluded.seq > seq",
            (topic, aggregate, seq),
        ).rowcount
        if counted:
            (last,) = db.execute("SELECT max(sequence) FROM position").fetchone()
            # A subscriber that was made anew begins at 1 again.
            if last is not None and sequence > last + 1:
                print(f"facts are missing before sequence {sequence}", file=sys.stderr)
                db.execute("INSERT INTO gap VALUES (?)", (sequence,))
            db.execute("INSERT OR REPLACE INTO position VALUES (1, ?)", (sequence,))
        if counted and topic == "seats":
            for fact in delivery["data"]["facts"]:
                learn(db, aggregate, fact)
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        raise


def report(db):
    columns = "schedule, seats_sold, revenue, seats_cancelled"
    names = ("scheduleId", "seatsSold", "revenue", "seatsCancelled")
    rows = db.execute(f"SELECT {columns} FROM sales ORDER BY schedule").fetchall()
    (sequence,) = db.execute("SELECT coalesce(max(sequence), 0) FROM position").fetchone()
    (gaps,) = db.execute("SELECT count(*) FROM gap").fetchone()
    schedules = [dict(zip(names, row)) for row in rows]
    return {"sequence": sequence, "gaps": gaps, "schedules": schedules}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # A connection that says nothing for so long is closed.
    timeout = 60

    def do_POST(self):
        try:
            length = int(self.headers.get("content-length", ""))
        except ValueError:
            return self.answer(411)
        if not 0 <= length <= BODY_BYTES_MAX:
            self.close_connection = True
            return self.answer(413)
        body = self.rfile.read(length)
        # Nothing of it is read before it is known who has sent it.
        if not is_genuine(self.server.secrets, self.headers, body):
            return self.answer(401)
        with self.server.lock:
            take(self.server.db, json.loads(body))
        self.answer(204)

    def do_GET(self):
        if self.path != "/report":
            return self.answer(404)
        with self.server.lock:
            body = json.dumps(report(self.server.db)).encode()
        self.answer(200, body)

    def answer(self, status, body=b""):
        self.send_response(status)
        if status != 204:
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def main():
    parser = argparse.ArgumentParser(description="A webhook subscriber that keeps a sales report.")
    parser.add_argument("--listen", default="127.0.0.1:9000", help="address and port")
    parser.add_argument("--database", default="report.db", help="file of the report")
    arguments = parser.parse_args()
    secrets = keys(os.environ.get("WEBHOOK_SECRET", ""))
    db = sqlite3.connect(arguments.database, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.executescript(TABLES)
    host, _, port = arguments.listen.rpartition(":")
    server = ThreadingHTTPServer((host, int(port)), Handler)
    server.daemon_threads = True
    server.secrets, server.db, server.lock = secrets, db, threading.Lock()
    print(f"listening on {host}:{server.server_address[1]}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
