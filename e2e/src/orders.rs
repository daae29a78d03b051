//! Many orders, and a payment service that refuses them.

use holdfast_chaos::{
    load::{Plan, open_loop},
    rest::sample_order,
};
use uuid::Uuid;

use crate::{World, id, insist};

/// A database that refuses payments, for a reason in the data.
const REFUSE_PAYMENTS: &str = "
    create function refuse() returns trigger language plpgsql as
        $$ begin raise exception 'refused' using errcode = '23514'; end $$;
    create trigger refuse before insert on payments for each row execute function refuse()";
const ACCEPT_PAYMENTS: &str = "drop trigger refuse on payments; drop function refuse";

impl World {
    /// From now on each event of a new order becomes a dead letter of the payment service.
    pub async fn refuse_payments(&self) {
        sqlx::raw_sql(REFUSE_PAYMENTS).execute(&mut self.connect("payment").await).await.expect("refusing");
    }

    /// The cause of that is mended.
    pub async fn accept_payments(&self) {
        sqlx::raw_sql(ACCEPT_PAYMENTS).execute(&mut self.connect("payment").await).await.expect("accepting");
    }

    /// Creates `count` orders of 1.00 under load. Returns their ids.
    pub async fn create_orders(&self, address: &'static str, count: u64) -> Vec<String> {
        let mut users = Vec::new();
        for n in 0..20 {
            users.push(self.user(&format!("many-{n}"), "1000.00").await);
        }
        let plan = Plan { rate: 150.0, requests: count, clients: 16 };
        let created = open_loop(plan, move |number, _| {
            let user = users[usize::try_from(number).unwrap_or(0) % users.len()].clone();
            async move {
                let (order, key) = (sample_order(address, 100), Uuid::now_v7().to_string());
                insist(|| user.create_order(&order, Some(&key))).await.json()
            }
        })
        .await;
        created.iter().map(id).collect()
    }
}
