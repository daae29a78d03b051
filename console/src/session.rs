//! Who is signed in. Sessions are in memory only: they end with the process, and after [`SESSION_TIME`].

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Result;
use holdfast_operator::ticket::{Author, digest_of, secret};
use time::OffsetDateTime;

/// A working day.
pub(crate) const SESSION_TIME: Duration = Duration::from_secs(8 * 3600);
/// At a time; beyond that the one that ends first goes.
const SESSIONS_MAX: usize = 64;

/// Somebody who is signed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Session {
    /// Whom the audit names, and what they may do.
    pub(crate) author: Author,
}

#[derive(Debug)]
struct Entry {
    session: Session,
    ends_at: OffsetDateTime,
}

/// Of those who have signed in with a ticket, by the digest of their cookie.
#[derive(Debug, Default)]
pub(crate) struct Sessions(Mutex<HashMap<String, Entry>>);

impl Sessions {
    fn all(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        // Nothing that holds it can leave it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a session and returns its cookie.
    pub(crate) fn begin(&self, author: Author, now: OffsetDateTime) -> Result<String> {
        let cookie = secret()?;
        let ends_at = now + time::Duration::try_from(SESSION_TIME)?;
        let mut all = self.all();
        all.retain(|_, entry| entry.ends_at > now);
        if all.len() >= SESSIONS_MAX
            && let Some(first) = all.iter().min_by_key(|(_, entry)| entry.ends_at)
        {
            let first = first.0.clone();
            all.remove(&first);
        }
        all.insert(digest_of(&cookie), Entry { session: Session { author }, ends_at });
        Ok(cookie)
    }

    /// The session of a cookie.
    pub(crate) fn of(&self, cookie: &str, now: OffsetDateTime) -> Option<Session> {
        let all = self.all();
        all.get(&digest_of(cookie)).filter(|entry| entry.ends_at > now).map(|entry| entry.session.clone())
    }
}

#[cfg(test)]
mod tests {
    use holdfast_operator::ticket::May;

    use super::*;

    /// A session is that of its cookie, ends, and there are never more than so many.
    #[test]
    fn a_session_ends() {
        let sessions = Sessions::default();
        let now = OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000);
        let author = |name: &str| Author { name: name.to_owned(), may: May::Change };
        let first = sessions.begin(author("alice"), now).expect("random");
        assert_eq!(sessions.of(&first, now).map(|session| session.author), Some(author("alice")));
        assert_eq!(sessions.of("", now), None);
        assert_eq!(sessions.of(&digest_of(&first), now), None);
        let later = now + time::Duration::try_from(SESSION_TIME).expect("short");
        assert_eq!(sessions.of(&first, later), None);
        for seconds in 1..=SESSIONS_MAX {
            let now = now + time::Duration::seconds(i64::try_from(seconds).expect("small"));
            sessions.begin(author("bob"), now).expect("random");
        }
        assert_eq!(sessions.of(&first, now), None, "the oldest had to go");
        assert_eq!(sessions.all().len(), SESSIONS_MAX);
    }
}
