//! Crediting an account: account, ledger entry and key in one transaction.

use futures_util::FutureExt as _;
use holdfast_common::{
    clock,
    database::{Database, DatabaseError},
    deadline::Deadline,
    idempotency::{self, WriteError},
};
use holdfast_proto::{Currency, IdempotencyKey, Money, UserId};
use sqlx::PgConnection;

use crate::{
    domain::{EntryKind, Violation},
    store::{self, Changes},
};

/// A checked request for a credit.
#[derive(Debug, Clone)]
pub(crate) struct Credit {
    pub(crate) user_id: UserId,
    pub(crate) amount: Money,
    pub(crate) requested_by: UserId,
    pub(crate) key: IdempotencyKey,
}

/// An account after its credit.
#[derive(Debug)]
pub(crate) struct Credited {
    pub(crate) balance: Money,
    /// An earlier call with the same key has credited it.
    pub(crate) replayed: bool,
}

/// Credits the account, or returns what its key has credited before.
pub(crate) async fn credit(
    database: &Database,
    credit: Credit,
    deadline: Deadline,
) -> Result<Credited, WriteError<Violation>> {
    database
        .transaction("payment.credit", deadline, credit, |connection, credit| {
            write(connection, credit).boxed()
        })
        .await
}

async fn write(
    connection: &mut PgConnection,
    Credit { user_id, amount, requested_by, key }: Credit,
) -> Result<Credited, WriteError<Violation>> {
    if !idempotency::try_lock(connection, requested_by.as_str(), key.as_str()).await? {
        return Err(WriteError::StillRunning);
    }
    let fingerprint = idempotency::fingerprint(format!("{user_id}\n{amount}").as_bytes());
    if let Some(used) = store::key_use(connection, &requested_by, &key).await? {
        return if used.fingerprint == fingerprint {
            Ok(Credited { balance: used.balance_after, replayed: true })
        } else {
            Err(WriteError::KeyReused)
        };
    }
    // Not in the amount's currency: that would be an account from which nothing can be paid.
    store::insert_account(connection, &user_id, Currency::EUR).await?;
    let mut accounts = store::lock_accounts(connection, &[&user_id]).await?;
    let account =
        accounts.get_mut(&user_id).ok_or(DatabaseError::Corrupt("account that was just made".into()))?;
    let entry = account.credit(EntryKind::Credit, amount, clock::now()).map_err(WriteError::Refused)?;
    let balance = entry.balance_after;
    let changes = Changes { accounts: vec![account], entries: &[entry], ..Changes::default() };
    let ids = store::save(connection, changes).await?;
    for entry_id in ids {
        store::insert_key(connection, &requested_by, &key, &fingerprint, entry_id).await?;
    }
    Ok(Credited { balance, replayed: false })
}
