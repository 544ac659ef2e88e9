//! Who may call a route, and how often. Each group of routes has one of these around it, and nothing
//! else decides that: a handler gets its user from here or not at all.

use crate::auth::{Tokens, User, bearer};
use crate::limits::{Left, Rate};
use crate::problem::{Code, Problem};
use axum::extract::{FromRequestParts, Request};
use axum::http::HeaderMap;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use futures_util::future::Either;
use onsale_schema::status::Role;
use pin_project_lite::pin_project;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Context, Poll};
use tower::{Layer, Service};

/// Who may call a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody; who it is is not looked at.
    Anyone,
    /// Whoever has a valid access token.
    User,
    /// A user who administers.
    Admin,
}

/// Lets only users through, and tells the handlers who they are.
#[derive(Clone)]
pub struct Guard {
    tokens: Tokens,
    role: Option<Role>,
    rate: Option<Arc<Rate>>,
}

impl Guard {
    /// Whoever has a valid access token.
    #[must_use]
    pub fn user(tokens: Tokens) -> Self {
        Self {
            tokens,
            role: None,
            rate: None,
        }
    }

    /// Whoever has a valid access token and this role.
    #[must_use]
    pub fn role(tokens: Tokens, role: Role) -> Self {
        Self {
            tokens,
            role: Some(role),
            rate: None,
        }
    }

    /// Each of them at this rate.
    #[must_use]
    pub fn at(self, rate: Option<Arc<Rate>>) -> Self {
        Self { rate, ..self }
    }

    fn admit(&self, headers: &HeaderMap) -> Result<User, Problem> {
        let user = self.tokens.verify(bearer(headers)?)?;
        match self.role {
            Some(role) if role != user.role => Err(Problem::new(Code::ForbiddenRole)),
            Some(_) | None => Ok(user),
        }
    }
}

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded {
            inner,
            guard: self.clone(),
        }
    }
}

/// A route with its [`Guard`].
#[derive(Clone)]
pub struct Guarded<S> {
    inner: S,
    guard: Guard,
}

impl<S> Service<Request> for Guarded<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Either<Told<S::Future>, Ready<Result<Response, Infallible>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let user = match self.guard.admit(request.headers()) {
            Ok(user) => user,
            Err(problem) => return Either::Right(ready(Ok(problem.into_response()))),
        };
        let rate = self.guard.rate.clone();
        let left = match rate.as_deref().map(|rate| rate.take(&user.id)).transpose() {
            Ok(left) => left,
            Err(problem) => {
                let mut response = problem.into_response();
                if let Some(rate) = rate {
                    rate.tell(None, response.headers_mut());
                }
                return Either::Right(ready(Ok(response)));
            }
        };
        request.extensions_mut().insert(user);
        Either::Left(Told {
            answer: self.inner.call(request),
            rate: rate.zip(left),
        })
    }
}

pin_project! {
    /// An answer that tells its user what is left of the rate.
    pub struct Told<F> {
        #[pin]
        answer: F,
        rate: Option<(Arc<Rate>, Left)>,
    }
}

impl<F: Future<Output = Result<Response, Infallible>>> Future for Told<F> {
    type Output = Result<Response, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Ok(mut response) = task::ready!(this.answer.poll(cx));
        if let Some((rate, left)) = this.rate {
            rate.tell(Some(*left), response.headers_mut());
        }
        Poll::Ready(Ok(response))
    }
}

impl<S: Sync> FromRequestParts<S> for User {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.get().copied().ok_or_else(|| {
            tracing::error!("a handler that wants a user is in the group of anyone");
            Problem::internal()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use axum::Router;
    use axum::body::Body;
    use axum::http::{StatusCode, header};
    use axum::routing::get;
    use onsale_platform::Clock;
    use onsale_schema::{SessionId, UserId};
    use tower::ServiceExt as _;
    use uuid::Uuid;

    fn tokens() -> Tokens {
        let settings = config::Auth {
            token_secret: "ab".repeat(32).parse().unwrap(),
            access_token_ttl_s: 3600,
            refresh_token_ttl_s: 1,
            password_hashes_max: 1,
        };
        Tokens::new(&settings, Clock::default())
    }

    async fn answer(guard: Option<Guard>, token: Option<&str>) -> Result<StatusCode, Code> {
        let who = async |user: User| user.id.to_string();
        let router = Router::new().route("/", get(who));
        let router = match guard {
            Some(guard) => router.route_layer(guard),
            None => router,
        };
        let mut request = Request::get("/");
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Body::empty()).unwrap();
        let response = router.oneshot(request).await.unwrap();
        match response.extensions().get::<Problem>() {
            Some(problem) => Err(problem.code()),
            None => Ok(response.status()),
        }
    }

    #[tokio::test]
    async fn only_those_who_may_come_through() {
        let tokens = tokens();
        let token = |role| {
            let user = User {
                id: UserId(Uuid::from_u128(7)),
                session: SessionId(Uuid::from_u128(8)),
                role,
            };
            tokens.issue(user).0
        };
        let (buyer, admin) = (token(Role::Buyer), token(Role::Admin));
        let user = || Some(Guard::user(tokens.clone()));
        assert_eq!(answer(user(), Some(&buyer)).await, Ok(StatusCode::OK));
        assert_eq!(answer(user(), Some(&admin)).await, Ok(StatusCode::OK));
        assert_eq!(answer(user(), None).await, Err(Code::TokenMissing));
        assert_eq!(answer(user(), Some("x")).await, Err(Code::TokenInvalid));
        let admins = || Some(Guard::role(tokens.clone(), Role::Admin));
        assert_eq!(answer(admins(), Some(&admin)).await, Ok(StatusCode::OK));
        let refused = answer(admins(), Some(&buyer)).await;
        assert_eq!(refused, Err(Code::ForbiddenRole));
        assert_eq!(answer(admins(), None).await, Err(Code::TokenMissing));
    }

    #[tokio::test]
    async fn without_a_guard_there_is_no_user() {
        let (token, _) = tokens().issue(User {
            id: UserId(Uuid::from_u128(7)),
            session: SessionId(Uuid::from_u128(8)),
            role: Role::Admin,
        });
        let refused = answer(None, Some(&token)).await;
        assert_eq!(refused, Err(Code::InternalError));
    }
}
