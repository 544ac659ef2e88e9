// The API as a k6 script calls it. One call is one answer, also when the outcome was still open
// (202) and had to be looked up. Errors of the server are counted; nothing is tried again.

import http from 'k6/http';
import { check, fail, sleep } from 'k6';
import { Counter } from 'k6/metrics';

/** Answers of 500 and above, 503 too. */
export const serverErrors = new Counter('server_errors');

// Statuses are judged by checks, so none of them makes `http_req_failed`.
http.setResponseCallback(http.expectedStatuses({ min: 200, max: 499 }));

/** What `onsale up --json` prints, if a system runs here; `BASE_URL` names another one. */
const up = __ENV.ONSALE_UP ? JSON.parse(__ENV.ONSALE_UP) : {};

const origin = (__ENV.BASE_URL || up.api || 'http://127.0.0.1:8080').replace(/\/+$/, '');

/** The simulated payment gateway, if there is one; `GATEWAY_URL` names another one. */
const gateway = (__ENV.GATEWAY_URL || up.gateway || '').replace(/\/+$/, '');

/** The schedules of the demo catalogue (`onsale seed`); their ids are the same everywhere. */
export const schedules = {
  hall: '01900000-0000-7000-8000-000000000010',
  stadium: '01900000-0000-7000-8000-000000000012',
  club: '01900000-0000-7000-8000-000000000014',
};

/** A new idempotency key. */
export function newKey() {
  return `k6-${Date.now().toString(36)}-${Math.random().toString(36).slice(2)}`;
}

/** One entry for `http.batch`, and for `call`. `name` keeps ids out of the metrics' tags. */
export function request(method, path, { token, key, body, name } = {}) {
  const headers = { 'content-type': 'application/json' };
  if (token) headers.authorization = `Bearer ${token}`;
  if (key) headers['idempotency-key'] = key;
  const params = { headers, tags: { name: `${method} ${name || path}` }, timeout: '30s' };
  const url = path.startsWith('http') ? path : `${origin}/api/v1${path}`;
  return { method, url, body: body === undefined ? null : JSON.stringify(body), params };
}

/** Sends it; `{status, body}` as it was in the end. */
export function call(method, path, options = {}) {
  const { url, body, params } = request(method, path, options);
  return settle(http.request(method, url, body, params), options.token);
}

/** What a buyer does on the gateway's page; the payment's key. */
export function agree(orderId, amount) {
  if (!gateway) fail('no payment gateway: name a simulated one in GATEWAY_URL');
  const wish = request('POST', `${gateway}/v1/checkout`, {
    body: { orderId, amount },
    name: 'gateway /v1/checkout',
  });
  const answer = http.post(wish.url, wish.body, wish.params);
  return expect(noted(answer.status, parsed(answer)), 200, 'agree at the gateway').paymentKey;
}

/**
 * The answer behind a response: a 202 is looked up until its command is decided, or the order that
 * it leads to has ended.
 */
export function settle(response, token) {
  let answer = response;
  for (let round = 0; answer.status === 202; round += 1) {
    if (round > 30) fail(`${response.url}: still open after ${round} look-ups`);
    sleep(1);
    const location = response.headers.Location;
    const isOrder = location.includes('/payment-orders/');
    const name = isOrder ? '/payment-orders/{id}' : '/commands/{token}';
    const look = request('GET', `${origin}${location}`, { token, name });
    answer = http.get(look.url, look.params);
    const found = answer.status === 200 ? answer.json() : null;
    if (found && !isOrder) return noted(found.status, found.body);
    if (found) {
      // A charge by card is an order, too, and answered with the charge.
      if (found.status === 'PAID') return noted(found.charge ? 201 : 200, found.charge || found);
      if (['FAILED', 'REFUNDED'].includes(found.status)) return noted(402, found);
      answer = response;
    }
  }
  return noted(answer.status, parsed(answer));
}

function noted(status, body) {
  if (status >= 500 || status === 0) serverErrors.add(1);
  return { status, body: body === undefined ? null : body };
}

function parsed(response) {
  try {
    return response.body ? response.json() : null;
  } catch (_) {
    return null;
  }
}

/** Checks that an answer has a status; shows it when not. */
export function expect(answer, status, what) {
  const ok = check(answer, { [`${what}: ${status}`]: (a) => a.status === status });
  if (!ok) console.error(`${what}: ${answer.status} ${JSON.stringify(answer.body)}`);
  return ok ? answer.body : fail(`${what} failed`);
}

/** Signs up, unless the account is there, and in; the access token. */
export function signIn(email, password, name) {
  const made = call('POST', '/users', { key: newKey(), body: { email, name, password } });
  if (made.status !== 201 && made.status !== 409) expect(made, 201, 'sign up');
  const session = call('POST', '/sessions', { body: { email, password } });
  return expect(session, 201, 'sign in').accessToken;
}

/** The map of a schedule: `{version, remaining, seats}`. */
export function seatMap(schedule) {
  const options = { name: '/schedules/{id}/seats' };
  return expect(call('GET', `/schedules/${schedule}/seats`, options), 200, 'map');
}

/** Groups of `size` available seats side by side: at most `count`, as labels and seat numbers. */
export function sideBySide(schedule, size, count) {
  const options = { name: '/schedules/{id}/layout' };
  const layout = expect(call('GET', `/schedules/${schedule}/layout`, options), 200, 'layout');
  const { seats } = seatMap(schedule);
  const found = [];
  for (const row of layout.sections.flatMap((section) => section.rows)) {
    for (let at = 0; at + size <= row.seats.length; at += 1) {
      const group = row.seats.slice(at, at + size);
      if (group.every((seat) => seats[seat.seatNo] === 'A')) {
        found.push({
          labels: group.map((seat) => seat.label),
          numbers: group.map((seat) => seat.seatNo),
        });
        if (found.length === count) return found;
        at += size - 1;
      }
    }
  }
  return fail(`schedule ${schedule} has only ${found.length} of ${count} groups of ${size} seats`);
}

/** Waits until the map shows all of these seats in a state; milliseconds that it took. */
export function untilSeen(schedule, numbers, state, limitMs, what) {
  const from = Date.now();
  for (;;) {
    const { seats } = seatMap(schedule);
    const took = Date.now() - from;
    if (numbers.every((number) => seats[number] === state)) {
      check(took, { [what]: (ms) => ms <= limitMs });
      return took;
    }
    if (took > limitMs) {
      check(took, { [what]: () => false });
      return fail(`${what}: not after ${took} ms`);
    }
    sleep(0.05);
  }
}
