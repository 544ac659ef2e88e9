// The journey of a buyer, once per virtual user: sign up and in, look, hold three seats, charge,
// pay, see them sold, let another hold lapse. Every check must hold, and nothing may be a 5xx.
//
//   make k6-smoke            or            k6 run -e BASE_URL=http://127.0.0.1:8080 k6/smoke.js
//
// VUS is the number of virtual users (10).

import { check } from 'k6';
import exec from 'k6/execution';
import { Counter, Trend } from 'k6/metrics';
import { call, expect, newKey, schedules, sideBySide, signIn, untilSeen } from './lib/onsale.js';

const VUS = Number(__ENV.VUS || 10);
const SEATS = 3;

/** Journeys that came to their end: one that fails on its way still counts as an iteration. */
const journeys = new Counter('journeys');
const lapseDelay = new Trend('lapse_delay', true);

export const options = {
  scenarios: {
    journey: { executor: 'per-vu-iterations', vus: VUS, iterations: 1, maxDuration: '2m' },
  },
  thresholds: {
    checks: ['rate==1'],
    server_errors: ['count==0'],
    http_req_failed: ['rate==0'],
    lapse_delay: ['max<=1000'],
    journeys: [`count==${VUS}`],
  },
  setupTimeout: '60s',
};

/** Seats of its own for each virtual user: who wants what others want is the other script. */
export function setup() {
  return {
    run: Date.now().toString(36),
    groups: sideBySide(schedules.stadium, SEATS, VUS),
    singles: sideBySide(schedules.club, 1, VUS),
  };
}

export default function journey({ run, groups, singles }) {
  const index = exec.vu.idInTest - 1;
  const group = groups[index];
  const token = signIn(`k6-${run}-${index}@example.com`, 'k6-password', 'K6');

  look(token);
  const hold = expect(
    call('POST', '/reservations', {
      token,
      key: newKey(),
      body: { scheduleId: schedules.stadium, seats: group.labels },
    }),
    201,
    'hold',
  );
  check(hold, {
    'hold: three seats, HELD': (h) => h.status === 'HELD' && h.seats.length === SEATS,
  });
  untilSeen(schedules.stadium, group.numbers, 'H', 2000, 'the map shows them held');

  buy(token, hold);
  untilSeen(schedules.stadium, group.numbers, 'S', 2000, 'the map shows them sold');
  letLapse(token, singles[index]);
  journeys.add(1);
}

function look(token) {
  const me = expect(call('GET', '/users/me', { token }), 200, 'who am I');
  check(me, { 'I am a buyer': (user) => user.role === 'buyer' });
  const concerts = expect(call('GET', '/concerts'), 200, 'concerts');
  check(concerts, { 'there are concerts': (page) => page.items.length > 0 });
  const id = concerts.items[0].concertId;
  const dates = call('GET', `/concerts/${id}/schedules`, { name: '/concerts/{id}/schedules' });
  expect(dates, 200, 'dates');
}

function buy(token, hold) {
  const charge = call('POST', '/users/me/points/charges', {
    token,
    key: newKey(),
    body: { amount: hold.total, method: 'CARD' },
  });
  check(expect(charge, 201, 'charge'), {
    'charge: the balance is what was charged': (c) => c.balance.amount === hold.total.amount,
  });

  // Sent twice with the same key, it is one payment.
  const wish = {
    token,
    key: newKey(),
    body: { reservationId: hold.reservationId, method: 'POINTS' },
  };
  const payment = expect(call('POST', '/payments', wish), 201, 'pay');
  const again = expect(call('POST', '/payments', wish), 201, 'pay again');
  check(again, { 'again is the same payment': (p) => p.paymentId === payment.paymentId });
  const points = expect(call('GET', '/users/me/points', { token }), 200, 'points');
  check(points, { 'all points are spent, once': (p) => p.balance.amount === 0 });
}

function letLapse(token, single) {
  const hold = expect(
    call('POST', '/reservations', {
      token,
      key: newKey(),
      body: { scheduleId: schedules.club, seats: single.labels },
    }),
    201,
    'hold in the club',
  );
  const endsAt = Date.now() + Date.parse(hold.expiresAt) - Date.parse(hold.serverTime);
  // The map may be a moment old: that it shows A counts only after it has shown H.
  untilSeen(schedules.club, single.numbers, 'H', 2000, 'the map shows it held');
  const limitMs = endsAt - Date.now() + 1000;
  const what = 'a lapsed hold is on sale again in time';
  untilSeen(schedules.club, single.numbers, 'A', limitMs, what);
  const lateMs = Date.now() - endsAt;
  check(lateMs, { 'it was held until its end': (ms) => ms > -100 });
  lapseDelay.add(Math.max(0, lateMs));
  const lapsed = call('GET', `/reservations/${hold.reservationId}`, {
    token,
    name: '/reservations/{id}',
  });
  check(expect(lapsed, 200, 'the lapsed one'), { 'it is EXPIRED': (r) => r.status === 'EXPIRED' });
}
