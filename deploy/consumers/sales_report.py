#!/usr/bin/env python3
"""A webhook subscriber that keeps a sales report; it needs nothing but Python's standard library.

    WEBHOOK_SECRET=whsec_... python3 sales_report.py --listen 127.0.0.1:9000 --database report.db

Make the subscriber by `POST /api/v1/admin/webhooks {"url": "http://127.0.0.1:9000/"}`; the answer has
the secret. While a secret is replaced, name both with a space between them. `GET /report` shows the
report, by date: seats that are sold now and those that were cancelled, what was paid (`gross`), what
of it went back (`refunded`), and what of the rest is fees of cancellations (`fees`), in won.

What it counts, and what it has counted, change in one transaction, before it answers. So it may be
killed at any moment: a delivery that was not answered comes again, and is known if it was counted.
Facts of a date's seats, and of its money, are numbered without a gap (`aggregateSeq`), for good: by
that it knows them. What this subscriber gets is numbered, too (`sequence`). A gap in either says
that facts were lost, and so does a delivery that it can't read: `gaps` counts these, and each has a
line on standard error.

Only what it has seen from the beginning is counted: the cancellation of a sale from before it
subscribed takes nothing away.
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
# Seconds since 1970 have ten digits until the year 2286. Far more of them are no number to count with.
TIMESTAMP_DIGITS_MAX = 12
BODY_BYTES_MAX = 16 * 1024 * 1024

TABLES = """
CREATE TABLE IF NOT EXISTS position (one INTEGER PRIMARY KEY CHECK (one = 1), sequence INTEGER);
CREATE TABLE IF NOT EXISTS seen (topic TEXT, aggregate TEXT, seq INTEGER,
                                 PRIMARY KEY (topic, aggregate));
CREATE TABLE IF NOT EXISTS gap (at TEXT);
-- Seats of a reservation that are held or, once it is sold, not cancelled.
CREATE TABLE IF NOT EXISTS seat (reservation TEXT, seat INTEGER, is_sold INTEGER DEFAULT 0,
                                 PRIMARY KEY (reservation, seat));
CREATE TABLE IF NOT EXISTS paid (reservation TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS date (schedule TEXT PRIMARY KEY, seats_sold INTEGER DEFAULT 0,
                                 seats_cancelled INTEGER DEFAULT 0, gross INTEGER DEFAULT 0,
                                 refunded INTEGER DEFAULT 0, fees INTEGER DEFAULT 0);
"""


def keys(text):
    """The keys of secrets as Standard Webhooks writes them: 24 to 64 bytes each."""
    found = []
    for one in text.split():
        try:
            if not one.startswith("whsec_"):
                raise ValueError
            key = base64.b64decode(one.removeprefix("whsec_"), validate=True)
            if not 24 <= len(key) <= 64:
                raise ValueError
        except ValueError:
            sys.exit("WEBHOOK_SECRET is not whsec_ and 24 to 64 bytes in base64")
        found.append(key)
    if not found:
        sys.exit("WEBHOOK_SECRET is not set")
    return found


def is_genuine(secrets, headers, body):
    """Whether one of the secrets has signed it, and not long ago."""
    name, sent = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not name or "." in name or not (sent.isascii() and sent.isdigit()):
        return False
    if len(sent) > TIMESTAMP_DIGITS_MAX:
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


def add(db, schedule, **numbers):
    """Adds to the numbers of a date."""
    db.execute("INSERT OR IGNORE INTO date (schedule) VALUES (?)", (schedule,))
    changes = ", ".join(f"{name} = {name} + ?" for name in numbers)
    db.execute(f"UPDATE date SET {changes} WHERE schedule = ?", (*numbers.values(), schedule))


def learn_of_seats(db, schedule, fact):
    """Counts one fact about seats. A kind that is not known says nothing about sales."""
    kind = fact.get("type")
    if kind in ("Held", "Reheld"):
        hold = fact["hold"]
        # A payment that came late was given the seats after all.
        sold = int(kind == "Reheld")
        db.executemany(
            "INSERT OR REPLACE INTO seat VALUES (?, ?, ?)",
            [(hold["reservationId"], int(seat), sold) for seat in hold["seats"]],
        )
        if sold:
            add(db, schedule, seats_sold=len(hold["seats"]))
    elif kind == "Sold":
        # One that was held before this subscriber was there is not known.
        sold = db.execute(
            "UPDATE seat SET is_sold = 1 WHERE reservation = ? AND is_sold = 0",
            (fact["reservationId"],),
        ).rowcount
        add(db, schedule, seats_sold=sold)
    elif kind == "Ended":
        db.execute(
            "DELETE FROM seat WHERE reservation = ? AND is_sold = 0", (fact["reservationId"],)
        )
    elif kind == "Cancelled":
        # Only what was paid for is cancelled; that it was sold may be told afterwards.
        given_up = [
            (fact["reservationId"], int(seat), is_sold)
            for seat in fact["seats"]
            for is_sold in (0, 1)
        ]
        gone = {0: 0, 1: 0}
        for key in given_up:
            gone[key[2]] += db.execute(
                "DELETE FROM seat WHERE reservation = ? AND seat = ? AND is_sold = ?", key
            ).rowcount
        add(db, schedule, seats_sold=-gone[1], seats_cancelled=gone[0] + gone[1])


def learn_of_money(db, schedule, fact):
    """Counts one fact about the money of a reservation."""
    kind, reservation = fact.get("type"), fact["reservationId"]
    if kind == "Paid":
        db.execute("INSERT OR IGNORE INTO paid VALUES (?)", (reservation,))
        add(db, schedule, gross=fact["amount"]["amount"])
    elif kind == "Cancelled":
        # Counted where its payment was. `Refunded` only says that this has been done.
        known = db.execute("SELECT 1 FROM paid WHERE reservation = ?", (reservation,)).fetchone()
        if known:
            refunded, fee = fact["refunded"]["amount"], fact["fee"]["amount"]
            add(db, schedule, refunded=refunded, fees=fee)


def note_gap(db, what):
    print(what, file=sys.stderr, flush=True)
    db.execute("INSERT INTO gap VALUES (?)", (what,))


def is_new(db, delivery):
    """Whether a delivery was not counted before. Says what is missing before it."""
    topic, aggregate, seq = delivery["type"], delivery["aggregateId"], int(delivery["aggregateSeq"])
    sequence = int(delivery["sequence"])
    row = db.execute(
        "SELECT seq FROM seen WHERE topic = ? AND aggregate = ?", (topic, aggregate)
    ).fetchone()
    if row and seq <= row[0]:
        return False
    if row and seq > row[0] + 1:
        note_gap(db, f"{topic} {aggregate}: facts are missing before {seq}")
    db.execute("INSERT OR REPLACE INTO seen VALUES (?, ?, ?)", (topic, aggregate, seq))
    (last,) = db.execute("SELECT max(sequence) FROM position").fetchone()
    # A subscriber that was made anew begins at 1 again.
    if last is not None and sequence > last + 1:
        note_gap(db, f"facts are missing before sequence {sequence}")
    db.execute("INSERT OR REPLACE INTO position VALUES (1, ?)", (sequence,))
    return True


def count(db, delivery):
    topic, data = delivery["type"], delivery["data"]
    if data is None:
        raise ValueError("the sender could not read its facts")
    for fact in data["facts"]:
        if topic == "seats":
            learn_of_seats(db, delivery["aggregateId"], fact)
        elif topic == "payments":
            learn_of_money(db, delivery["aggregateId"], fact)


def take(db, body):
    """Counts a delivery, unless it was counted before. All of it in one transaction. What can't be
    read is a gap: that it comes again would not help."""
    unreadable = (AttributeError, KeyError, TypeError, ValueError)
    db.execute("BEGIN IMMEDIATE")
    try:
        try:
            delivery = json.loads(body)
            if is_new(db, delivery):
                db.execute("SAVEPOINT facts")
                try:
                    count(db, delivery)
                except unreadable as error:
                    db.execute("ROLLBACK TO facts")
                    note_gap(db, f"{delivery['id']} can't be read: {error!r}")
        except unreadable as error:
            note_gap(db, f"a delivery can't be read: {error!r}")
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        raise


def report(db):
    columns = "schedule, seats_sold, seats_cancelled, gross, refunded, fees"
    names = ("scheduleId", "seatsSold", "seatsCancelled", "gross", "refunded", "fees")
    rows = db.execute(f"SELECT {columns} FROM date ORDER BY schedule").fetchall()
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
            take(self.server.db, body)
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
