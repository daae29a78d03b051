//! The report for people.

use comfy_table::{Table, presets::UTF8_BORDERS_ONLY};

use super::{
    Report,
    cost::Cost,
    latency::{Latency, LatencyPhase},
    steps::Step,
    sustained::{SustainedPhase, verdict},
    throughput::ThroughputPhase,
};

impl Report {
    /// For people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(UTF8_BORDERS_ONLY).set_header(["figure", "value"]);
        let rows = latency(&self.idle)
            .into_iter()
            .chain(self.idle_steps.iter().map(step))
            .chain(latency(&self.loaded))
            .chain(self.sustained.iter().flat_map(sustained))
            .chain(throughput(&self.throughput))
            .chain(self.memory());
        table.add_rows(rows);
        table.to_string()
    }

    fn memory(&self) -> Vec<Row> {
        let mut rows = vec![
            row("idle CPU of the stack", format!("{:.3} cores", self.idle_cpu_cores)),
            row("idle memory of the stack", mb(self.idle_memory_total_bytes)),
        ];
        for (name, bytes) in &self.idle_memory_bytes {
            rows.push(row(format!("idle memory of {name}"), mb(*bytes)));
        }
        rows.push(row("peak memory of the stack", mb(self.peak_memory_total_bytes)));
        rows
    }
}

type Row = [String; 2];

fn row(figure: impl Into<String>, value: impl Into<String>) -> Row {
    [figure.into(), value.into()]
}

#[expect(clippy::cast_precision_loss, reason = "bytes of a machine are far below 2^52")]
fn mb(bytes: u64) -> String {
    format!("{:.0} MB", bytes as f64 / 1e6)
}

fn ms(latency: &Latency) -> String {
    format!("{:.1} / {:.1} ms", latency.p50_ms, latency.p99_ms)
}

fn latency(phase: &LatencyPhase) -> [Row; 2] {
    let load = format!("{} client(s), {} orders/s", phase.clients, phase.rate);
    [
        row(format!("POST p50 / p99, {load}"), ms(&phase.post)),
        row(format!("POST to PAID p50 / p99, {load}"), ms(&phase.post_to_paid)),
    ]
}

fn step(step: &Step) -> Row {
    let Step { name, time } = step;
    row(format!("  {name}"), format!("{:.2} / {:.2} ms", time.p50_ms, time.p99_ms))
}

fn sustained(phase: &SustainedPhase) -> Vec<Row> {
    let load = format!("{:.0} orders/s for {:.0} s", phase.rate, phase.seconds);
    let mut rows = vec![
        row(format!("{load}: the stack"), verdict(phase)),
        row(format!("POST p50 / p99, {load}"), ms(&phase.post)),
        row(format!("POST to PAID p50 / p99, {load}, the last third"), ms(&phase.post_to_paid_last)),
    ];
    rows.extend(cost(&phase.cost, &load));
    rows
}

fn throughput(phase: &ThroughputPhase) -> Vec<Row> {
    let mut rows: Vec<_> = [
        ("orders/s accepted", phase.accepted_per_second),
        ("orders/s until PAID", phase.paid_per_second),
        ("orders/s until the saga is complete", phase.complete_per_second),
    ]
    .into_iter()
    .map(|(name, value)| row(format!("{name}, {} clients", phase.clients), format!("{value:.0}")))
    .collect();
    rows.push(row("refused and asked again", phase.refused.to_string()));
    let services = format!("{:.2} of {:.2} ms", phase.service_cpu_ms_per_order, phase.cpu_ms_per_order);
    rows.push(row("CPU of our services per order", services));
    if let Some(spans) = phase.spans_per_order {
        rows.push(row("spans received per order", format!("{spans:.1}")));
    }
    rows.extend(cost(&phase.cost, &format!("{} orders", phase.orders)));
    rows
}

/// What an order costs each component, under some load.
fn cost(cost: &Cost, load: &str) -> Vec<Row> {
    let mut rows: Vec<_> = cost
        .components
        .iter()
        .map(|(name, cost)| {
            let value = format!("{:.3} ms, {:.1} context switches", cost.cpu_ms, cost.context_switches);
            row(format!("an order in {name}, {load}"), value)
        })
        .collect();
    for (name, cost) in &cost.databases {
        let value = format!(
            "{:.1} kB in {:.2} flushes, {:.1} of {:.1} updates HOT",
            cost.wal_bytes / 1e3,
            cost.wal_flushes,
            cost.hot_updates,
            cost.updates
        );
        rows.push(row(format!("WAL of an order in {name}, {load}"), value));
    }
    rows.push(row(format!("WAL of an order, {load}"), format!("{:.1} kB", cost.wal_bytes() / 1e3)));
    rows.extend(cost.disk_bytes.map(|bytes| {
        row(
            format!("written to the disk for an order, by all that uses it, {load}"),
            format!("{:.1} kB", bytes / 1e3),
        )
    }));
    rows
}
