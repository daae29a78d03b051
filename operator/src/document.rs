//! A dead letter as one document: key, headers and event of its record, with what is missing filled in from what is known.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use holdfast_common::event::NewEvent;
use holdfast_proto::{
    from_timestamp,
    ops::v1::{self as pb},
    topic,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::schema;

/// See the module. Headers that are not text are not in it, and stay as they are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    record_key: Option<String>,
    headers: BTreeMap<String, String>,
    event: Value,
    /// Whether the record had all of that.
    #[serde(skip)]
    is_whole: bool,
}

/// Whether two services have parked the same record, and both have the same edits or none.
#[must_use]
pub fn is_same_record(a: &pb::DeadLetter, b: &pb::DeadLetter) -> bool {
    (&a.key, &a.value, &a.headers) == (&b.key, &b.value, &b.headers) && Effective::of(a) == Effective::of(b)
}

/// What a redrive would handle: the record with its edits.
#[derive(PartialEq)]
struct Effective<'l> {
    key: Option<&'l [u8]>,
    value: Option<&'l [u8]>,
    headers: &'l [pb::RecordHeader],
}

impl<'l> Effective<'l> {
    fn of(letter: &'l pb::DeadLetter) -> Self {
        let edited = &letter.edited_headers;
        Self {
            key: letter.edited_key.as_deref().or(letter.key.as_deref()),
            value: letter.edited_value.as_deref().or(letter.value.as_deref()),
            headers: if edited.is_empty() { &letter.headers } else { edited },
        }
    }

    /// Without any edit.
    fn of_received(letter: &'l pb::DeadLetter) -> Self {
        Self { key: letter.key.as_deref(), value: letter.value.as_deref(), headers: &letter.headers }
    }

    /// Whether this is the one header of its name.
    fn has_only(&self, name: &str, value: &[u8]) -> bool {
        let mut of_name = self.headers.iter().filter(|header| header.name == name);
        of_name.next().is_some_and(|header| header.value == value) && of_name.next().is_none()
    }

    fn text_of(&self, name: &str) -> Option<&'l str> {
        let header = self.headers.iter().find(|header| header.name == name)?;
        std::str::from_utf8(&header.value).ok()
    }
}

/// Whether a letter would be the same with this edit of headers and key. What has a value changes something.
#[must_use]
pub fn is_without_effect(letter: &pb::DeadLetter, edit: &pb::EditDeadLetterRequest) -> bool {
    let effective = Effective::of(letter);
    if edit.revert {
        return effective == Effective::of_received(letter);
    }
    let is_key = edit.key.as_deref().is_none_or(|key| effective.key == Some(key));
    edit.value.is_empty()
        && is_key
        && edit.headers.iter().all(|header| effective.has_only(&header.name, &header.value))
}

/// `mine` with what `theirs` has made of `base`: each field as whoever has changed it, and as `mine` if both have.
fn merged(base: &Value, mine: &Value, theirs: &Value) -> Value {
    if mine == base {
        return theirs.clone();
    }
    let (Value::Object(base), Value::Object(mine_fields), Value::Object(theirs)) = (base, mine, theirs)
    else {
        return mine.clone();
    };
    let mut fields = serde_json::Map::new();
    for name in mine_fields.keys().chain(theirs.keys().filter(|name| !mine_fields.contains_key(*name))) {
        let field = match (base.get(name), mine_fields.get(name), theirs.get(name)) {
            (Some(base), Some(mine), Some(theirs)) => Some(merged(base, mine, theirs)),
            // One of them has taken it away: that counts unless the other one has changed it.
            (Some(base), Some(kept), None) | (Some(base), None, Some(kept)) => {
                Some(kept).filter(|kept| *kept != base).cloned()
            }
            // One of them has added it, or both have.
            (_, mine, theirs) => mine.or(theirs).cloned(),
        };
        if let Some(field) = field {
            fields.insert(name.clone(), field);
        }
    }
    Value::Object(fields)
}

impl Document {
    /// What was typed into this document, with what somebody else has made of it meanwhile, which is `now`. Of the same field what was
    /// typed is kept.
    pub fn rebased(&self, typed: &str, now: &Self) -> Result<String> {
        let [base, theirs] = [self, now].map(serde_json::to_value);
        let merged = merged(&base?, &serde_json::to_value(Self::parse(typed)?)?, &theirs?);
        serde_json::from_value::<Self>(merged)?.to_text()
    }

    /// That of a letter. Where its value is no event of its topic, the event is a skeleton.
    pub fn of(letter: &pb::DeadLetter) -> Result<Self> {
        let effective = Effective::of(letter);
        let decoded =
            effective.value.map(|value| schema::decode(&letter.topic, value)).transpose()?.flatten();
        // Garbage can be an event in which nothing is set.
        let decoded = decoded.filter(|event| event.as_object().is_some_and(|fields| !fields.is_empty()));
        let mut is_whole = decoded.is_some();
        let mut event = match decoded {
            Some(event) => event,
            None => schema::skeleton(&letter.topic)?,
        };
        let key = effective.key.and_then(|key| std::str::from_utf8(key).ok()).filter(|key| !key.is_empty());
        for (field, known) in [("orderId", effective.text_of("ce_subject")), ("userId", key)] {
            if let (Some(known), Some(value)) = (known, event.get_mut(field))
                && value.as_str().is_some_and(str::is_empty)
            {
                *value = known.into();
            }
        }
        let mut headers: BTreeMap<String, String> = BTreeMap::new();
        for header in effective.headers {
            if let Ok(text) = std::str::from_utf8(&header.value) {
                headers.insert(header.name.clone(), text.to_owned());
            }
        }
        let is_there = |name: &str| effective.headers.iter().any(|header| header.name == name);
        for header in known_headers(letter, &event)? {
            if !is_there(&header.name) {
                is_whole = false;
                headers.insert(header.name, String::from_utf8_lossy(&header.value).into_owned());
            }
        }
        is_whole &= key.is_some();
        let record_key = key.map(str::to_owned).or_else(|| text_of(&event, "userId"));
        Ok(Self { record_key, headers, event, is_whole })
    }

    /// Whether the record had all of it: then the same document is no edit.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.is_whole
    }

    /// For an editor: JSON on lines of its own.
    pub fn to_text(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)?)
    }

    fn parse(text: &str) -> Result<Self> {
        serde_json::from_str(text).context("not a document with record_key, headers and event")
    }

    /// The edit that makes a letter what `text` says.
    pub fn edit_to(&self, letter: &pb::DeadLetter, text: &str) -> Result<pb::EditDeadLetterRequest> {
        let wanted = Self::parse(text)?;
        let effective = Effective::of(letter);
        if let Some(missing) = self.headers.keys().find(|name| !wanted.headers.contains_key(*name)) {
            bail!("header {missing} is missing: a header can be changed, not taken away");
        }
        let value = schema::encode(&letter.topic, &wanted.event.to_string())?;
        let is_same = |(name, text): &(&String, &String)| effective.has_only(name, text.as_bytes());
        let headers = wanted.headers.iter().filter(|header| !is_same(header));
        let headers = headers
            .map(|(name, text)| pb::RecordHeader { name: name.clone(), value: text.clone().into_bytes() })
            .collect();
        let key = wanted.record_key.map(String::into_bytes);
        Ok(pb::EditDeadLetterRequest {
            value: if effective.value == Some(&value) { Vec::new() } else { value },
            key: key.filter(|key| effective.key != Some(key)),
            headers,
            ..pb::EditDeadLetterRequest::default()
        })
    }

    /// Lines that `text` has and this one has not, and the other way round.
    pub fn difference(&self, text: &str) -> Result<Vec<String>> {
        let (before, after) = (self.to_text()?, Self::parse(text)?.to_text()?);
        let only = |mark: char, lines: &str, others: &str| {
            let others: Vec<&str> = others.lines().collect();
            let lines = lines.lines().filter(|line| !others.contains(line));
            lines.map(|line| format!("{mark} {}", line.trim_end())).collect::<Vec<_>>()
        };
        let lines = [only('-', &before, &after), only('+', &after, &before)].concat();
        Ok(if lines.is_empty() { vec!["what was missing is filled in".to_owned()] } else { lines })
    }
}

fn text_of(event: &Value, field: &str) -> Option<String> {
    event.get(field).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
}

/// The headers that the letter's topic calls for, from its event.
fn known_headers(letter: &pb::DeadLetter, event: &Value) -> Result<Vec<pb::RecordHeader>> {
    let Some((name, version, writer)) = topic::event_of(&letter.topic) else {
        bail!("the schema of {} is not known here", letter.topic);
    };
    let of_record = letter
        .record_timestamp_ms
        .and_then(|ms| OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).ok());
    let time = of_record.or_else(|| from_timestamp(letter.first_failed_at.as_ref()));
    let headers = NewEvent {
        id: Uuid::now_v7(),
        topic: name,
        version,
        key: String::new(),
        subject: text_of(event, "orderId").unwrap_or_default(),
        time: time.unwrap_or_else(OffsetDateTime::now_utc),
        trace: None,
        payload: Vec::new(),
    }
    .headers(writer);
    let headers = headers.into_iter().map(|header| pb::RecordHeader {
        name: header.name,
        value: header.value.map(|value| value.to_vec()).unwrap_or_default(),
    });
    // A subject that is not known can't be filled in.
    Ok(headers.filter(|header| !header.value.is_empty()).collect())
}

/// Adds headers and key to an edit where the letter has none, and returns what was added, for people.
pub fn fill(letter: &pb::DeadLetter, edit: &mut pb::EditDeadLetterRequest) -> Result<Vec<String>> {
    let effective = Effective::of(letter);
    let value = if edit.value.is_empty() { effective.value } else { Some(edit.value.as_slice()) };
    let event =
        value.map(|value| schema::decode(&letter.topic, value)).transpose()?.flatten().unwrap_or_default();
    let mut filled = Vec::new();
    for header in known_headers(letter, &event)? {
        let has = |headers: &[pb::RecordHeader]| headers.iter().any(|there| there.name == header.name);
        if !has(effective.headers) && !has(&edit.headers) {
            filled.push(format!("{}={}", header.name, String::from_utf8_lossy(&header.value)));
            edit.headers.push(header);
        }
    }
    if effective.key.is_none_or(<[u8]>::is_empty)
        && edit.key.is_none()
        && let Some(user) = text_of(&event, "userId")
    {
        filled.push(format!("record key {user}"));
        edit.key = Some(user.into_bytes());
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use prost_reflect::prost::Message as _;

    use super::*;

    fn letter(value: Option<Vec<u8>>, headers: &[(&str, &str)], key: Option<&str>) -> pb::DeadLetter {
        let header = |(name, value): &(&str, &str)| pb::RecordHeader {
            name: (*name).to_owned(),
            value: value.as_bytes().to_vec(),
        };
        pb::DeadLetter {
            topic: topic::ORDER_CREATED.to_owned(),
            record_timestamp_ms: Some(1_769_860_800_000),
            value,
            headers: headers.iter().map(header).collect(),
            key: key.map(|key| key.as_bytes().to_vec()),
            ..pb::DeadLetter::default()
        }
    }

    /// What two have typed at once is both kept; of the same field that of whoever is asked again.
    #[test]
    fn what_another_has_changed_is_kept_beside_ones_own() {
        let of = |key: &str, address: &str, note: Option<&str>| {
            let mut headers = serde_json::json!({ "ce_id": "1" });
            if let Some(note) = note {
                headers["note"] = note.into();
            }
            let event = serde_json::json!({ "deliveryAddress": address, "items": [1] });
            serde_json::json!({ "record_key": key, "headers": headers, "event": event })
        };
        let document = |value: &Value| Document::parse(&value.to_string()).expect("a document");
        let rebased = |base: &Value, mine: &Value, theirs: &Value| -> Value {
            let text = document(base).rebased(&mine.to_string(), &document(theirs)).expect("merged");
            serde_json::from_str(&text).expect("JSON")
        };
        let base = of("user", "", None);
        assert_eq!(
            rebased(&base, &of("user", "1 Quay", None), &of("bob", "", None)),
            of("bob", "1 Quay", None)
        );
        assert_eq!(
            rebased(&base, &of("alice", "", None), &of("bob", "", Some("theirs"))),
            of("alice", "", Some("theirs")),
            "of the same field the one that was typed"
        );
        assert_eq!(rebased(&base, &base, &of("bob", "2 Quay", None)), of("bob", "2 Quay", None));
    }

    /// An edit that changes nothing is known before it is made.
    #[test]
    fn an_edit_without_effect_is_known() {
        let letter = letter(Some(created()), &[("ce_id", "1"), ("twice", "a"), ("twice", "a")], Some("user"));
        let edit = |name: &str, value: &str, key: Option<&str>| pb::EditDeadLetterRequest {
            headers: vec![pb::RecordHeader { name: name.to_owned(), value: value.as_bytes().to_vec() }],
            key: key.map(|key| key.as_bytes().to_vec()),
            ..Default::default()
        };
        assert!(is_without_effect(&letter, &edit("ce_id", "1", Some("user"))));
        assert!(!is_without_effect(&letter, &edit("ce_id", "2", None)));
        assert!(!is_without_effect(&letter, &edit("ce_id", "1", Some("other"))));
        assert!(!is_without_effect(&letter, &edit("twice", "a", None)), "it would be there once");
        let revert = pb::EditDeadLetterRequest { revert: true, ..Default::default() };
        assert!(is_without_effect(&letter, &revert));
        let edited = pb::DeadLetter { edited_key: Some(b"other".to_vec()), ..letter };
        assert!(!is_without_effect(&edited, &revert));
    }

    fn created() -> Vec<u8> {
        holdfast_proto::order::v1::OrderCreated {
            order_id: "o-1".to_owned(),
            user_id: "alice".to_owned(),
            ..Default::default()
        }
        .encode_to_vec()
    }

    /// A record that was sent by hand, without key and headers, gets all that an event needs.
    #[test]
    fn a_bare_record_is_filled_in() {
        let bare = letter(Some(created()), &[], None);
        let mut edit = pb::EditDeadLetterRequest::default();
        let filled = fill(&bare, &mut edit).expect("known");
        assert_eq!(filled.len(), 8, "{filled:?}");
        for expected in [
            "ce_specversion=1.0",
            "ce_source=/holdfast/order",
            "ce_type=holdfast.order.created.v1",
            "ce_subject=o-1",
            "ce_time=2026-01-31T12:00:00Z",
            "content-type=application/protobuf",
            "record key alice",
        ] {
            assert!(filled.iter().any(|filled| filled == expected), "{expected} in {filled:?}");
        }
        // What is there, or is given, stays.
        let known = letter(Some(created()), &[("ce_id", "7"), ("ce_subject", "o-2")], Some("bob"));
        let header = pb::RecordHeader { name: "ce_type".to_owned(), value: b"mine".to_vec() };
        let mut edit = pb::EditDeadLetterRequest { headers: vec![header], ..Default::default() };
        let filled = fill(&known, &mut edit).expect("known");
        assert!(
            !filled.iter().any(|text| ["ce_id", "ce_subject", "ce_type", "record"]
                .iter()
                .any(|name| text.starts_with(name))),
            "{filled:?}"
        );
        assert!(edit.key.is_none());
    }

    /// A value that is no event gets a skeleton with what the headers say; the document made whole is an edit.
    #[test]
    fn garbage_gets_a_skeleton() {
        let garbage = letter(Some(vec![0xff; 7]), &[("ce_subject", "o-1")], Some("alice"));
        let document = Document::of(&garbage).expect("known");
        assert_eq!((&document.event["orderId"], &document.event["userId"]), (&"o-1".into(), &"alice".into()));
        assert_eq!(document.event["total"]["currency"], "EUR", "{}", document.event);
        assert_eq!(document.headers["ce_type"], "holdfast.order.created.v1");
        assert!(!document.is_complete());
        let text = document
            .to_text()
            .expect("text")
            .replace("\"deliveryAddress\": \"\"", "\"deliveryAddress\": \"1 Quay\"");
        let edit = document.edit_to(&garbage, &text).expect("an edit");
        assert!(!edit.value.is_empty() && edit.key.is_none());
        assert_eq!(edit.headers.len(), 6, "all but the subject");
        let difference = document.difference(&text).expect("text");
        assert!(
            difference.iter().any(|line| line.starts_with('+') && line.contains("1 Quay")),
            "{difference:?}"
        );
    }

    /// Letters of one record are the same until one of them is edited.
    #[test]
    fn what_was_edited_otherwise_is_not_the_same() {
        let one = letter(Some(created()), &[("ce_id", "7")], None);
        let other = pb::DeadLetter { id: "other".to_owned(), class: "decode".to_owned(), ..one.clone() };
        assert!(is_same_record(&one, &other));
        let header = pb::RecordHeader { name: "ce_id".to_owned(), value: b"8".to_vec() };
        for different in [
            pb::DeadLetter { edited_key: Some(b"alice".to_vec()), ..other.clone() },
            pb::DeadLetter { edited_headers: vec![header], ..other.clone() },
            pb::DeadLetter { edited_value: Some(Vec::new()), ..other.clone() },
            // The topic was made anew, and another record is at this place.
            pb::DeadLetter { value: Some(Vec::new()), ..other.clone() },
        ] {
            assert!(!is_same_record(&one, &different), "{different:?}");
        }
    }

    /// Of a whole record only what was changed is an edit; a header can't be taken away, and garbage is refused.
    #[test]
    fn only_what_was_changed_is_an_edit() {
        let mut whole = letter(Some(created()), &[], Some("alice"));
        let mut edit = pb::EditDeadLetterRequest::default();
        fill(&whole, &mut edit).expect("known");
        whole.headers = edit.headers;
        let document = Document::of(&whole).expect("known");
        assert!(document.is_complete());
        let text = document.to_text().expect("text");
        let nothing = document.edit_to(&whole, &text).expect("the same");
        assert!(
            nothing.value.is_empty() && nothing.key.is_none() && nothing.headers.is_empty(),
            "{nothing:?}"
        );
        let other = document
            .edit_to(&whole, &text.replace("v1", "v2").replace("\"alice\"", "\"bob\""))
            .expect("an edit");
        assert_eq!(other.headers.iter().map(|header| header.name.as_str()).collect::<Vec<_>>(), ["ce_type"]);
        assert_eq!(other.key.as_deref(), Some(&b"bob"[..]));
        for wrong in [text.replace("ce_id", "id"), text.replace("\"event\"", "\"evnt\""), String::new()] {
            assert!(document.edit_to(&whole, &wrong).is_err(), "{wrong}");
        }
    }
}
