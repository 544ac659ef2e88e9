//! Who may call what, written by hand.

/// Who may call an operation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum For {
    Anyone,
    User,
    /// A user, about what is theirs; for others it is not there.
    Owner,
    Admin,
    /// Who has signed what is said, whoever else it is.
    Gateway,
}

/// Every operation.
pub const TABLE: &[(&str, &str, For)] = &[
    ("GET", "/healthz", For::Anyone),
    ("GET", "/readyz", For::Anyone),
    ("GET", "/openapi.json", For::Anyone),
    ("GET", "/docs", For::Anyone),
    ("GET", "/docs/{file}", For::Anyone),
    ("POST", "/api/v1/users", For::Anyone),
    ("POST", "/api/v1/sessions", For::Anyone),
    ("POST", "/api/v1/sessions/refresh", For::Anyone),
    ("POST", "/api/v1/sessions/revoke", For::Anyone),
    ("GET", "/api/v1/concerts", For::Anyone),
    ("GET", "/api/v1/concerts/{concertId}", For::Anyone),
    ("GET", "/api/v1/concerts/{concertId}/schedules", For::Anyone),
    ("GET", "/api/v1/schedules/{scheduleId}", For::Anyone),
    ("GET", "/api/v1/schedules/{scheduleId}/layout", For::Anyone),
    ("GET", "/api/v1/schedules/{scheduleId}/seats", For::Anyone),
    ("GET", "/api/v1/schedules/{scheduleId}/events", For::Anyone),
    (
        "GET",
        "/api/v1/schedules/{scheduleId}/queue/draw",
        For::Anyone,
    ),
    (
        "GET",
        "/api/v1/schedules/{scheduleId}/queue/draw/tickets",
        For::Anyone,
    ),
    // Where others have no ticket, there is nothing of theirs.
    ("DELETE", "/api/v1/schedules/{scheduleId}/queue", For::Owner),
    ("GET", "/api/v1/schedules/{scheduleId}/queue", For::Owner),
    ("POST", "/api/v1/schedules/{scheduleId}/queue", For::User),
    ("DELETE", "/api/v1/sessions", For::User),
    ("POST", "/api/v1/stream-tokens", For::User),
    ("GET", "/api/v1/users/me", For::User),
    ("GET", "/api/v1/users/me/points", For::User),
    ("POST", "/api/v1/users/me/points/charges", For::User),
    ("GET", "/api/v1/users/me/points/history", For::User),
    ("GET", "/api/v1/reservations", For::User),
    ("POST", "/api/v1/reservations", For::User),
    ("GET", "/api/v1/reservations/{reservationId}", For::Owner),
    ("DELETE", "/api/v1/reservations/{reservationId}", For::Owner),
    (
        "POST",
        "/api/v1/reservations/{reservationId}/extension",
        For::Owner,
    ),
    (
        "POST",
        "/api/v1/reservations/{reservationId}/cancellation",
        For::Owner,
    ),
    ("GET", "/api/v1/payments", For::User),
    ("POST", "/api/v1/payments", For::User),
    ("GET", "/api/v1/payments/{paymentId}", For::Owner),
    ("POST", "/api/v1/payment-orders", For::User),
    ("GET", "/api/v1/payment-orders/{orderId}", For::Owner),
    // What it is asked comes before whose it is.
    (
        "POST",
        "/api/v1/payment-orders/{orderId}/confirm",
        For::User,
    ),
    ("POST", "/api/v1/webhooks/payments", For::Gateway),
    ("GET", "/api/v1/commands/{token}", For::Owner),
    ("POST", "/api/v1/admin/concerts", For::Admin),
    ("PATCH", "/api/v1/admin/concerts/{concertId}", For::Admin),
    (
        "POST",
        "/api/v1/admin/concerts/{concertId}/schedules",
        For::Admin,
    ),
    ("PATCH", "/api/v1/admin/schedules/{scheduleId}", For::Admin),
    (
        "POST",
        "/api/v1/admin/schedules/{scheduleId}/cancellation",
        For::Admin,
    ),
    (
        "GET",
        "/api/v1/admin/schedules/{scheduleId}/cancellation",
        For::Admin,
    ),
    (
        "PUT",
        "/api/v1/admin/schedules/{scheduleId}/layout",
        For::Admin,
    ),
    (
        "GET",
        "/api/v1/admin/schedules/{scheduleId}/queue",
        For::Admin,
    ),
    (
        "PUT",
        "/api/v1/admin/schedules/{scheduleId}/queue/beacon",
        For::Admin,
    ),
    (
        "PUT",
        "/api/v1/admin/schedules/{scheduleId}/queue/beacon/value",
        For::Admin,
    ),
    (
        "GET",
        "/api/v1/admin/schedules/{scheduleId}/access-codes",
        For::Admin,
    ),
    (
        "POST",
        "/api/v1/admin/schedules/{scheduleId}/access-codes",
        For::Admin,
    ),
    (
        "DELETE",
        "/api/v1/admin/schedules/{scheduleId}/access-codes/{accessCodeId}",
        For::Admin,
    ),
    (
        "GET",
        "/api/v1/admin/schedules/{scheduleId}/blocks",
        For::Admin,
    ),
    (
        "POST",
        "/api/v1/admin/schedules/{scheduleId}/blocks",
        For::Admin,
    ),
    (
        "DELETE",
        "/api/v1/admin/schedules/{scheduleId}/blocks/{blockId}",
        For::Admin,
    ),
    (
        "GET",
        "/api/v1/admin/schedules/{scheduleId}/seats/{label}/history",
        For::Admin,
    ),
    ("GET", "/api/v1/admin/dead-letters", For::Admin),
    (
        "POST",
        "/api/v1/admin/dead-letters/{deadLetterId}/retry",
        For::Admin,
    ),
    ("GET", "/api/v1/admin/tasks", For::Admin),
    ("POST", "/api/v1/admin/tasks/{refundId}/retry", For::Admin),
    (
        "POST",
        "/api/v1/admin/tasks/{refundId}/resolution",
        For::Admin,
    ),
    (
        "POST",
        "/api/v1/admin/tasks/{refundId}/comparison",
        For::Admin,
    ),
    (
        "POST",
        "/api/v1/admin/tasks/orders/{orderId}/write-off",
        For::Admin,
    ),
    ("GET", "/api/v1/admin/webhooks", For::Admin),
    ("POST", "/api/v1/admin/webhooks", For::Admin),
    ("GET", "/api/v1/admin/webhooks/{webhookId}", For::Admin),
    ("PATCH", "/api/v1/admin/webhooks/{webhookId}", For::Admin),
    ("DELETE", "/api/v1/admin/webhooks/{webhookId}", For::Admin),
    (
        "POST",
        "/api/v1/admin/webhooks/{webhookId}/secret",
        For::Admin,
    ),
    ("GET", "/api/v1/admin/audit", For::Admin),
];
