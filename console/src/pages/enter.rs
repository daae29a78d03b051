//! Signing in: a ticket in the address becomes a cookie, and the address is left at once.

use axum::{
    extract::{Query, State},
    http::{StatusCode, header},
    response::{IntoResponse as _, Redirect, Response},
};
use holdfast_operator::ticket::{self, May};
use serde::Deserialize;
use time::OffsetDateTime;

use crate::{session::SESSION_TIME, state::Console, view::message};

#[derive(Deserialize)]
pub(crate) struct Wanted {
    #[serde(default)]
    ticket: String,
}

pub(crate) async fn page(State(console): State<Console>, Query(wanted): Query<Wanted>) -> Response {
    let now = OffsetDateTime::now_utc();
    let folder = console.tickets.clone();
    let redeemed = tokio::task::spawn_blocking(move || ticket::redeem(&folder, &wanted.ticket, now)).await;
    let author = match redeemed {
        Ok(Ok(author)) => author,
        Ok(Err(error)) => return failed(&format!("{error:#}")),
        Err(error) => return failed(&error.to_string()),
    };
    let Some(author) = author else {
        let command = console.ticket_command(May::Look);
        return message(
            StatusCode::UNAUTHORIZED,
            "Not signed in",
            format!("this address was used, or has expired. Type `{command}` for another one"),
        );
    };
    let may_change = console.may_change(&author);
    tracing::info!(author = author.name, may_change, "an operator has signed in");
    match console.sessions.begin(author, now) {
        Ok(cookie) => {
            let cookie = format!(
                "{}={cookie}; Path=/; HttpOnly; SameSite=Strict; Max-Age={}",
                console.cookie,
                SESSION_TIME.as_secs()
            );
            ([(header::SET_COOKIE, cookie)], Redirect::to("/")).into_response()
        }
        Err(error) => failed(&format!("{error:#}")),
    }
}

fn failed(why: &str) -> Response {
    message(StatusCode::INTERNAL_SERVER_ERROR, "Not signed in", why)
}
