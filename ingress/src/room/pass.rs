//! The entry pass that a client shows when it holds seats.
//!
//! An ingress refuses what is not ours, or not this user's for this date. Whether a pass is too old or
//! used up, and whether one is needed at all, is the business of the owner of the seats, which knows
//! also whether the same hold was made before: then its retry is answered as it was, however old the
//! pass is by now.

use super::Signer;
use crate::problem::{Code, Problem};
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue};
use onsale_schema::admission::{NotValid, Pass};
use onsale_schema::{ScheduleId, Timestamp, UserId};
use utoipa::IntoParams;
use utoipa::openapi::Required;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};

/// The header that carries it.
pub const QUEUE_PASS: HeaderName = HeaderName::from_static("queue-pass");

/// What was shown, unread; none if nothing was.
#[derive(Clone, Debug)]
pub struct QueuePass(Option<HeaderValue>);

impl QueuePass {
    /// The pass, if one was shown.
    ///
    /// # Errors
    /// `queue-pass-invalid` for one that is not ours, or not this user's for this date.
    pub fn read(
        &self,
        signer: &Signer,
        user: UserId,
        schedule: ScheduleId,
        now: Timestamp,
    ) -> Result<Option<Pass>, Problem> {
        let Some(shown) = &self.0 else {
            return Ok(None);
        };
        let invalid = || Problem::new(Code::QueuePassInvalid);
        let text = shown.to_str().map_err(|_| invalid())?;
        let pass = signer.read_pass(text).ok_or_else(invalid)?;
        match pass.check(user, schedule, 0, now) {
            Err(NotValid::Foreign) => Err(invalid()),
            Ok(()) | Err(NotValid::Expired | NotValid::UsedUp) => Ok(Some(pass)),
        }
    }
}

impl IntoParams for QueuePass {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let description = "The entry pass of the date's waiting room, where it has one. It is not a \
                           part of the request that `Idempotency-Key` names: a retry may show a \
                           newer one.";
        let parameter = ParameterBuilder::new()
            .name("Queue-Pass")
            .parameter_in(ParameterIn::Header)
            .required(Required::False)
            .description(Some(description))
            .schema(Some(ObjectBuilder::new().schema_type(Type::String)));
        vec![parameter.build()]
    }
}

impl<S: Send + Sync> FromRequestParts<S> for QueuePass {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let mut values = parts.headers.get_all(QUEUE_PASS).iter();
        match (values.next(), values.next()) {
            (value, None) => Ok(Self(value.cloned())),
            (_, Some(_)) => Err(Problem::new(Code::QueuePassInvalid)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use onsale_schema::admission::Ticketed;
    use onsale_schema::{ArrivalNo, Generation, TicketId};
    use uuid::Uuid;

    #[test]
    fn what_is_not_ours_or_not_theirs_is_refused_and_the_rest_is_for_the_owner() {
        let signer = |digit: &str| Signer::new(&digit.repeat(64).parse().unwrap());
        let (user, schedule) = (UserId(Uuid::from_u128(1)), ScheduleId(Uuid::from_u128(2)));
        let pass = Pass {
            ticket: Ticketed {
                user_id: user,
                schedule_id: schedule,
                ticket_id: TicketId(Uuid::from_u128(3)),
                arrival_no: ArrivalNo(4),
                is_guest: false,
                guest_no: None,
                generation: Generation::default(),
            },
            expires_at: Timestamp::from_micros(1_000_000),
            holds_max: 1,
        };
        let ours = signer("a").sign_pass(&pass);
        let edited = format!("{}A", &ours[..ours.len() - 1]);
        let edited = if edited == ours {
            ours.replace('A', "B")
        } else {
            edited
        };
        let theirs = signer("b").sign_pass(&pass);
        let ticket = signer("a").sign_ticket(&pass.ticket);
        let others = [
            edited.as_str(),
            &theirs,
            &ticket,
            "",
            "eyJhbGciOiJub25lIn0.e30.",
        ];
        let (early, late) = (Timestamp::EPOCH, Timestamp::from_micros(2_000_000));
        let read = |text: &str, user, schedule, now| {
            let shown = QueuePass(Some(HeaderValue::from_str(text).unwrap()));
            let read = shown.read(&signer("a"), user, schedule, now);
            read.map_err(|problem| problem.code())
        };
        for now in [early, late] {
            assert_eq!(read(&ours, user, schedule, now), Ok(Some(pass)));
            let invalid = Err(Code::QueuePassInvalid);
            assert_eq!(read(&ours, UserId(Uuid::nil()), schedule, now), invalid);
            assert_eq!(read(&ours, user, ScheduleId(Uuid::nil()), now), invalid);
            for text in others {
                assert_eq!(read(text, user, schedule, now), invalid, "{text}");
            }
        }
        let nothing = QueuePass(None).read(&signer("a"), user, schedule, early);
        assert_eq!(nothing.unwrap(), None);
    }
}
