//! gRPC to domain and back.

use aws_lc_rs::digest;
use futures_util::{FutureExt as _, future::BoxFuture};
use holdfast_common::{
    database::{Conflicting, Database, DatabaseError},
    deadline::Deadline,
    idempotency,
};
use holdfast_proto::{
    Currency, IdempotencyKey, Money, OrderId, UserId, payment::v1 as pb,
    payment::v1::payment_service_server::PaymentService, to_timestamp,
};
use sqlx::PgConnection;
use time::OffsetDateTime;
use tonic::{Request, Response, Status};

use crate::{
    domain::{self, Account, EntryKind, Payment, Violation},
    store,
};

/// Answers calls.
#[derive(Debug, Clone)]
pub(crate) struct PaymentHandler {
    database: Database,
}

/// Why nothing was credited.
#[derive(Debug)]
enum CreditError {
    /// A call with the same key has not finished.
    StillRunning,
    /// The key belongs to another credit.
    KeyReused,
    Refused(Violation),
    Database(DatabaseError),
}

impl From<DatabaseError> for CreditError {
    fn from(error: DatabaseError) -> Self {
        Self::Database(error)
    }
}

impl Conflicting for CreditError {
    fn is_conflict(&self) -> bool {
        matches!(self, Self::Database(error) if error.is_conflict())
    }
}

impl CreditError {
    fn into_status(self, still_running: Status) -> Status {
        match self {
            Self::StillRunning => still_running,
            Self::KeyReused => idempotency::key_reused(),
            Self::Refused(violation @ Violation::BalanceLimit) => Status::out_of_range(violation.to_string()),
            Self::Refused(violation) => Status::invalid_argument(violation.to_string()),
            Self::Database(error) => error.into(),
        }
    }
}

/// A credit that was asked for, checked.
#[derive(Debug, Clone)]
struct Credit {
    user_id: UserId,
    amount: Money,
    requested_by: UserId,
    key: IdempotencyKey,
}

impl PaymentHandler {
    pub(crate) const fn new(database: Database) -> Self {
        Self { database }
    }

    /// Account, entry and key in one transaction. Answers with the balance after it and whether it was there before.
    async fn credit(&self, credit: Credit, deadline: Deadline) -> Result<(Money, bool), CreditError> {
        let content = format!("{}\n{}", credit.user_id, credit.amount);
        let fingerprint = digest::digest(&digest::SHA256, content.as_bytes()).as_ref().to_vec();
        self.database
            .transaction("payment.credit", deadline, move |connection: &mut PgConnection| {
                let (credit, fingerprint) = (credit.clone(), fingerprint.clone());
                let work: BoxFuture<'_, _> = Box::pin(async move {
                    let Credit { user_id, amount, requested_by, key } = credit;
                    if !idempotency::try_lock(connection, requested_by.as_str(), key.as_str()).await? {
                        return Err(CreditError::StillRunning);
                    }
                    if let Some(used) = store::key_use(connection, &requested_by, &key).await? {
                        return if used.fingerprint == fingerprint {
                            Ok((used.balance_after, true))
                        } else {
                            Err(CreditError::KeyReused)
                        };
                    }
                    store::insert_account(connection, &user_id, amount.currency).await?;
                    let mut accounts = store::lock_accounts(connection, &[&user_id]).await?;
                    let account = accounts
                        .get_mut(&user_id)
                        .ok_or(DatabaseError::Corrupt("account that was just made".into()))?;
                    let entry = account
                        .credit(EntryKind::Credit, amount, OffsetDateTime::now_utc())
                        .map_err(CreditError::Refused)?;
                    let balance = entry.balance_after;
                    let ids = store::save(connection, &[account], &[entry]).await?;
                    for entry_id in ids {
                        store::insert_key(connection, &requested_by, &key, &fingerprint, entry_id).await?;
                    }
                    Ok((balance, false))
                });
                work
            })
            .await
    }
}

#[tonic::async_trait]
impl PaymentService for PaymentHandler {
    async fn get_payment(
        &self,
        request: Request<pb::GetPaymentRequest>,
    ) -> Result<Response<pb::GetPaymentResponse>, Status> {
        let deadline = Deadline::of(&request);
        let request = request.into_inner();
        let user_id = parse_user("user_id", &request.user_id)?;
        let order_id = OrderId::parse(&request.order_id)
            .map_err(|error| Status::invalid_argument(format!("order_id {error}")))?;
        let payment = self
            .database
            .read(deadline, move |connection| store::payment_of_user(connection, order_id, user_id).boxed())
            .await?;
        let payment = payment.ok_or_else(|| Status::not_found("no payment of this order yet"))?;
        Ok(Response::new(pb::GetPaymentResponse { payment: Some(payment_to_proto(&payment)) }))
    }

    async fn get_account(
        &self,
        request: Request<pb::GetAccountRequest>,
    ) -> Result<Response<pb::GetAccountResponse>, Status> {
        let deadline = Deadline::of(&request);
        let user_id = parse_user("user_id", &request.into_inner().user_id)?;
        let user = user_id.clone();
        let account =
            self.database.read(deadline, move |connection| store::account(connection, user).boxed()).await?;
        let account = account.unwrap_or_else(|| Account::empty(user_id, Currency::EUR));
        Ok(Response::new(pb::GetAccountResponse { account: Some(account_to_proto(&account)) }))
    }

    async fn credit_account(
        &self,
        request: Request<pb::CreditAccountRequest>,
    ) -> Result<Response<pb::CreditAccountResponse>, Status> {
        let deadline = Deadline::of(&request);
        let still_running = idempotency::still_running(request.metadata());
        let request = request.into_inner();
        let mut amount = request.amount.unwrap_or_default();
        if amount.currency.is_empty() {
            amount.currency = Currency::EUR.to_string();
        }
        let credit = Credit {
            user_id: parse_user("user_id", &request.user_id)?,
            amount: Money::from_proto(Some(&amount))
                .map_err(|error| Status::invalid_argument(format!("amount {error}")))?,
            requested_by: parse_user("requested_by", &request.requested_by)?,
            key: IdempotencyKey::parse(&request.idempotency_key)
                .map_err(|error| Status::invalid_argument(format!("idempotency_key {error}")))?,
        };
        let user_id = credit.user_id.clone();
        let credited = self.credit(credit, deadline).await;
        let (balance, replayed) = credited.map_err(|error| error.into_status(still_running))?;
        let account = account_to_proto(&Account { user_id, balance });
        Ok(Response::new(pb::CreditAccountResponse { account: Some(account), replayed }))
    }
}

fn parse_user(field: &str, text: &str) -> Result<UserId, Status> {
    UserId::parse(text).map_err(|error| Status::invalid_argument(format!("{field} {error}")))
}

fn account_to_proto(account: &Account) -> pb::Account {
    pb::Account { user_id: account.user_id.to_string(), balance: Some(account.balance.to_proto()) }
}

fn payment_to_proto(payment: &Payment) -> pb::Payment {
    pb::Payment {
        payment_id: payment.payment_id.to_string(),
        order_id: payment.order_id.to_string(),
        user_id: payment.user_id.to_string(),
        amount: Some(payment.amount.to_proto()),
        status: status_to_proto(payment.status).into(),
        created_at: Some(to_timestamp(payment.created_at)),
        updated_at: Some(to_timestamp(payment.updated_at)),
    }
}

pub(crate) const fn status_to_proto(status: domain::Status) -> pb::PaymentStatus {
    match status {
        domain::Status::Success => pb::PaymentStatus::Success,
        domain::Status::InsufficientFunds => pb::PaymentStatus::InsufficientFunds,
        domain::Status::Refunded => pb::PaymentStatus::Refunded,
    }
}
