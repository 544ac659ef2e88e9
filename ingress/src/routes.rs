//! The one list of routes. A route stands in a group, and the group says who may call it
//! ([`crate::access`]), to the server as to the document: there is no third place to forget.

use crate::access::{Access, Guard};
use crate::app::App;
use crate::catalogue::{self, edit, new_schedule};
use crate::openapi;
use crate::{
    access_codes, audit, blocks, commands, dead_letters, docs, draw, events, health, layout,
    notifications, orders, payments, points, policy, reservations, room, seat_history, seat_map,
    shows, tasks, users, webhooks,
};
use axum::Router;
use onsale_schema::status::Role;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};
use utoipa_axum::routes;

/// Where the API is.
pub const PREFIX: &str = "/api/v1";

/// For everybody.
fn anyone(group: Group) -> Group {
    group
        .routes(routes!(users::create))
        .routes(routes!(users::sign_in))
        .routes(routes!(users::refresh))
        .routes(routes!(users::revoke))
        .routes(routes!(catalogue::list))
        .routes(routes!(catalogue::concert))
        .routes(routes!(catalogue::schedules))
        .routes(routes!(catalogue::schedule))
        .routes(routes!(layout::get))
        .routes(routes!(seat_map::get))
        .routes(routes!(draw::get))
        .routes(routes!(draw::list))
        .routes(routes!(events::follow))
        .routes(routes!(notifications::take))
}

/// For those who are signed in; what they see and change is their own.
fn user(group: Group) -> Group {
    group
        .routes(routes!(users::sign_out))
        .routes(routes!(users::me))
        .routes(routes!(events::create_token))
        .routes(routes!(points::balance))
        .routes(routes!(points::charge))
        .routes(routes!(points::history))
        .routes(routes!(room::join, room::get, room::leave))
        .routes(routes!(reservations::create, reservations::list))
        .routes(routes!(reservations::get, reservations::release))
        .routes(routes!(reservations::extend))
        .routes(routes!(reservations::cancel))
        .routes(routes!(payments::create, payments::list))
        .routes(routes!(payments::get))
        .routes(routes!(orders::create))
        .routes(routes!(orders::get))
        .routes(routes!(orders::confirm))
        .routes(routes!(commands::get))
}

/// For administrators.
fn admin(group: Group) -> Group {
    group
        .routes(routes!(edit::concert_create))
        .routes(routes!(edit::concert_edit))
        .routes(routes!(new_schedule::schedule_create))
        .routes(routes!(policy::edit))
        .routes(routes!(room::watch))
        .routes(routes!(draw::beacon::name))
        .routes(routes!(draw::beacon::reveal))
        .routes(routes!(access_codes::create, access_codes::list))
        .routes(routes!(access_codes::revoke))
        .routes(routes!(shows::create, shows::get))
        .routes(routes!(layout::put))
        .routes(routes!(blocks::create, blocks::list))
        .routes(routes!(blocks::lift))
        .routes(routes!(seat_history::get))
        .routes(routes!(dead_letters::list))
        .routes(routes!(dead_letters::retry))
        .routes(routes!(tasks::list))
        .routes(routes!(tasks::retry))
        .routes(routes!(tasks::resolve))
        .routes(routes!(tasks::compare))
        .routes(routes!(tasks::write_off))
        .routes(routes!(webhooks::create, webhooks::list))
        .routes(routes!(webhooks::get, webhooks::edit, webhooks::delete))
        .routes(routes!(webhooks::rotate))
        .routes(routes!(audit::get))
}

/// For whoever runs it and whoever reads about it; outside of the API's versions.
fn process() -> OpenApiRouter<App> {
    OpenApiRouter::default()
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
        .routes(routes!(docs::openapi))
        .routes(routes!(docs::page))
        .routes(routes!(docs::asset))
}

/// Routes with one guard.
struct Group {
    guard: Option<Guard>,
    router: OpenApiRouter<App>,
}

impl Group {
    fn routes(mut self, (schemas, paths, methods): UtoipaMethodRouter<App>) -> Self {
        let methods = match &self.guard {
            // Around each method, so that one that is not known is still answered 405.
            Some(guard) => methods.route_layer(guard.clone()),
            None => methods,
        };
        self.router = self.router.routes((schemas, paths, methods));
        self
    }
}

/// All routes, each with its group's guard.
fn all(guard: impl Fn(Access) -> Option<Guard>) -> OpenApiRouter<App> {
    let mut api = OpenApiRouter::default();
    for access in [Access::Anyone, Access::User, Access::Admin] {
        let group = Group {
            guard: guard(access),
            router: OpenApiRouter::default(),
        };
        let mut router = match access {
            Access::Anyone => anyone(group),
            Access::User => user(group),
            Access::Admin => admin(group),
        }
        .router;
        openapi::imply_access(access, router.get_openapi_mut());
        api = api.merge(router);
    }
    OpenApiRouter::with_openapi(openapi::head())
        .merge(process())
        .nest(PREFIX, api)
}

/// The routes, with their guards.
pub fn router(app: App) -> Router {
    let guard = |access| match access {
        Access::Anyone => None,
        Access::User => Some(Guard::user(app.tokens.clone()).at(app.user_rate.clone())),
        Access::Admin => {
            let guard = Guard::role(app.tokens.clone(), Role::Admin);
            Some(guard.at(app.user_rate.clone()))
        }
    };
    all(guard).with_state(app.clone()).into()
}

/// The document of all routes.
#[must_use]
pub fn document() -> OpenApi {
    let mut document = all(|_| None).into_openapi();
    openapi::finish(&mut document);
    document
}

/// The document as a text for people and files.
///
/// # Panics
/// Never: a document has a JSON form.
#[must_use]
pub fn document_text() -> String {
    let json = serde_json::to_string_pretty(&document());
    json.expect("a document has a JSON form") + "\n"
}
