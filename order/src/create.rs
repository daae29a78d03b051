//! Creating an order: order, lines, key and event in one transaction.

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
    // Outside of the transaction: the same order in each attempt.
    let order_id = OrderId::generate();
    let created = database
        .transaction("order.create", deadline, (new, changes.clone()), move |connection, (new, changes)| {
            async move {
                let (created, changed) = write(connection, order_id, new).await?;
                changes.announce_after_commit(changed);
                Ok::<_, WriteError>(created)
            }
            .boxed()
        })
        .await?;
    if !created.replayed {
        metrics::counter!(holdfast_common::metric::ORDERS_CREATED_TOTAL).increment(1);
    }
    Ok(created)
}

/// What one transaction does, and what it has changed.
async fn write(
    connection: &mut PgConnection,
    order_id: OrderId,
    NewOrder { draft, key, trace }: NewOrder,
) -> Result<(Created, Vec<ChangedOrder>), WriteError> {
    let fingerprint = idempotency::fingerprint(&draft.canonical_bytes());
    if planted(Bug::AddressInLog) {
        tracing::info!(address = draft.delivery_address, "order created");
    }
    let order = Order::create(order_id, draft, clock::now());
    let (events, creations) = outbox::columns(event::of_creation(&order, trace));
    let position = match store::insert_order(connection, &order, &key, &fingerprint, events).await? {
        Insertion::Inserted(position) => position,
        Insertion::KeyLocked => return Err(WriteError::StillRunning),
        Insertion::KeyUsed => {
            let order = replayed(connection, &order.user_id, &key, &fingerprint).await?;
            return Ok((Created { order, replayed: true }, Vec::new()));
        }
    };
    creations.after_commit();
    let changed = vec![ChangedOrder { order: order.clone(), position, previous_version: 0 }];
    Ok((Created { order, replayed: false }, changed))
}

/// The order that the key has created, as it was then.
async fn replayed(
    connection: &mut PgConnection,
    user: &UserId,
    key: &IdempotencyKey,
    fingerprint: &[u8],
) -> Result<Order, WriteError> {
    // Keys that have expired are deleted: one that was there a moment ago may be gone.
    let gone = || DatabaseError::Conflict(sqlx::Error::RowNotFound);
    let used = store::key_use(connection, user, key).await?.ok_or_else(gone)?;
    if used.fingerprint != fingerprint {
        return Err(WriteError::KeyReused);
    }
    let order = store::order_of_user(connection, used.order_id, user.clone()).await?;
    Ok(order.ok_or(DatabaseError::Corrupt("key without its order".into()))?.as_created())
}
