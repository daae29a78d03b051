//! All routes. They are rows of one table, and each row goes through the guard: there is no other way in.

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    middleware::{self, Next},
    routing::{MethodRouter, get, post},
};

use crate::{
    guard::{Effect, guard, no_such_page},
    pages::{
        asset, audit, components, desk, edit, enter, find, groups, job, letter, letters, list, live, message,
        order, order_messages, outbox, reconcile, redrives, reemit, resume, revert, skip, start, stuck,
        topic, topics,
    },
    state::Console,
};

/// Of a body: an event as JSON in a form. What is larger is edited with the command.
pub(crate) const BODY_BYTES_MAX: usize = 256 * 1024;

/// One route: `POST` if it changes something, else `GET`.
pub(crate) struct Route {
    pub(crate) path: &'static str,
    pub(crate) effect: Effect,
    handler: fn() -> MethodRouter<Console>,
}

const fn route(path: &'static str, effect: Effect, handler: fn() -> MethodRouter<Console>) -> Route {
    Route { path, effect, handler }
}

/// See the module.
pub(crate) static ROUTES: [Route; 37] = [
    route("/open", Effect::Public, || get(enter::page)),
    route("/console.css", Effect::Public, || get(asset::style)),
    route("/console.js", Effect::Public, || get(asset::script)),
    route("/icon.svg", Effect::Public, || get(asset::icon)),
    route("/", Effect::Read, || get(start::page)),
    route("/live", Effect::Read, || get(live::stream)),
    route("/find", Effect::Read, || get(find::page)),
    route("/orders/{id}", Effect::Read, || get(order::page)),
    route("/orders/{id}/messages", Effect::Read, || get(order_messages::page)),
    route("/stuck", Effect::Read, || get(stuck::page)),
    route("/reconcile", Effect::Read, || get(reconcile::page)),
    route("/reconcile/reemit", Effect::Read, || get(reemit::page)),
    route("/reconcile/reemit", Effect::Write, || post(reemit::submit)),
    route("/letters", Effect::Read, || get(letters::page)),
    route("/letters/list", Effect::Read, || get(list::page)),
    route("/letters/{id}", Effect::Read, || get(letter::page)),
    route("/letters/{id}/edit", Effect::Read, || get(edit::page)),
    route("/letters/{id}/edit", Effect::Write, || post(edit::submit)),
    route("/letters/{id}/revert", Effect::Read, || get(revert::page)),
    route("/letters/{id}/revert", Effect::Write, || post(revert::submit)),
    route("/desk", Effect::Read, || get(desk::page)),
    route("/desk", Effect::Write, || post(desk::submit)),
    route("/jobs/{id}", Effect::Read, || get(job::page)),
    route("/redrives", Effect::Read, || get(redrives::page)),
    route("/redrives/{id}", Effect::Read, || get(redrives::end)),
    route("/redrives/{id}", Effect::Write, || post(redrives::submit)),
    route("/groups", Effect::Read, || get(groups::page)),
    route("/groups/resume", Effect::Read, || get(resume::page)),
    route("/groups/resume", Effect::Write, || post(resume::submit)),
    route("/groups/skip", Effect::Read, || get(skip::page)),
    route("/groups/skip", Effect::Write, || post(skip::submit)),
    route("/topics", Effect::Read, || get(topics::page)),
    route("/topics/{topic}", Effect::Read, || get(topic::page)),
    route("/topics/{topic}/{partition}/{offset}", Effect::Read, || get(message::page)),
    route("/outbox", Effect::Read, || get(outbox::page)),
    route("/audit", Effect::Read, || get(audit::page)),
    route("/components", Effect::Read, || get(components::page)),
];

/// Puts routes and guard together.
pub(crate) fn router(console: Console) -> Router {
    let mut router = Router::new();
    for Route { path, effect, handler, .. } in &ROUTES {
        let (console, effect) = (console.clone(), *effect);
        let layer = middleware::from_fn(move |request: Request, next: Next| {
            let console = console.clone();
            async move { guard(console, effect, request, next).await }
        });
        router = router.route(path, handler().layer(layer));
    }
    router
        .fallback(no_such_page)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn(holdfast_common::http::refuse))
        .with_state(console)
}

#[cfg(test)]
mod tests;
