//! Letters that an operator names: by their ids, by the beginnings of them, or in a list on standard input.

use std::io::{self, Read as _};

use anyhow::{Context as _, Result, bail, ensure};
use holdfast_proto::ops::v1 as pb;
use uuid::Uuid;

use crate::{
    output::{NothingMatched, UsageError},
    services::Services,
};

/// Fewer characters select too much.
const PREFIX_DIGITS_MIN: usize = 4;
/// Hexadecimal digits of a whole id.
const DIGITS: usize = 32;
/// Letters that begin alike and are named in the message.
const CANDIDATES_MAX: u32 = 5;
/// Of a list on standard input: far more than the letters of any incident.
const LIST_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What was typed for an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Named {
    /// An id.
    Whole(Uuid),
    /// The first digits of one, without hyphens, in lower case.
    Prefix(String),
    /// `-`: the ids are on standard input, separated by white space.
    Listed,
}

/// An empty value must never match everything, so ids are checked here, before any call.
pub(super) fn parse_named(text: &str) -> Result<Named> {
    if text == "-" {
        return Ok(Named::Listed);
    }
    let digits: String = text.chars().filter(|c| *c != '-').collect::<String>().to_lowercase();
    let is_hexadecimal = digits.chars().all(|c| c.is_ascii_hexdigit());
    match digits.len() {
        DIGITS if is_hexadecimal => {
            let id = Uuid::try_parse(&digits).ok().filter(|id| !id.is_nil());
            id.map(Named::Whole).context("must be an id that is not zero")
        }
        PREFIX_DIGITS_MIN..DIGITS if is_hexadecimal => Ok(Named::Prefix(digits)),
        _ => bail!(
            "must be an id such as 01a21184-8763-7214-acea-bb1c3b689082, or how it begins ({PREFIX_DIGITS_MIN} characters or more)"
        ),
    }
}

impl Services {
    /// The ids of what was named, each once and in this order. A usage error if one is the beginning of several, and nothing that
    /// matches if it is that of none. Whole ids are taken as they are.
    pub(super) async fn resolve(&self, named: &[Named]) -> Result<Vec<Uuid>> {
        let mut ids = Vec::new();
        let listed = if named.contains(&Named::Listed) { read_list(io::stdin())? } else { Vec::new() };
        let typed = named.iter().filter(|named| **named != Named::Listed);
        for named in typed.chain(&listed) {
            let id = match named {
                Named::Whole(id) => *id,
                Named::Prefix(digits) => self.only_one(digits).await?,
                Named::Listed => bail!("a list cannot name another one"),
            };
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        Ok(ids)
    }

    /// The one letter of any service whose id begins so.
    async fn only_one(&self, digits: &str) -> Result<Uuid> {
        let answers = self
            .ask(async |service| {
                let request = service.request(pb::ListDeadLettersRequest {
                    id_prefix: digits.to_owned(),
                    page_size: CANDIDATES_MAX + 1,
                    ..pb::ListDeadLettersRequest::default()
                })?;
                Ok(service.answer(service.dead_letters().list_dead_letters(request).await)?)
            })
            .await?;
        let found =
            answers.each.into_iter().flat_map(|(_, answer)| answer.dead_letters).map(|letter| letter.id);
        // A service of a version that does not know beginnings returns others.
        let mut found: Vec<String> = found.filter(|id| id.replace('-', "").starts_with(digits)).collect();
        found.sort();
        match found.as_slice() {
            [] => Err(NothingMatched(format!("no dead letter has an id that begins with {digits}")).into()),
            [only] => Uuid::try_parse(only).context("a response with an id that is none"),
            several => {
                let most = CANDIDATES_MAX as usize;
                let more = if several.len() > most { " and more" } else { "" };
                let shown = several.iter().take(most).cloned().collect::<Vec<_>>().join(", ");
                Err(UsageError(format!("several ids begin with {digits}: {shown}{more}")).into())
            }
        }
    }
}

fn read_list(input: impl io::Read) -> Result<Vec<Named>> {
    let mut text = String::new();
    input.take(LIST_BYTES_MAX + 1).read_to_string(&mut text).context("cannot read standard input")?;
    ensure!(text.len() as u64 <= LIST_BYTES_MAX, "the list of ids has more than {LIST_BYTES_MAX} bytes");
    let named = text.split_whitespace().map(|word| {
        let named =
            parse_named(word).map_err(|error| UsageError(format!("{word} on standard input {error}")))?;
        if named == Named::Listed {
            bail!(UsageError("- on standard input is no id".to_owned()));
        }
        Ok(named)
    });
    let named: Vec<Named> = named.collect::<Result<_>>()?;
    if named.is_empty() {
        bail!(NothingMatched("standard input has no ids".to_owned()));
    }
    Ok(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An id, its beginning, and a list are told apart; what is none of them is refused, also on standard input.
    #[test]
    fn ids_and_their_beginnings_are_read() {
        let id = "01a21184-8763-7214-acea-bb1c3b689082";
        let whole = Named::Whole(Uuid::try_parse(id).expect("an id"));
        for text in [id, "01A21184-8763-7214-ACEA-BB1C3B689082", "01a2118487637214aceabb1c3b689082"] {
            assert_eq!(parse_named(text).expect("an id"), whole, "{text}");
        }
        assert_eq!(parse_named("01A21184-87").expect("a beginning"), Named::Prefix("01a2118487".to_owned()));
        assert_eq!(parse_named("-").expect("a list"), Named::Listed);
        for wrong in
            ["", " ", "01a", "nonsense", "user-123", "00000000-0000-0000-0000-000000000000", &"a".repeat(33)]
        {
            assert!(parse_named(wrong).is_err(), "{wrong:?}");
        }
        let list = format!("{id}\n01a2 \t 01b3\n");
        let read = read_list(list.as_bytes()).expect("ids");
        assert_eq!(read, [whole, Named::Prefix("01a2".to_owned()), Named::Prefix("01b3".to_owned())]);
        for wrong in ["", " \n", "01a2 nonsense", "-"] {
            assert!(read_list(wrong.as_bytes()).is_err(), "{wrong:?}");
        }
        assert!(read_list(io::repeat(b'a')).is_err(), "it has an end");
    }
}
