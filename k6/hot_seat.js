// A thousand buyers want one seat in the same moment: exactly one has it, all others are told that
// it is taken, and nobody gets an error.
//
//   make k6-smoke            or            k6 run -e BASE_URL=http://127.0.0.1:8080 k6/hot_seat.js
//
// BUYERS is their number (1000). Their accounts stay, so that further runs only sign them in. At the
// end the winner gives the seat back.

import http from 'k6/http';
import { check, fail } from 'k6';
import exec from 'k6/execution';
import { Counter } from 'k6/metrics';
import {
  call, expect, newKey, request, schedules, seatMap, settle, sideBySide,
} from './lib/onsale.js';

const BUYERS = Number(__ENV.BUYERS || 1000);
/** Requests that one virtual user sends at once; a virtual user per buyer would cost gigabytes. */
const AT_ONCE = 10;
/** Sign-ins under way at once: each takes the server a core for some 20 ms. */
const SIGN_INS = 25;
const PASSWORD = 'k6-password';

const winners = new Counter('winners');
const losers = new Counter('losers');
const holders = new Counter('holders');

export const options = {
  scenarios: {
    rush: {
      executor: 'per-vu-iterations',
      vus: Math.ceil(BUYERS / AT_ONCE),
      iterations: 1,
      maxDuration: '2m',
    },
  },
  batch: SIGN_INS,
  batchPerHost: SIGN_INS,
  thresholds: {
    winners: ['count==1'],
    losers: [`count==${BUYERS - 1}`],
    // By the buyers' own reservations, after the rush.
    holders: ['count==1'],
    checks: ['rate==1'],
    server_errors: ['count==0'],
    http_req_failed: ['rate==0'],
  },
  setupTimeout: '10m',
  teardownTimeout: '2m',
};

function email(index) {
  return `hot-${String(index).padStart(4, '0')}@example.com`;
}

/** Sends requests, so many at a time; the settled answers in their order. */
function inBatches(requests, size) {
  const answers = [];
  for (let from = 0; from < requests.length; from += size) {
    const batch = requests.slice(from, from + size);
    for (const response of http.batch(batch)) answers.push(settle(response));
  }
  return answers;
}

export function setup() {
  const from = Date.now();
  const signIns = [];
  for (let index = 0; index < BUYERS; index += 1) {
    signIns.push(request('POST', '/sessions', { body: { email: email(index), password: PASSWORD } }));
  }
  // Who is there signs in. Whoever is not signs up first.
  let sessions = inBatches(signIns.slice(-1), 1);
  if (sessions[0].status === 401) {
    const signUps = signIns.map((_, index) => request('POST', '/users', {
      key: newKey(),
      body: { email: email(index), name: `Hot ${index}`, password: PASSWORD },
    }));
    for (const made of inBatches(signUps, SIGN_INS)) {
      if (made.status !== 409) expect(made, 201, 'sign up');
    }
  }
  sessions = inBatches(signIns, SIGN_INS);
  const tokens = sessions.map((session) => expect(session, 201, 'sign in').accessToken);
  console.log(`${BUYERS} buyers are signed in after ${((Date.now() - from) / 1000).toFixed(1)} s`);
  return { tokens, seat: sideBySide(schedules.hall, 1, 1)[0] };
}

export default function rush({ tokens, seat }) {
  const first = (exec.vu.idInTest - 1) * AT_ONCE;
  const mine = tokens.slice(first, first + AT_ONCE);
  const wishes = mine.map((token) => request('POST', '/reservations', {
    token,
    key: newKey(),
    body: { scheduleId: schedules.hall, seats: seat.labels },
  }));
  http.batch(wishes).forEach((response, index) => {
    const answer = settle(response, mine[index]);
    const won = answer.status === 201;
    const lost = answer.status === 409 && answer.body.code === 'seat-unavailable';
    if (won) winners.add(1);
    if (lost) losers.add(1);
    if (!check(answer, { 'won, or told that it is taken': () => won || lost })) {
      console.error(`${answer.status} ${JSON.stringify(answer.body)}`);
    }
  });
}

/** Who has it, by what each buyer is shown; that one gives it back. */
export function teardown({ tokens, seat }) {
  check(seatMap(schedules.hall), {
    'the map shows the seat held': (map) => map.seats[seat.numbers[0]] === 'H',
  });
  const looks = tokens.map((token) => request('GET', '/reservations', { token }));
  inBatches(looks, SIGN_INS).forEach((answer, index) => {
    const page = expect(answer, 200, 'reservations');
    const held = page.items.filter((r) => r.status === 'HELD' && r.seats[0].label === seat.labels[0]);
    for (const { reservationId } of held) {
      holders.add(1);
      const options = { token: tokens[index], name: '/reservations/{id}' };
      const released = call('DELETE', `/reservations/${reservationId}`, options);
      if (released.status !== 204) fail(`giving it back: ${released.status}`);
    }
  });
}
