//! `holdfast bench` measures what it says, on a real stack.

use holdfast_e2e::World;
use holdfast_testkit::stack::everything;
use serde_json::Value;

/// Each component and each database costs something, a rate that is nothing to the stack is held, and what is printed for people says so.
#[tokio::test(flavor = "multi_thread")]
async fn each_part_of_an_order_has_its_cost() {
    let world = World::of(everything());
    let short = ["bench", "--users", "5", "--phase", "1s", "--rate", "5", "--orders", "40"];
    let held = ["--sustain", "3s", "--sustain-rate", "5"];
    let (report, code) = world.command_json(&[&short[..], &held].concat()).await;
    assert_eq!(code, 0);
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{value} is no number"));

    for phase in ["sustained", "throughput"] {
        let cost = &report[phase]["cost"];
        for component in
            ["gateway", "order", "payment", "delivery", "kafka", "orders-db", "payments-db", "deliveries-db"]
        {
            let cost = &cost["components"][component];
            assert!(number(&cost["context_switches"]) > 0.0, "{phase}, {component}: {cost}");
        }
        for database in ["orders-db", "payments-db", "deliveries-db"] {
            let wal = number(&cost["databases"][database]["wal_bytes"]);
            // A row alone is more, and nothing that we write comes near a megabyte.
            assert!((500.0..1_000_000.0).contains(&wal), "{phase}, {database}: {cost}");
        }
    }
    let (services, all) = (
        number(&report["throughput"]["service_cpu_ms_per_order"]),
        number(&report["throughput"]["cpu_ms_per_order"]),
    );
    assert!(services > 0.0 && services < all, "{services} of {all}");
    let sustained = &report["sustained"];
    assert_eq!(sustained["post"]["count"], 15, "3 s at 5 orders/s: {sustained}");
    assert!(sustained["kept_up"].is_boolean() && sustained["unpaid_at_end"].is_u64(), "{sustained}");
    // A machine that is busy with other things may make it shed load, which is counted and no failure.
    assert!(report["throughput"]["refused"].is_u64() && sustained["refused"].is_u64(), "{report}");
}
