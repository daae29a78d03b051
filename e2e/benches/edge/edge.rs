//! The stack behind the gateway that is measured, and its users.

use anyhow::{Result, bail};
use holdfast_chaos::rest::{Session, sample_order};
use holdfast_e2e::{World, id};
use holdfast_native::layout::Scope;
use holdfast_testkit::stack::TestStack;
use uuid::Uuid;

pub(crate) struct Edge {
    pub(crate) world: World,
}

impl Edge {
    /// Starts the stack; it ends with this process.
    pub(crate) async fn start() -> Result<Self> {
        let environment = [("HOLDFAST__DELIVERY__STEP", "50ms")];
        let stack =
            tokio::task::spawn_blocking(move || TestStack::start(Scope::Everything, &[], &environment));
        Ok(Self { world: World::of(Box::leak(Box::new(stack.await?))) })
    }

    /// A new user with money.
    pub(crate) async fn user(&self, name: &str) -> Result<Session> {
        let user = format!("{name}-{}", Uuid::now_v7().simple());
        self.world.rest.credit(&user, "100000.00", &user).await?;
        self.world.rest.user(&user)
    }

    /// A token for a user without an account.
    pub(crate) fn token(&self, name: &str) -> Result<String> {
        self.world.rest.token(name, "orders:read orders:write accounts:read")
    }

    /// A finished order of this user, made through the stack's own gateway, which limits nobody.
    pub(crate) async fn order(&self, user: &Session) -> Result<String> {
        let answer = user.create_order(&sample_order("1 Quay Street", 100), None).await?;
        if answer.status != 201 {
            bail!("an order was answered {}", answer.status);
        }
        let order = id(&answer.json());
        for _ in 0..600 {
            if holdfast_chaos::rest::is_terminal(&user.order(&order).await?) {
                return Ok(order);
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        bail!("order {order} does not end")
    }
}
