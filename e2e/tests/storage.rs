//! What an order costs its databases: most changes write no index entry (pitfalls P40), whichever release writes the row.

use holdfast_e2e::{World, eventually, id};
use sqlx::{PgConnection, Row as _};
use tokio::sync::Mutex;
use uuid::Uuid;

/// One counts what the other writes.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// The first row as text.
async fn row(connection: &mut PgConnection, sql: &'static str, id: Uuid) -> String {
    sqlx::query(sql).bind(id).fetch_one(connection).await.expect("read").get(0)
}

async fn change(connection: &mut PgConnection, sql: &'static str, id: Uuid) {
    let changed = sqlx::query(sql).bind(id).execute(connection).await.expect("written");
    assert_eq!(changed.rows_affected(), 1);
}

/// The statements of releases from before the indexed columns: readers of this release find the row all the same.
#[tokio::test(flavor = "multi_thread")]
async fn rows_of_an_earlier_release_are_found() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = World::new();
    let (mut orders, id) = (world.connect("order").await, Uuid::now_v7());
    change(
        &mut orders,
        "insert into orders (order_id, user_id, status, delivery_address, currency, total_minor, created_at, updated_at, change_position)
        values ($1, 'earlier', 'PENDING', '1 Quay Street', 'EUR', 1, now(), now(), 1000)",
        id,
    )
    .await;
    let indexed = "select concat_ws(' ', finished, change_block) from orders where order_id = $1";
    assert_eq!(row(&mut orders, indexed, id).await, "f 3");
    let steps = [
        ("update orders set delivery_status = 'DELIVERED' where order_id = $1", "f 3"),
        ("update orders set status = 'PAID', change_position = 1023 where order_id = $1", "t 3"),
        ("update orders set delivery_status = 'FAILED' where order_id = $1", "f 3"),
        ("update orders set status = 'REFUNDED', change_position = 1024 where order_id = $1", "t 4"),
    ];
    for (statement, expected) in steps {
        change(&mut orders, statement, id).await;
        assert_eq!(row(&mut orders, indexed, id).await, expected, "{statement}");
    }
    change(&mut orders, "delete from orders where order_id = $1", id).await;

    let mut deliveries = world.connect("delivery").await;
    change(
        &mut deliveries,
        "insert into deliveries (delivery_id, order_id, user_id, delivery_address, status, will_fail, due_at, created_at, updated_at)
        values ($1, $1, 'earlier', '1 Quay Street', 'PENDING', false, '2999-01-01 00:00:09Z', now(), now())",
        id,
    )
    .await;
    let indexed =
        "select coalesce((due_from at time zone 'UTC')::text, 'none') from deliveries where delivery_id = $1";
    assert_eq!(row(&mut deliveries, indexed, id).await, "2999-01-01 00:00:08");
    let steps = [
        (
            "update deliveries set due_at = '2999-01-01 00:00:15.9Z' where delivery_id = $1",
            "2999-01-01 00:00:08",
        ),
        (
            "update deliveries set due_at = '2999-01-01 00:00:16Z' where delivery_id = $1",
            "2999-01-01 00:00:16",
        ),
        ("update deliveries set due_at = null, status = 'DELIVERED' where delivery_id = $1", "none"),
    ];
    for (statement, expected) in steps {
        change(&mut deliveries, statement, id).await;
        assert_eq!(row(&mut deliveries, indexed, id).await, expected, "{statement}");
    }
    change(&mut deliveries, "delete from deliveries where delivery_id = $1", id).await;
}

/// Of the changes of an order only its last one writes an index entry, but for those that cross the border of a block; of the steps of a
/// delivery likewise.
#[tokio::test(flavor = "multi_thread")]
async fn most_changes_write_no_index_entry() {
    const ORDERS: i64 = 40;
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = World::patient();
    let user = world.user("hot", "100.00").await;
    let counts = "select n_tup_upd, n_tup_hot_upd from pg_stat_user_tables where relname = $1";
    let count = async |service: &str, table: &'static str| -> (i64, i64) {
        let row = sqlx::query(counts).bind(table).fetch_one(&mut world.connect(service).await).await;
        let row = row.expect("read");
        (row.get(0), row.get(1))
    };
    let before = [count("order", "orders").await, count("delivery", "deliveries").await];
    for _ in 0..ORDERS {
        id(&world.create(&user, "1 Quay Street", 1).await);
    }
    let delivered = "select count(*) from orders where user_id = $1 and delivery_status = 'DELIVERED'";
    eventually("all are delivered", || async { world.count("order", delivered, &user.user).await == ORDERS })
        .await;
    // Statistics are collected with a delay. An order is paid and has four states of its delivery, of which one batch may have several.
    for (service, table, before, least) in
        [("order", "orders", before[0], 2), ("delivery", "deliveries", before[1], 3)]
    {
        eventually("the updates are counted", || async {
            count(service, table).await.0 - before.0 >= least * ORDERS
        })
        .await;
        let (all, hot) = count(service, table).await;
        let (all, hot) = (all - before.0, hot - before.1);
        assert!(hot * 2 >= all - ORDERS, "{hot} of {all} updates of {table} are HOT");
    }
}
