#!/usr/bin/env python3
"""Recomputes the draw of a waiting room from what is public:

    verify_draw.py https://HOST/api/v1/schedules/SCHEDULE/queue/draw [ticketId]

Prints the tickets in the drawn order, or one ticket's place, from 1. A million tickets take about a minute."""
import hashlib, json, sys, time, urllib.request
from uuid import UUID

def sha(*parts):
    return hashlib.sha256(b"".join(parts)).digest()

def get(url):
    for wait in 1, 2, 4, 8, 16, None:  # a page is refused while too many others are read
        try:
            return json.load(urllib.request.urlopen(url, timeout=60))
        except urllib.error.HTTPError as error:
            if error.code not in (429, 503) or wait is None:
                raise
            time.sleep(wait)

draw, tickets, page = get(sys.argv[1]), [], 0
if "secret" not in draw:
    sys.exit("nothing was drawn: the state is " + draw["state"])
while page is not None:
    answer = get(f"{sys.argv[1]}/tickets?from={page}")
    tickets, page = tickets + answer["ticketIds"], answer.get("next")  # in the order of arrival
secret, beacon = bytes.fromhex(draw["secret"]), bytes.fromhex(draw.get("beacon", ""))
digest = sha(UUID(draw["scheduleId"]).bytes)
for number, ticket in enumerate(tickets):
    digest = sha(digest, number.to_bytes(4, "big"), UUID(ticket).bytes)
seed, n, order = sha(b"onsale draw 1", secret, digest, beacon), len(tickets), tickets[:]
for name, found in ("commitment", sha(secret)), ("digest", digest), ("seed", seed):
    if draw[name] != found.hex():
        sys.exit(f"the {name} that was published is not the one that was computed")
if len(sys.argv) > 2 and sys.argv[2].lower() not in tickets:
    sys.exit("this ticket was not drawn: it was not in the lobby")
for r in range(128):
    pivot = int.from_bytes(sha(seed, bytes([r]))[:8], "big") % max(n, 1)
    blocks = [sha(seed, bytes([r]), block.to_bytes(4, "big")) for block in range(n // 256 + 1)]
    bits = b"".join(blocks)
    for x in range(n):
        partner = (pivot - x) % n
        if partner < x and bits[x >> 3] >> (x & 7) & 1:
            order[x], order[partner] = order[partner], order[x]
if "beacon" in draw:
    print("left to you: that", draw["beaconName"], "said this after", draw["closedAt"] + ":", draw["beacon"], file=sys.stderr)
print(order.index(sys.argv[2].lower()) + 1 if len(sys.argv) > 2 else "\n".join(order))
