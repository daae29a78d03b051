//! Translates between gRPC and the domain.

use futures_util::FutureExt as _;
use holdfast_common::{database::Database, deadline::Deadline, idempotency, subject::authorize};
use holdfast_proto::{
    Currency, IdempotencyKey, Money, OrderId, UserId, payment::v1 as pb,
    payment::v1::payment_service_server::PaymentService, scope, to_timestamp,
};
use tonic::{Request, Response, Status};

use crate::{
    credit::{self, Credit, Credited},
    domain::{self, Account, Payment, Violation},
    store,
};

/// The gRPC service.
#[derive(Debug, Clone)]
pub(crate) struct PaymentHandler {
    database: Database,
}

impl PaymentHandler {
    pub(crate) const fn new(database: Database) -> Self {
        Self { database }
    }
}

#[tonic::async_trait]
impl PaymentService for PaymentHandler {
    async fn get_payment(
        &self,
        request: Request<pb::GetPaymentRequest>,
    ) -> Result<Response<pb::GetPaymentResponse>, Status> {
        let deadline = Deadline::of(&request);
        let user_id = parse_user("user_id", &request.get_ref().user_id)?;
        authorize(request.metadata(), &user_id, scope::ORDERS_READ)?;
        let request = request.into_inner();
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
        let user_id = parse_user("user_id", &request.get_ref().user_id)?;
        authorize(request.metadata(), &user_id, scope::ACCOUNTS_READ)?;
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
        let requested_by = parse_user("requested_by", &request.get_ref().requested_by)?;
        authorize(request.metadata(), &requested_by, scope::ACCOUNTS_CREDIT)?;
        let request = request.into_inner();
        let mut amount = request.amount.unwrap_or_default();
        if amount.currency.is_empty() {
            amount.currency = Currency::EUR.to_string();
        }
        let credit = Credit {
            user_id: parse_user("user_id", &request.user_id)?,
            amount: Money::from_proto(Some(&amount))
                .map_err(|error| Status::invalid_argument(format!("amount {error}")))?,
            requested_by,
            key: IdempotencyKey::parse(&request.idempotency_key)
                .map_err(|error| Status::invalid_argument(format!("idempotency_key {error}")))?,
        };
        let user_id = credit.user_id.clone();
        let credited = credit::credit(&self.database, credit, deadline).await;
        let Credited { balance, replayed } =
            credited.map_err(|error| error.into_status(still_running, refused))?;
        let account = account_to_proto(&Account { user_id, balance });
        Ok(Response::new(pb::CreditAccountResponse { account: Some(account), replayed }))
    }
}

fn refused(violation: Violation) -> Status {
    match violation {
        Violation::BalanceLimit => Status::out_of_range(violation.to_string()),
        other => Status::invalid_argument(other.to_string()),
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
