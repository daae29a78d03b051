//! `holdfast.ops.v1.OutboxService`: what operators do about rows that can't be published. One implementation for all
//! services.

use futures_util::FutureExt as _;
use holdfast_proto::{
    ops::v1::{self as pb, outbox_service_server::OutboxService},
    to_timestamp,
};
use sqlx::{PgConnection, Row as _};
use tonic::{Request, Response, Status};

use crate::{
    database::{self, Database, DatabaseError},
    dead_letter::messages::{actor, parse_reason, peer_of},
    deadline::Deadline,
};

const PAGE_SIZE_MAX: u32 = 1_000;
const IDS_MAX: usize = 1_000;
/// Of a key, in a listing: a key of ours is far shorter, but one of a dead letter may be as long as its record.
const KEY_BYTES_MAX: i32 = 256;

/// Serves the rows of one outbox that are held back.
#[derive(Debug, Clone)]
pub struct Outbox {
    database: Database,
    service: &'static str,
}

impl Outbox {
    /// For the service of this name.
    #[must_use]
    pub const fn new(database: Database, service: &'static str) -> Self {
        Self { database, service }
    }
}

#[tonic::async_trait]
impl OutboxService for Outbox {
    async fn list_held_back_rows(
        &self,
        request: Request<pb::ListHeldBackRowsRequest>,
    ) -> Result<Response<pb::ListHeldBackRowsResponse>, Status> {
        let deadline = Deadline::of(&request);
        let request = request.into_inner();
        if !(1..=PAGE_SIZE_MAX).contains(&request.page_size) {
            return Err(Status::invalid_argument("page_size must be 1 to 1,000"));
        }
        let after: i64 = match request.page_token.as_str() {
            "" => 0,
            token => token.parse().map_err(|_| Status::invalid_argument("page_token is not valid"))?,
        };
        let (limit, service) = (request.page_size, self.service);
        let read = self.database.read(deadline, move |connection| {
            async move { list(connection, service, after, i64::from(limit) + 1).await }.boxed()
        });
        let mut rows = read.await?;
        let limit = limit as usize;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| more).map(|row| row.id.to_string()).unwrap_or_default();
        Ok(Response::new(pb::ListHeldBackRowsResponse { rows, next_page_token: next }))
    }

    async fn retry_held_back_rows(
        &self,
        request: Request<pb::RetryHeldBackRowsRequest>,
    ) -> Result<Response<pb::RetryHeldBackRowsResponse>, Status> {
        let (deadline, peer) = (Deadline::of(&request), peer_of(&request)?);
        let request = request.into_inner();
        if request.all != request.ids.is_empty() || request.ids.len() > IDS_MAX {
            return Err(Status::invalid_argument("give 1 to 1,000 ids, or all"));
        }
        let actor = actor(&peer, &request.author)?;
        let input = (request.ids, request.all, actor);
        let retried: Result<u64, DatabaseError> = self
            .database
            .transaction("outbox.retry", deadline, input, |connection, (ids, all, actor)| {
                async move { retry(connection, &ids, all, &actor).await }.boxed()
            })
            .await;
        let retried = u32::try_from(retried?).unwrap_or(u32::MAX);
        Ok(Response::new(pb::RetryHeldBackRowsResponse { retried }))
    }

    async fn drop_held_back_rows(
        &self,
        request: Request<pb::DropHeldBackRowsRequest>,
    ) -> Result<Response<pb::DropHeldBackRowsResponse>, Status> {
        let (deadline, peer) = (Deadline::of(&request), peer_of(&request)?);
        let request = request.into_inner();
        if request.ids.is_empty() || request.ids.len() > IDS_MAX {
            return Err(Status::invalid_argument("give 1 to 1,000 ids"));
        }
        let reason = parse_reason(&request.reason)?;
        let actor = actor(&peer, &request.author)?;
        let input = (request.ids, actor, reason);
        let dropped: Result<Vec<i64>, DatabaseError> = self
            .database
            .transaction("outbox.drop", deadline, input, |connection, (ids, actor, reason)| {
                async move { drop_rows(connection, &ids, &actor, &reason).await }.boxed()
            })
            .await;
        Ok(Response::new(pb::DropHeldBackRowsResponse { dropped: dropped? }))
    }
}

async fn list(
    connection: &mut PgConnection,
    service: &str,
    after: i64,
    limit: i64,
) -> Result<Vec<pb::HeldBackRow>, DatabaseError> {
    let rows = database::query(
        "-- outbox.list_held_back
        select h.id, h.topic, substring(h.key for $3) as key, coalesce(length(h.value), 0)::bigint as value_bytes, h.created_at,
            l.retry_at, l.attempts, l.last_error,
            (select count(*) from outbox_held as b where b.lane = l.lane) - 1 as waiting_behind
        from outbox_lanes as l,
            lateral (select id, topic, key, value, created_at from outbox_held where lane = l.lane order by id limit 1) as h
        where h.id > $1
        order by h.id limit $2",
    )
    .bind(after)
    .bind(limit)
    .bind(KEY_BYTES_MAX)
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(pb::HeldBackRow {
                id: row.try_get("id")?,
                service: service.to_owned(),
                topic: row.try_get("topic")?,
                key: row.try_get::<Option<Vec<u8>>, _>("key")?.unwrap_or_default(),
                value_bytes: row.try_get("value_bytes")?,
                written_at: Some(to_timestamp(row.try_get("created_at")?)),
                retry_at: Some(to_timestamp(row.try_get("retry_at")?)),
                attempts: row.try_get("attempts")?,
                last_error: row.try_get("last_error")?,
                waiting_behind: row.try_get("waiting_behind")?,
            })
        })
        .collect()
}

async fn retry(
    connection: &mut PgConnection,
    ids: &[i64],
    all: bool,
    actor: &str,
) -> Result<u64, DatabaseError> {
    let done = database::query(
        "-- outbox.retry
        with due as (
            update outbox_lanes set retry_at = clock_timestamp()
            where $1 or lane in (select lane from outbox_held where id = any($2))
            returning lane
        )
        insert into outbox_audit (actor, action, outbox_id, topic, value_hash, reason)
        select $3, 'retry', h.id, h.topic, sha256(h.value), ''
        from due, lateral (select * from outbox_held where lane = due.lane order by id limit 1) as h",
    )
    .bind(all)
    .bind(ids)
    .bind(actor)
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

async fn drop_rows(
    connection: &mut PgConnection,
    ids: &[i64],
    actor: &str,
    reason: &str,
) -> Result<Vec<i64>, DatabaseError> {
    // Locked first, and in a fixed order: the relay may be adding rows to the same lanes.
    let lanes: Vec<Vec<u8>> = database::query(
        "-- outbox.lock_lanes
        select lane from outbox_lanes where lane in (select lane from outbox_held where id = any($1))
        order by lane for update",
    )
    .bind(ids)
    .scalars(&mut *connection)
    .await?;
    let dropped = database::query(
        "-- outbox.drop
        with gone as (delete from outbox_held where id = any($1) returning id, topic, value)
        insert into outbox_audit (actor, action, outbox_id, topic, value_hash, reason)
        select $2, 'drop', id, topic, sha256(value), $3 from gone order by id
        returning outbox_id",
    )
    .bind(ids)
    .bind(actor)
    .bind(reason)
    .scalars(&mut *connection)
    .await?;
    database::query(
        "-- outbox.release
        delete from outbox_lanes as l
        where l.lane = any($1) and not exists (select from outbox_held as h where h.lane = l.lane)",
    )
    .bind(&lanes)
    .execute(&mut *connection)
    .await?;
    // The rows behind are tried at once.
    database::query(
        "-- outbox.next\nupdate outbox_lanes set retry_at = clock_timestamp() where lane = any($1)",
    )
    .bind(&lanes)
    .execute(connection)
    .await?;
    Ok(dropped)
}
