//! Certificates of a stack that are renewed while orders come in.

use std::process::{Command, Output};

use holdfast_chaos::{
    load::{Plan, open_loop},
    rest::{Session, sample_order},
};
use holdfast_native::layout::participant_names;
use holdfast_testkit::stack::binary;
use uuid::Uuid;

use crate::{World, id, reaches};

impl World {
    /// `holdfast certs`, which must succeed.
    pub async fn certs(&self, arguments: &[&str]) {
        let mut command = Command::new(binary());
        command.arg("certs").args(arguments).arg("--data-dir").arg(&self.stack.layout.data_dir);
        let run = move || command.output();
        let output: Output =
            tokio::task::spawn_blocking(run).await.expect("no panic").expect("holdfast runs");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Whether what uses this identity uses the files that are there.
    pub async fn certificate_is_used(&self, identity: &str) -> bool {
        let mut command = Command::new(binary());
        command.args(["certs", "status", "-o", "json", "--data-dir"]).arg(&self.stack.layout.data_dir);
        let run = move || command.output();
        let output = tokio::task::spawn_blocking(run).await.expect("no panic").expect("holdfast runs");
        let document: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let lines = document["certificates"].as_array().expect("a list");
        let line = lines.iter().find(|line| line["name"] == identity).expect("it is listed");
        line["used_by"].as_array().is_some_and(|users| !users.is_empty())
    }

    /// Whether the certificate in the files of this identity has expired.
    pub fn has_expired(&self, identity: &str) -> bool {
        let pki = holdfast_certs::Pki::open(&self.stack.layout.pki_dir()).expect("there");
        pki.leaf_status(identity).expect("there").state == holdfast_certs::LeafState::Expired
    }

    /// Renews all certificates, replaces the authority too, and then renews those of `identities` once more, while orders come in: none
    /// fails, and none is lost.
    pub async fn rotate_under_load(&self, user: &Session, identities: &[&str]) {
        let rotations = async {
            self.certs(&["rotate"]).await;
            self.certs(&["rotate", "--ca", "--yes"]).await;
            self.certs(&[&["rotate"], identities].concat()).await;
        };
        let ((), ids, failed) = orders_while(user, rotations).await;
        assert!(failed.is_empty(), "{failed:?}");
        let paid = "select count(*) from orders where user_id = $1 and status <> 'PENDING'";
        reaches("orders that are paid or further", i64::try_from(ids.len()).expect("few"), || {
            self.count("order", paid, &user.user)
        })
        .await;
    }

    /// A metric of all services together.
    pub async fn metric_of_all(&self, name: &str) -> f64 {
        let mut sum = 0.0;
        for service in participant_names() {
            sum += self.metric(service, name, &[]).await;
        }
        sum
    }
}

/// Orders as long as `going` has not ended; returns the ids, and what failed.
async fn orders_while<T>(user: &Session, going: impl Future<Output = T>) -> (T, Vec<String>, Vec<String>) {
    let (mut ids, mut failed) = (Vec::new(), Vec::new());
    let mut going = std::pin::pin!(going);
    loop {
        let plan = Plan { rate: 40.0, requests: 40, clients: 2 };
        let user = user.clone();
        let round = open_loop(plan, move |_, _| {
            let user = user.clone();
            async move {
                // With a key, so that what is sent again after a 503 is one order.
                let key = Uuid::now_v7().to_string();
                match user.create_order(&sample_order("1 Quay Street", 1), Some(&key)).await {
                    Ok(answer) if answer.status == 201 => Ok(id(&answer.json())),
                    Ok(answer) => Err(answer.status.to_string()),
                    Err(error) => Err(error.to_string()),
                }
            }
        });
        tokio::pin!(round);
        let mut done = None;
        let answers = loop {
            tokio::select! {
                answers = &mut round => break answers,
                outcome = &mut going, if done.is_none() => done = Some(outcome),
            }
        };
        for answer in answers {
            match answer {
                Ok(id) => ids.push(id),
                Err(error) => failed.push(error),
            }
        }
        if let Some(outcome) = done {
            return (outcome, ids, failed);
        }
    }
}
