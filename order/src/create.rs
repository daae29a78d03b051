//! Creating an order: order, lines, key and event in one statement, which is a transaction of its own.

use futures_util::FutureExt as _;
use holdfast_common::{
    clock,
    database::{Database, DatabaseError},
    deadline::Deadline,
    idempotency::{self, WriteError},
    outbox,
    planted::{Bug, planted},
    trace::TraceContext,
};
use holdfast_proto::{IdempotencyKey, OrderId, UserId};
use sqlx::PgConnection;

use crate::{
    changes::Changes,
    domain::{Draft, Order},
    event,
    store::{self, ChangedOrder, Insertion},
};

/// A checked request for an order.
#[derive(Debug, Clone)]
pub(crate) struct NewOrder {
    pub(crate) draft: Draft,
    pub(crate) key: IdempotencyKey,
    pub(crate) trace: Option<TraceContext>,
}

/// An order as it was created.
#[derive(Debug)]
pub(crate) struct Created {
    pub(crate) order: Order,
    /// An earlier call with the same key has created it.
    pub(crate) replayed: bool,
}

/// Creates the order, or returns the one that its key has created before.
pub(crate) async fn create(
    database: &Database,
    changes: &Changes,
    new: NewOrder,
    deadline: Deadline,
) -> Result<Created, WriteError> {
    let fingerprint = idempotency::fingerprint(&new.draft.canonical_bytes());
    let (user, key) = (new.draft.user_id.clone(), new.key.clone());
    if planted(Bug::AddressInLog) {
        tracing::info!(address = new.draft.delivery_address, "order created");
    }
    // Outside of the statement: the same order in each attempt.
    let order = Order::create(OrderId::generate(), new.draft, clock::now());
    let input =
        NewRows { order: order.clone(), key: new.key, fingerprint: fingerprint.clone(), trace: new.trace };
    let changes = changes.clone();
    let insertion = database.single_statement("order.create", deadline, input, move |connection, rows| {
        insert(connection, changes.clone(), rows).boxed()
    });
    match insertion.await? {
        Insertion::Inserted(_) => {
            metrics::counter!(holdfast_common::metric::ORDERS_CREATED_TOTAL).increment(1);
            Ok(Created { order, replayed: false })
        }
        Insertion::KeyLocked => Err(WriteError::StillRunning),
        Insertion::KeyUsed => {
            let before = database.read(deadline, |connection| created_before(connection, user, key).boxed());
            let (used, order) = before.await?;
            if used == fingerprint {
                Ok(Created { order, replayed: true })
            } else {
                Err(WriteError::KeyReused)
            }
        }
    }
}

/// What the statement writes.
#[derive(Debug, Clone)]
struct NewRows {
    order: Order,
    key: IdempotencyKey,
    fingerprint: Vec<u8>,
    trace: Option<TraceContext>,
}

async fn insert(
    connection: &mut PgConnection,
    changes: Changes,
    NewRows { order, key, fingerprint, trace }: NewRows,
) -> Result<Insertion, DatabaseError> {
    changes.doubt_if_unknown();
    let (events, creations) = outbox::columns(event::of_creation(&order, trace));
    let insertion = store::insert_order(connection, &order, &key, &fingerprint, events).await?;
    if let Insertion::Inserted(position) = insertion {
        creations.after_commit();
        changes.announce_after_commit(vec![ChangedOrder { order, position, previous_version: 0 }]);
    }
    Ok(insertion)
}

/// The order that the key has created, as it was then, and the fingerprint of what it was used for.
async fn created_before(
    connection: &mut PgConnection,
    user: UserId,
    key: IdempotencyKey,
) -> Result<(Vec<u8>, Order), DatabaseError> {
    // Keys that have expired are deleted: one that was there a moment ago may be gone, and the caller may ask again.
    let gone = || DatabaseError::Conflict(sqlx::Error::RowNotFound);
    let used = store::key_use(connection, &user, &key).await?.ok_or_else(gone)?;
    let order = store::order_of_user(connection, used.order_id, user).await?;
    let order = order.ok_or(DatabaseError::Corrupt("key without its order".into()))?;
    Ok((used.fingerprint, order.as_created()))
}
