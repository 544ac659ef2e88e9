//! The invariants of waiting rooms, as queries like all others: see [`super::checks`].
//!
//! Who was present when is in no row, so that a ticket which was passed over says so itself; that its
//! place had come is checked.

use onsale_schema::admission::HOLDS_PER_PASS;

/// By so much, in milliseconds, two times may differ that are said to be one after the other: a tick's
/// is of its owner's clock, a hold's of the stream's.
const CLOCK_SKEW_MS: u32 = 5000;

/// After so long, in milliseconds, the owner of the seats knows that a ticket has ended, unless a notice
/// about it was open.
const TOLD_MS: u32 = 60_000;

/// Tickets and the count in their room's row.
pub(super) const Q1: &str = "
WITH given AS (
    SELECT schedule_id, count(*) AS tickets, count(DISTINCT arrival_no) AS numbers,
           max(arrival_no) AS last
    FROM ticket
    GROUP BY schedule_id
)
SELECT format('user %s has %s live tickets of schedule %s', user_id, count(*), schedule_id)
FROM ticket
WHERE status IN ('WAITING', 'ADMITTED')
GROUP BY schedule_id, user_id
HAVING count(*) > 1
UNION ALL
SELECT format('the room of schedule %s has given %s numbers; %s tickets have %s, up to %s',
              schedule_id, coalesce(arrivals::text, 'no'), coalesce(tickets, 0),
              coalesce(numbers, 0), coalesce(last::text, 'none'))
FROM waiting_room FULL JOIN given USING (schedule_id)
WHERE arrivals IS DISTINCT FROM coalesce(tickets, 0)
   OR numbers <> tickets OR last <> tickets - 1";

/// An admission counts as active until its ticket has ended. What ended in the very moment of another
/// admission may have done so before it or after it.
///
/// Guests are let in by their numbers, before everybody who is in the line while they wait. Only one in
/// its presale may be before a guest with a lower number, who had none at that time. Whoever was passed
/// over is in no order.
pub(super) const Q2: &str = "
WITH let_in AS (
    SELECT t.*, granted, valid_until,
           (granted = 'PRESALE' AND admitted_at < valid_until) IS TRUE AS in_presale
    FROM ticket AS t LEFT JOIN access_code USING (schedule_id, access_code_id)
    WHERE admission_no IS NOT NULL
), admitted AS (
    SELECT *, lag(admitted_at) OVER in_order AS at_before,
           max(place) FILTER (WHERE NOT was_passed) OVER earlier AS place_before,
           max(admitted_at) FILTER (WHERE access_code_id IS NULL) OVER earlier AS line_at,
           max(arrival_no) FILTER (WHERE NOT was_passed AND access_code_id IS NOT NULL)
               OVER earlier AS any_guest_before,
           max(arrival_no) FILTER (WHERE NOT was_passed AND access_code_id IS NOT NULL
                                         AND NOT in_presale)
               OVER earlier AS other_guest_before,
           row_number() OVER in_order - 1 AS nth,
           count(place) OVER (PARTITION BY schedule_id, place) AS sharing
    FROM let_in
    WINDOW in_order AS (PARTITION BY schedule_id ORDER BY admission_no),
           earlier AS (in_order ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
), moments AS (
    SELECT schedule_id, admitted_at AS at, ticket_id, admission_no, active_before, 0 AS ends
    FROM admitted
    UNION ALL
    SELECT schedule_id, ended_at, NULL, NULL, NULL, 1 FROM admitted WHERE ended_at IS NOT NULL
), history AS (
    SELECT *, sum(ends) OVER (PARTITION BY schedule_id ORDER BY at) AS ended,
           sum(ends) OVER (PARTITION BY schedule_id, at) AS ended_now
    FROM moments
)
SELECT format('ticket %s of schedule %s was admitted while %s had a pass, of %s', ticket_id,
              schedule_id, active_before, capacity)
FROM admitted
WHERE active_before >= capacity
UNION ALL
SELECT format('ticket %s of schedule %s was admitted as number %s while %s had a pass; it says %s',
              ticket_id, schedule_id, admission_no, admission_no - ended, active_before)
FROM history
WHERE active_before NOT BETWEEN admission_no - ended AND admission_no - ended + ended_now
UNION ALL
SELECT format('ticket %s of schedule %s has admission %s at %s; it is number %s, and the one before '
              'was at %s', ticket_id, schedule_id, admission_no, admitted_at, nth, at_before)
FROM admitted
WHERE admission_no <> nth OR admitted_at < at_before OR admitted_at < joined_at
   OR ended_at < admitted_at
UNION ALL
SELECT format('ticket %s of schedule %s has place %s, which is %s', ticket_id, schedule_id, place,
              CASE WHEN sharing > 1 THEN 'another''s, too'
                   WHEN r.schedule_id IS NULL OR lobby_order IS NULL THEN 'in no order'
                   WHEN place >= front THEN 'not before the front'
                   ELSE 'not where its number ' || arrival_no || ' belongs' END)
FROM admitted LEFT JOIN waiting_room AS r USING (schedule_id)
WHERE place IS NOT NULL
  AND (sharing > 1 OR r.schedule_id IS NULL OR lobby_order IS NULL OR place >= front
       OR admitted_at < closed_at
       OR CASE WHEN lobby_order = 'DRAWN' AND arrival_no < lobby_size THEN place >= lobby_size
               ELSE place <> arrival_no END)
UNION ALL
SELECT format('ticket %s of schedule %s was admitted %s', ticket_id, schedule_id,
              CASE WHEN access_code_id IS NULL THEN 'from no place'
                   ELSE 'as a guest, and the guests'' line is at number '
                        || coalesce(guest_front::text, 'none') END)
FROM admitted LEFT JOIN waiting_room AS r USING (schedule_id)
WHERE place IS NULL
  AND (access_code_id IS NULL OR (arrival_no < guest_front) IS NOT TRUE)
UNION ALL
SELECT format('ticket %s of schedule %s was admitted as a guest after %s', ticket_id, schedule_id,
              CASE WHEN arrival_no < guest_before THEN 'the one with number ' || guest_before
                   ELSE 'one of the line, while it waited since ' || joined_at END)
FROM (SELECT *, CASE WHEN in_presale THEN any_guest_before ELSE other_guest_before END AS guest_before
      FROM admitted
      WHERE access_code_id IS NOT NULL AND NOT was_passed) AS guests
WHERE arrival_no < guest_before OR joined_at < line_at
UNION ALL
SELECT format('ticket %s of schedule %s was admitted at %s, before the opening, with an access code '
              '(%s) that is good until %s', ticket_id, schedule_id, admitted_at, granted, valid_until)
FROM admitted JOIN waiting_room USING (schedule_id)
WHERE place IS NULL AND NOT in_presale AND (admitted_at >= closed_at) IS NOT TRUE
UNION ALL
SELECT format('access code %s of schedule %s made guests of %s accounts; it says of %s, and may of %s',
              access_code_id, schedule_id, coalesce(users, 0), coalesce(used::text, 'none'),
              coalesce(uses::text, 'none'))
FROM (SELECT schedule_id, access_code_id, count(DISTINCT user_id) AS users
      FROM ticket WHERE access_code_id IS NOT NULL
      GROUP BY schedule_id, access_code_id) AS made
     FULL JOIN access_code USING (schedule_id, access_code_id)
WHERE (coalesce(users, 0) = used AND used <= uses) IS NOT TRUE
UNION ALL
SELECT format('ticket %s of schedule %s was admitted from place %s after one from place %s',
              ticket_id, schedule_id, place, place_before)
FROM admitted
WHERE NOT was_passed AND place < place_before
UNION ALL
SELECT format('%s were admitted to schedule %s; its room says %s', count(admission_no), schedule_id,
              admissions)
FROM waiting_room LEFT JOIN admitted USING (schedule_id)
GROUP BY schedule_id, admissions
HAVING count(admission_no) <> admissions";

/// Holds and the tickets with whose passes they were made. A pass lasts as long as its ticket's row says,
/// or the longest of the holds that were made with it; a row never says less than an earlier pass did. One
/// whose ticket has ended before is good until the owner of the seats has heard of that: for some time,
/// or as long as word of it was open. How many holds a pass was good for is not known any more, only how
/// many any of its room was. What is done by the owner of the seats and not by that of the room, or the
/// reverse, is on its way to it, in a notice that says its kind by its name.
pub(super) fn q3() -> String {
    Q3.replace("{skew_ms}", &CLOCK_SKEW_MS.to_string())
        .replace("{told_ms}", &TOLD_MS.to_string())
        .replace("{holds_max}", &HOLDS_PER_PASS.end().to_string())
}

const Q3: &str = "
WITH entered AS (
    SELECT r.*, t.user_id AS holder, t.schedule_id AS room, t.admitted_at,
           greatest(t.pass_until,
                    (SELECT max('epoch'::timestamptz + (hold ->> 1)::bigint * interval '1 us')
                     FROM jsonb_array_elements(t.holds) AS holds (hold))) AS pass_until
    FROM reservation AS r
         JOIN sale AS s USING (schedule_id)
         LEFT JOIN ticket AS t ON t.ticket_id = r.ticket_id
    WHERE r.ticket_id IS NOT NULL
       OR s.pass_required AND r.held_at > s.pass_required_since AND r.rehold_order IS NULL
)
SELECT format('reservation %s of user %s and schedule %s was made at %s %s', reservation_id, user_id,
              schedule_id, held_at,
              CASE WHEN ticket_id IS NULL THEN 'without a pass'
                   WHEN rehold_order IS NOT NULL THEN 'for a late capture, with a pass'
                   WHEN holder <> user_id OR room <> schedule_id
                       THEN 'with a pass of another user or schedule'
                   WHEN admitted_at <= held_at + interval '{skew_ms} ms'
                       THEN 'with a pass that was good until ' || pass_until
                   ELSE 'before its ticket ' || ticket_id || ' was admitted' END)
FROM entered
WHERE (rehold_order IS NULL AND holder = user_id AND room = schedule_id
       AND admitted_at <= held_at + interval '{skew_ms} ms' AND held_at < pass_until) IS NOT TRUE
UNION ALL
SELECT format('reservation %s of schedule %s was made at %s with a pass whose ticket %s has ended at %s',
              reservation_id, r.schedule_id, held_at, ticket_id, t.ended_at)
FROM reservation AS r JOIN ticket AS t USING (ticket_id)
WHERE held_at > t.ended_at + interval '{told_ms} ms'
  AND NOT EXISTS (SELECT FROM notice AS n
                  WHERE n.schedule_id = r.schedule_id AND lane = 'seats'
                    AND created_at <= t.ended_at + interval '{skew_ms} ms'
                    AND (done_at IS NULL OR done_at >= held_at)
                    AND position(convert_to('PassesOver', 'UTF8') IN payload) > 0)
UNION ALL
SELECT format('%s holds were made with ticket %s, of %s', holds, ticket_id, holds_max)
FROM (SELECT ticket_id, schedule_id, count(*) AS holds FROM reservation
      WHERE ticket_id IS NOT NULL GROUP BY ticket_id, schedule_id) AS made
     LEFT JOIN (SELECT schedule_id, greatest(holds_per_pass, holds_per_pass_before) AS holds_max
                FROM waiting_room) AS room USING (schedule_id)
WHERE holds > least(holds_max, {holds_max})
UNION ALL
SELECT format('holds of schedule %s take %s, and its room is %s', schedule_id,
              CASE WHEN pass_required THEN 'a pass' ELSE 'no pass' END, mode)
FROM sale JOIN waiting_room USING (schedule_id)
WHERE pass_required <> (mode <> 'OFF')
  AND NOT EXISTS (SELECT FROM notice
                  WHERE notice.schedule_id = sale.schedule_id AND lane = 'seats'
                    AND done_at IS NULL
                    AND position(convert_to('Room', 'UTF8') IN payload) > 0)";
