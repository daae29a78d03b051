//! First money for the accounts of a development stack. Opened once: later starts change nothing.

use std::collections::BTreeMap;

use futures_util::FutureExt as _;
use holdfast_common::{
    backoff::Backoff,
    clock,
    database::{BACKGROUND_TIME_MAX, Database, DatabaseError},
    deadline::Deadline,
    error::{BoxError, chain},
    health::Component,
};
use holdfast_proto::{Currency, Money, UserId};

use crate::{
    domain::{Account, EntryKind},
    store::{self, Changes},
};

/// Reads the setting; an error names the entry.
pub(crate) fn parse(balances: &BTreeMap<String, String>) -> Result<Vec<(UserId, Money)>, BoxError> {
    balances
        .iter()
        .map(|(user, amount)| {
            let refuse = |error: &dyn std::fmt::Display| format!("payment.opening_balances.{user}: {error}");
            let user_id = UserId::parse(user).map_err(|error| refuse(&error))?;
            let money = Money::parse_decimal(amount, Currency::EUR).map_err(|error| refuse(&error))?;
            Ok((user_id, money))
        })
        .collect()
}

/// Opens the accounts that don't exist, as soon as the database is up.
pub(crate) async fn open(database: Database, balances: Vec<(UserId, Money)>, component: Component) {
    let mut backoff = Backoff::for_infrastructure();
    for (user_id, balance) in balances {
        while let Err(error) = open_account(&database, user_id.clone(), balance).await {
            component.waiting(chain(&error));
            tokio::time::sleep(backoff.next_pause()).await;
        }
    }
    component.ready();
}

async fn open_account(database: &Database, user_id: UserId, balance: Money) -> Result<(), DatabaseError> {
    database
        .transaction(
            "payment.open_account",
            Deadline::after(BACKGROUND_TIME_MAX),
            (user_id, balance),
            |connection, (user_id, balance)| {
                async move {
                    if !store::insert_account(connection, &user_id, balance.currency).await? {
                        return Ok(());
                    }
                    let mut account = Account::empty(user_id, balance.currency);
                    match account.credit(EntryKind::Opening, balance, clock::now()) {
                        Ok(entry) => {
                            let changes =
                                Changes { accounts: vec![&account], entries: &[entry], ..Changes::default() };
                            store::save(connection, changes).await.map(drop)
                        }
                        // An opening balance of zero: the account exists and is empty.
                        Err(_) => Ok(()),
                    }
                }
                .boxed()
            },
        )
        .await
}
