// Seats that are paid through the simulated payment gateway, once per virtual user: hold two, order
// them (twice, it is one order), agree at the gateway, confirm (twice with one key, it is one payment),
// see them sold, give one back. Every check must hold, and nothing may be a 5xx.
//
//   make k6-smoke            or            k6 run -e GATEWAY_URL=http://127.0.0.1:8090 k6/orders.js
//
// VUS is the number of virtual users (10). A gateway that moves money must not be named here: a page
// of a shop agrees to nothing for its buyers, and this script does.

import { check, sleep } from 'k6';
import exec from 'k6/execution';
import { Counter } from 'k6/metrics';
import {
  agree,
  call,
  expect,
  newKey,
  schedules,
  sideBySide,
  signIn,
  untilSeen,
} from './lib/onsale.js';

const VUS = Number(__ENV.VUS || 10);
const SEATS = 2;
/** How often it is looked whether a refund is made, with a second in between. */
const LOOKS = 30;

/** Orders that came to their end: one that fails on its way still counts as an iteration. */
const ended = new Counter('orders_ended');

export const options = {
  scenarios: {
    orders: { executor: 'per-vu-iterations', vus: VUS, iterations: 1, maxDuration: '2m' },
  },
  thresholds: {
    checks: ['rate==1'],
    server_errors: ['count==0'],
    http_req_failed: ['rate==0'],
    orders_ended: [`count==${VUS}`],
  },
  setupTimeout: '60s',
};

/** Seats of its own for each virtual user. */
export function setup() {
  return {
    run: Date.now().toString(36),
    groups: sideBySide(schedules.stadium, SEATS, VUS),
  };
}

export default function order({ run, groups }) {
  const index = exec.vu.idInTest - 1;
  const group = groups[index];
  const token = signIn(`k6-order-${run}-${index}@example.com`, 'k6-password', 'K6');
  const hold = expect(
    call('POST', '/reservations', {
      token,
      key: newKey(),
      body: { scheduleId: schedules.stadium, seats: group.labels },
    }),
    201,
    'hold',
  );

  const made = create(token, hold);
  pay(token, made, agree(made.orderId, made.amount.amount));
  untilSeen(schedules.stadium, group.numbers, 'S', 2000, 'the map shows them sold');
  giveBack(token, hold, group);
  ended.add(1);
}

function create(token, hold) {
  const body = { reservationId: hold.reservationId };
  const made = expect(
    call('POST', '/payment-orders', { token, key: newKey(), body }),
    201,
    'order',
  );
  check(made, {
    'order: READY, and what the seats cost': (o) =>
      o.status === 'READY' && o.amount.amount === hold.total.amount,
  });
  const again = call('POST', '/payment-orders', { token, key: newKey(), body });
  check(expect(again, 201, 'order again'), {
    'a reservation has one order': (o) => o.orderId === made.orderId,
  });
  return made;
}

function pay(token, made, paymentKey) {
  const path = `/payment-orders/${made.orderId}/confirm`;
  const name = '/payment-orders/{id}/confirm';
  const confirm = (key, amount) =>
    call('POST', path, { token, key, name, body: { paymentKey, amount } });
  const less = { ...made.amount, amount: made.amount.amount - 1 };
  expect(confirm(newKey(), less), 422, 'confirm with another amount');
  const key = newKey();
  const paid = expect(confirm(key, made.amount), 200, 'confirm');
  check(paid, { 'confirm: PAID': (o) => o.status === 'PAID' });
  const again = expect(confirm(key, made.amount), 200, 'confirm again');
  check(again, {
    'again is the same payment': (o) => o.payment.paymentId === paid.payment.paymentId,
  });
}

function giveBack(token, hold, group) {
  const wish = {
    token,
    key: newKey(),
    name: '/reservations/{id}/cancellation',
    body: { seats: [group.labels[0]] },
  };
  const ask = () => {
    const answer = call('POST', `/reservations/${hold.reservationId}/cancellation`, wish);
    return expect(answer, 200, 'give one back');
  };
  let cancelled = ask();
  check(cancelled, {
    'what it has cost goes back': (c) => c.refunded.amount > 0 && c.refund.method === 'GATEWAY',
  });
  untilSeen(schedules.stadium, [group.numbers[0]], 'A', 2000, 'it is on sale again');
  // The same wish again is told how far the refund is by then.
  for (let look = 0; look < LOOKS && cancelled.refund.status !== 'DONE'; look += 1) {
    sleep(1);
    cancelled = ask();
  }
  check(cancelled, { 'the gateway has given it back': (c) => c.refund.status === 'DONE' });
}
