// How a shop talks to onsale: a client whose types are made from the description of the API. A test
// compiles it against the description in the repository (onsale/tests/typescript.rs).

import createClient, { type Middleware } from "openapi-fetch";
import type { components, paths } from "./api";

type Problem = components["schemas"]["Problem"];
type Money = components["schemas"]["Money"];
type Reservation = components["schemas"]["Reservation"];

/** A refusal, told apart by its code. */
export class Refused extends Error {
  constructor(readonly problem: Problem) {
    super(problem.title);
  }
}

function shop(baseUrl: string, accessToken: () => string | undefined) {
  const client = createClient<paths>({ baseUrl });
  const signed: Middleware = {
    onRequest({ request }) {
      const token = accessToken();
      if (token !== undefined) request.headers.set("Authorization", `Bearer ${token}`);
      return request;
    },
  };
  client.use(signed);
  return client;
}

type Shop = ReturnType<typeof shop>;

/** A name for one request, under which it may be sent again. */
const once = () => ({ "Idempotency-Key": crypto.randomUUID() });

export async function signIn(baseUrl: string, email: string, password: string): Promise<Shop> {
  let token: string | undefined;
  const client = shop(baseUrl, () => token);
  const { data, error } = await client.POST("/api/v1/sessions", { body: { email, password } });
  if (error) throw new Refused(error);
  token = data.accessToken;
  return client;
}

/** The seats that nobody has, with their labels. */
export async function free(client: Shop, scheduleId: string): Promise<string[]> {
  const params = { path: { scheduleId } };
  const layout = await client.GET("/api/v1/schedules/{scheduleId}/layout", { params });
  if (!layout.data) throw new Refused(layout.error);
  const map = await client.GET("/api/v1/schedules/{scheduleId}/seats", { params });
  if (!map.data) throw new Refused(map.error);
  const letters = map.data.seats;
  // A section without rows has places, which are asked for by their count.
  const rows = layout.data.sections.flatMap((section) => ("rows" in section ? section.rows : []));
  const seats = rows.flatMap((row) => row.seats);
  return seats.filter((seat) => letters[seat.seatNo] === "A").map((seat) => seat.label);
}

/** Holds seats; if some are taken, says which. */
export async function hold(
  client: Shop,
  scheduleId: string,
  seats: string[],
): Promise<{ held: Reservation } | { taken: string[] } | { open: string }> {
  const { data, error, response } = await client.POST("/api/v1/reservations", {
    params: { header: once() },
    body: { scheduleId, seats },
  });
  if (error) {
    if (error.code === "seat-unavailable") return { taken: error.seats ?? [] };
    throw new Refused(error);
  }
  if ("state" in data) return { open: response.headers.get("Location") ?? "" };
  return { held: data };
}

export async function pay(client: Shop, reservation: Reservation): Promise<Money> {
  const charged = await client.POST("/api/v1/users/me/points/charges", {
    params: { header: once() },
    body: { amount: reservation.total, method: "CARD" },
  });
  if (charged.error) throw new Refused(charged.error);
  const { data, error } = await client.POST("/api/v1/payments", {
    params: { header: once() },
    body: { reservationId: reservation.reservationId, method: "POINTS" },
  });
  if (error) throw new Refused(error);
  if ("state" in data) throw new Error("the outcome is open");
  return data.amount;
}

// What must not compile, so that the types are known to be as strict as the server.
export function mistakes(client: Shop, problem: Problem, reservation: Reservation) {
  // @ts-expect-error: there is no such operation
  client.GET("/api/v1/nothing");
  // @ts-expect-error: a hold needs its key
  client.POST("/api/v1/reservations", { body: { scheduleId: "", seats: [""] } });
  // @ts-expect-error: nobody sets a price
  const body: components["schemas"]["NewReservation"] = { scheduleId: "", seats: [""], price: 1 };
  // @ts-expect-error: there is no such code
  const odd = problem.code === "no-such-code";
  // @ts-expect-error: money is no number
  const total: number = reservation.total;
  return { body, odd, total };
}
