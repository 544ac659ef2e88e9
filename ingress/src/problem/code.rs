//! The codes of problems: each with its status, its title, and whether the same request may succeed
//! later. They never change their meaning.

use axum::http::StatusCode;
use serde::Serialize;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $status:literal $text:literal $title:literal $retry:ident;)*) => {
        /// Why not, for programs. Codes never change their meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[$doc])* $variant,)* }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name on the wire.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// A short sentence for people, the same for each occurrence.
            #[must_use]
            pub fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }

            /// Whether the same request may succeed a little later.
            #[must_use]
            pub fn retryable(self) -> bool {
                match self { $(Self::$variant => codes!(@$retry),)* }
            }

            pub(super) fn status_number(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }
        }

        impl Serialize for Code {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl PartialSchema for Code {
            fn schema() -> RefOr<Schema> {
                let texts = Self::ALL.iter().map(|code| code.as_str());
                ObjectBuilder::new()
                    .schema_type(Type::String)
                    .description(Some("Why not, for programs. A code never changes its meaning."))
                    .enum_values(Some(texts))
                    .into()
            }
        }

        impl ToSchema for Code {}
    };
    (@again) => { true };
    (@never) => { false };
}

codes! {
    /// The body is no JSON, or could not be read.
    MalformedJson = 400 "malformed-json" "The body is not valid JSON" never;
    /// A POST that changes something came without its key.
    IdempotencyKeyMissing = 400 "idempotency-key-missing" "The Idempotency-Key header is missing" never;
    /// The key is too short, too long, or not visible ASCII.
    IdempotencyKeyInvalid = 400 "idempotency-key-invalid" "The Idempotency-Key header must be 8 to 128 visible ASCII characters" never;
    /// No access token where one is needed.
    TokenMissing = 401 "token-missing" "An access token is needed" never;
    /// A token that we did not issue for this, or that was signed out.
    TokenInvalid = 401 "token-invalid" "The token is not valid" never;
    /// An access token whose time is over.
    TokenExpired = 401 "token-expired" "The access token has expired" never;
    /// Unknown email or wrong password; which of them is not said.
    CredentialsInvalid = 401 "credentials-invalid" "Email or password is wrong" never;
    /// A notification that is not by the gateway, or not of now; which of them is not said.
    WebhookSignatureInvalid = 401 "webhook-signature-invalid" "The notification's signature is not valid" never;
    /// The gateway would not capture it.
    PaymentDeclined = 402 "payment-declined" "The payment was declined" never;
    /// Signed in, but not as somebody who may do this.
    ForbiddenRole = 403 "forbidden-role" "The role of the user does not allow this" never;
    /// The date has a waiting room, and no entry pass was shown.
    QueuePassRequired = 403 "queue-pass-required" "An entry pass of the waiting room is needed" never;
    /// A pass that is not ours, or another user's or date's.
    QueuePassInvalid = 403 "queue-pass-invalid" "The entry pass is not valid here" never;
    /// A pass whose time is over.
    QueuePassExpired = 403 "queue-pass-expired" "The entry pass has expired" never;
    /// As many holds were made with the ticket of the pass as it allows.
    QueuePassUsedUp = 403 "queue-pass-used-up" "The entry pass is used up" never;
    /// A ticket of a waiting room that we did not sign, or somebody else's, or of another date.
    QueueTicketInvalid = 403 "queue-ticket-invalid" "The ticket is not valid here" never;
    /// Not ours, edited, or for another date.
    AccessCodeInvalid = 403 "access-code-invalid" "The access code is not valid here" never;
    /// An administrator has taken it back.
    AccessCodeRevoked = 403 "access-code-revoked" "The access code was revoked" never;
    /// Its window has not begun.
    AccessCodeNotYet = 403 "access-code-not-yet" "The access code is not valid yet" never;
    /// Its window is over.
    AccessCodeExpired = 403 "access-code-expired" "The access code has expired" never;
    /// As many accounts have used it as it is good for, or this one has.
    AccessCodeUsedUp = 403 "access-code-used-up" "The access code is used up" never;
    /// No such thing, or somebody else's.
    NotFound = 404 "not-found" "There is no such resource" never;
    /// The resource doesn't know this method.
    MethodNotAllowed = 405 "method-not-allowed" "The method is not allowed here" never;
    /// The client takes none of the media types that there are.
    NotAcceptable = 406 "not-acceptable" "The answer has no form that the client accepts" never;
    /// The body did not come in time.
    RequestTimeout = 408 "request-timeout" "The request body did not arrive in time" again;
    /// Somebody has some of the seats.
    SeatUnavailable = 409 "seat-unavailable" "Seats are taken" never;
    /// The seats would leave single ones alone, and there are others.
    OrphanSeat = 409 "orphan-seat" "A single seat would be left alone" never;
    /// The hold was extended as often or as far as may be.
    ExtensionLimitReached = 409 "extension-limit-reached" "The hold can't be extended any more" never;
    /// The layout was replaced while seats of it were asked for.
    LayoutChanged = 409 "layout-changed" "The layout has just been replaced" again;
    /// The schedule has had a claim, so that its layout stays.
    LayoutInUse = 409 "layout-in-use" "The layout is in use and can't be replaced" never;
    /// The reservation's state does not allow it.
    ReservationStateConflict = 409 "reservation-state-conflict" "The state of the reservation does not allow this" never;
    /// A payment of the reservation is on its way; it comes to an end soon.
    PaymentInProgress = 409 "payment-in-progress" "A payment of the reservation is on its way" again;
    /// Charges by card of the user are on their way; they come to an end soon.
    TooManyOpenCharges = 409 "too-many-open-charges" "Too many charges by card are on their way" again;
    /// The state of the order does not allow it.
    OrderStateConflict = 409 "order-state-conflict" "The state of the order does not allow this" never;
    /// The gateway's payment is another order's.
    PaymentKeyUsed = 409 "payment-key-used" "The payment serves another order" never;
    /// The refund is not stuck, or need not be compared, so that nobody has to see to it; or another one of
    /// the same payment has to be compared before it can be tried again.
    RefundStateConflict = 409 "refund-state-conflict" "The state of the refund does not allow this" never;
    /// It is too late to cancel, or cancelling was never allowed.
    CancellationClosed = 409 "cancellation-closed" "It can't be cancelled any more" never;
    /// A draw's beacon is named before there is a ticket, and says one word.
    BeaconFixed = 409 "beacon-fixed" "The beacon of the draw can't be changed any more" never;
    /// No draw waits for the word of a beacon.
    BeaconNotDue = 409 "beacon-not-due" "The draw does not wait for the word of a beacon" never;
    /// Who is in the lobby is known when it is closed.
    LobbyOpen = 409 "lobby-open" "The lobby of the waiting room is not closed yet" again;
    /// Nobody has to wait.
    RoomOff = 409 "room-off" "There is no waiting room: no ticket is needed" never;
    /// The room has all the tickets that it can have.
    RoomFull = 409 "room-full" "The waiting room takes nobody any more" never;
    /// As many tickets of the room as a user gets, with those that have ended.
    QueueTicketsUsedUp = 409 "queue-tickets-used-up" "You have joined the waiting room too often" never;
    /// The reservation is paid.
    AlreadyPaid = 409 "already-paid" "The reservation is paid already" never;
    /// A dead letter of bytes that are no command.
    DeadLetterUnreadable = 409 "dead-letter-unreadable" "The dead letter is no command that could be sent again" never;
    /// A user with this email exists.
    EmailTaken = 409 "email-taken" "The email address is in use" never;
    /// The hold lapsed.
    HoldExpired = 410 "hold-expired" "The hold has expired" never;
    /// After the booking window, or closed.
    SaleClosed = 410 "sale-closed" "The sale is closed" never;
    /// Its deadline passed before it was decided; nothing was changed.
    CommandExpired = 410 "command-expired" "The command expired before it was decided" again;
    /// More bytes than a body may have.
    BodyTooLarge = 413 "body-too-large" "The body is too large" never;
    /// Not of a content type that is taken here.
    UnsupportedMediaType = 415 "unsupported-media-type" "The content type is not taken here" never;
    /// JSON, but not what is expected here.
    ValidationFailed = 422 "validation-failed" "The request is not valid" never;
    /// A label that the layout doesn't have.
    UnknownSeat = 422 "unknown-seat" "The layout has no such seat" never;
    /// More live seats than the schedule allows a user.
    SeatLimitExceeded = 422 "seat-limit-exceeded" "The seat limit per user would be exceeded" never;
    /// Too few points.
    InsufficientPoints = 422 "insufficient-points" "There are too few points" never;
    /// Not within what one charge may buy.
    AmountInvalid = 422 "amount-invalid" "The amount is not allowed" never;
    /// Not what the order costs.
    AmountMismatch = 422 "amount-mismatch" "The amount is not the order's" never;
    /// The balance would be over the cap.
    BalanceCapExceeded = 422 "balance-cap-exceeded" "The balance would exceed its cap" never;
    /// The key was used for another request.
    IdempotencyKeyReused = 422 "idempotency-key-reused" "The Idempotency-Key was used for another request" never;
    /// Before the booking window, or paused.
    SaleNotOpen = 425 "sale-not-open" "The sale is not open yet" again;
    /// The user, the address or the account has asked too often.
    RateLimited = 429 "rate-limited" "Too many requests" again;
    /// More bytes or lines than path and headers may have.
    HeadersTooLarge = 431 "headers-too-large" "The request head is too large" never;
    /// A fault of ours.
    InternalError = 500 "internal-error" "Something went wrong on our side" never;
    /// Nothing is paid through a gateway here.
    GatewayNotConfigured = 501 "gateway-not-configured" "There is no payment gateway to pay through" never;
    /// Nobody asks cards for money here: neither a gateway nor a terminal.
    CardsNotConfigured = 501 "cards-not-configured" "Points can't be bought by card here" never;
    /// Nobody takes cash here.
    CashNotConfigured = 501 "cash-not-configured" "Points can't be bought in cash here" never;
    /// The gateway could not be asked while there was time; nothing was captured.
    PaymentGatewayUnavailable = 502 "payment-gateway-unavailable" "The payment gateway is unavailable" never;
    /// Too much is waiting already; nothing was changed.
    Overloaded = 503 "overloaded" "Too many requests are waiting" again;
    /// A server that we need is away.
    DependencyUnavailable = 503 "dependency-unavailable" "A part of the service is unavailable" again;
}

impl Code {
    /// The HTTP status.
    ///
    /// # Panics
    /// Never: the numbers are written above.
    #[must_use]
    pub fn status(self) -> StatusCode {
        StatusCode::from_u16(self.status_number()).expect("the numbers above are statuses")
    }

    /// The code of a rejection that the framework made, by its status.
    pub(super) fn of_status(status: StatusCode) -> Self {
        match status {
            StatusCode::METHOD_NOT_ALLOWED => Self::MethodNotAllowed,
            StatusCode::PAYLOAD_TOO_LARGE => Self::BodyTooLarge,
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Self::UnsupportedMediaType,
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => Self::HeadersTooLarge,
            StatusCode::REQUEST_TIMEOUT => Self::RequestTimeout,
            StatusCode::UNPROCESSABLE_ENTITY => Self::ValidationFailed,
            other if other.is_server_error() => Self::InternalError,
            _ => Self::NotFound,
        }
    }
}
