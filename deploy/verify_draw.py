#!/usr/bin/env python3
"""Recomputes the draw of a waiting room from what is public: verify_draw.py draw.json [ticketId]

draw.json is what `GET /api/v1/schedules/{scheduleId}/queue/draw` answers. Prints the tickets in the
drawn order, or one ticket's place, from 1. A million tickets take about a minute."""
import hashlib, json, sys
from uuid import UUID

def sha(*parts):
    return hashlib.sha256(b"".join(parts)).digest()

draw = json.load(open(sys.argv[1]))
tickets = draw["tickets"]  # in the order of arrival
secret, beacon = bytes.fromhex(draw["secret"]), bytes.fromhex(draw.get("beacon") or "")
if sha(secret).hex() != draw["commitment"]:
    sys.exit("this is not the secret that was promised before the opening")
digest = sha(UUID(draw["scheduleId"]).bytes)
for number, ticket in enumerate(tickets):
    digest = sha(digest, number.to_bytes(4, "big"), UUID(ticket).bytes)
seed, n, order = sha(b"onsale draw 1", secret, digest, beacon), len(tickets), tickets[:]
for r in range(128):
    pivot = int.from_bytes(sha(seed, bytes([r]))[:8], "big") % max(n, 1)
    blocks = [sha(seed, bytes([r]), block.to_bytes(4, "big")) for block in range(n // 256 + 1)]
    bits = b"".join(blocks)
    for x in range(n):
        partner = (pivot - x) % n
        if partner < x and bits[x >> 3] >> (x & 7) & 1:
            order[x], order[partner] = order[partner], order[x]
if len(sys.argv) > 2:
    print(order.index(sys.argv[2]) + 1)
else:
    print("\n".join(order))
