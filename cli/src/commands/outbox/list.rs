//! `outbox list`.

use anyhow::Result;
use clap::Args;
use holdfast_proto::{from_timestamp, ops::v1 as pb};
use serde::Serialize;
use time::format_description::well_known::Rfc3339;

use crate::{
    options::{Output, service_names},
    output::{Outcome, data, say},
    services::Services,
    table::Table,
    target::Target,
};

/// Rows of one page.
const PAGE_SIZE: u32 = 500;

#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    target: Target,
    /// Of this service
    #[arg(long, value_name = "SERVICE", value_parser = service_names())]
    service: Option<String>,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Document {
    rows: Vec<RowLine>,
}

/// A row, as `-o json` shows it.
#[derive(Serialize)]
struct RowLine {
    service: String,
    id: i64,
    topic: String,
    key: String,
    value_bytes: i64,
    written_at: String,
    retry_at: String,
    attempts: i32,
    waiting_behind: i64,
    last_error: String,
}

fn text_of(time: Option<&prost_types::Timestamp>) -> String {
    from_timestamp(time).and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default()
}

impl From<pb::HeldBackRow> for RowLine {
    fn from(row: pb::HeldBackRow) -> Self {
        Self {
            written_at: text_of(row.written_at.as_ref()),
            retry_at: text_of(row.retry_at.as_ref()),
            key: String::from_utf8_lossy(&row.key).escape_debug().to_string(),
            service: row.service,
            id: row.id,
            topic: row.topic,
            value_bytes: row.value_bytes,
            attempts: row.attempts,
            waiting_behind: row.waiting_behind,
            last_error: row.last_error,
        }
    }
}

impl List {
    pub(super) async fn run(&self) -> Result<Outcome> {
        let services = Services::connect(&self.target, self.service.as_deref())?;
        let answers = services
            .ask(async |service| {
                let mut rows = Vec::new();
                let mut page_token = String::new();
                loop {
                    let request =
                        service.request(pb::ListHeldBackRowsRequest { page_size: PAGE_SIZE, page_token })?;
                    let page = service.answer(service.outbox().list_held_back_rows(request).await)?;
                    rows.extend(page.rows);
                    page_token = page.next_page_token;
                    if page_token.is_empty() {
                        return Ok(rows);
                    }
                }
            })
            .await?;
        let rows: Vec<RowLine> =
            answers.each.iter().flat_map(|(_, rows)| rows).cloned().map(RowLine::from).collect();
        let none = rows.is_empty();
        let document = Document { rows };
        self.output.print(&document, || if none { Ok(()) } else { data!("{}", table(&document.rows)) })?;
        if none {
            say!("nothing is held back{}", answers.elsewhere());
            return Ok(answers.outcome(Outcome::NothingMatched));
        }
        Ok(answers.outcome(Outcome::Done))
    }
}

fn table(rows: &[RowLine]) -> Table {
    let mut table =
        Table::new(&["SERVICE", "ID", "TOPIC", "KEY", "BYTES", "WRITTEN", "ATTEMPTS", "BEHIND", "ERROR"])
            .cutting(&["ERROR", "KEY"])
            .sparing(&["BYTES", "ATTEMPTS", "WRITTEN"]);
    for row in rows {
        table.add_row([
            &row.service,
            &row.id.to_string(),
            &row.topic,
            &row.key,
            &row.value_bytes.to_string(),
            &row.written_at,
            &row.attempts.to_string(),
            &row.waiting_behind.to_string(),
            &row.last_error,
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{output::json, snapshot, table::at_all_widths};

    /// What is typed next, service and id, is seen at every width.
    #[test]
    fn rows_are_shown() {
        let row = pb::HeldBackRow {
            service: "order".to_owned(),
            id: 4_711,
            topic: "order.created".to_owned(),
            key: b"user-0198".to_vec(),
            value_bytes: 1_048_577,
            written_at: Some(prost_types::Timestamp { seconds: 1_769_860_800, nanos: 0 }),
            retry_at: None,
            attempts: 12,
            waiting_behind: 3,
            last_error: "MessageSizeTooLarge (Broker: Message size too large)".to_owned(),
        };
        let rows = vec![
            RowLine::from(row.clone()),
            RowLine::from(pb::HeldBackRow { id: 5, key: vec![0xff, 0], ..row }),
        ];
        snapshot::check("tables/outbox-list.txt", &at_all_widths(&table(&rows)));
        snapshot::check("json/outbox-list.json", &json(&Document { rows }));
    }
}
