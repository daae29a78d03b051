//! What processes cost: CPU time, memory and context switches, from `/proc`.

use std::{collections::BTreeMap, fs, time::Duration};

use anyhow::{Context as _, Result};

/// A process of a stack by its component's name.
#[derive(Debug, Clone)]
pub struct Process {
    /// The component.
    pub name: String,
    /// Whether it is one of our services, not a database or the broker.
    pub is_service: bool,
    /// Its process; that of a database has children, which count as well.
    pub pid: u32,
}

/// What a component uses.
#[derive(Debug, Clone, Default)]
pub struct Usage {
    /// User and system time since its start.
    pub cpu: Duration,
    /// Its share of the memory in bytes: pages that several processes share count once (PSS).
    pub memory_bytes: u64,
    /// Context switches, voluntary or not, of each thread that runs now.
    pub context_switches: Counters,
}

/// Counters of threads, by their ids. One that has ended has taken its own with it.
#[derive(Debug, Clone, Default)]
pub struct Counters(BTreeMap<u32, u64>);

impl Counters {
    /// What those that are there now have counted since then; they begin at 0.
    #[must_use]
    pub fn since(&self, before: &Self) -> u64 {
        self.0.iter().map(|(id, now)| now.saturating_sub(before.0.get(id).copied().unwrap_or_default())).sum()
    }
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.cpu += other.cpu;
        self.memory_bytes += other.memory_bytes;
        self.context_switches.0.extend(other.context_switches.0);
    }
}

/// Kernel ticks per second; 100 on every Linux of today (`USER_HZ`).
const TICKS_PER_SECOND: u64 = 100;

/// What each process uses now, children included.
pub fn usage(processes: &[Process]) -> Result<BTreeMap<String, Usage>> {
    let children = children()?;
    let mut all = BTreeMap::new();
    for process in processes {
        let mut sum = usage_of(process.pid).with_context(|| format!("{} is gone", process.name))?;
        for child in children.get(&process.pid).into_iter().flatten() {
            // A database's child may end while we look.
            if let Ok(usage) = usage_of(*child) {
                sum += usage;
            }
        }
        all.insert(process.name.clone(), sum);
    }
    Ok(all)
}

fn children() -> Result<BTreeMap<u32, Vec<u32>>> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if let Ok(fields) = stat(pid)
            && let Some(parent) = fields.get(1).and_then(|parent| parent.parse().ok())
        {
            children.entry(parent).or_default().push(pid);
        }
    }
    Ok(children)
}

/// The fields of `/proc/<pid>/stat` behind the name, which may hold spaces: state, parent, ...
fn stat(pid: u32) -> Result<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = text.rsplit_once(')').context("unreadable stat")?;
    Ok(fields.split_whitespace().map(str::to_owned).collect())
}

fn usage_of(pid: u32) -> Result<Usage> {
    let fields = stat(pid)?;
    // proc(5): utime and stime are fields 14 and 15; state is field 3 and our first. cutime and cstime: children that
    // have ended.
    let ticks: u64 =
        fields.get(11..15).context("short stat")?.iter().filter_map(|field| field.parse::<u64>().ok()).sum();
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let kib: u64 = rollup
        .lines()
        .find_map(|line| line.strip_prefix("Pss:"))
        .and_then(|rest| rest.trim().strip_suffix("kB"))
        .and_then(|number| number.trim().parse().ok())
        .context("no Pss in smaps_rollup")?;
    Ok(Usage {
        cpu: Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND),
        memory_bytes: kib * 1024,
        context_switches: context_switches(pid)?,
    })
}

/// Of all its threads; one may end while we look.
fn context_switches(pid: u32) -> Result<Counters> {
    let mut counters = Counters::default();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let thread = thread?;
        let Some(id) = thread.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Ok(status) = fs::read_to_string(thread.path().join("status")) {
            let switches =
                number(&status, "voluntary_ctxt_switches:") + number(&status, "nonvoluntary_ctxt_switches:");
            counters.0.insert(id, switches);
        }
    }
    Ok(counters)
}

/// The number in the line that begins with `name`; 0 if there is none.
fn number(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|number| number.trim().parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What this process does is seen.
    #[test]
    fn a_process_is_seen_to_work() {
        let me = Process { name: "test".to_owned(), is_service: true, pid: std::process::id() };
        let look = || usage(std::slice::from_ref(&me)).expect("there")["test"].clone();
        let before = look();
        assert!(before.memory_bytes > 0, "{before:?}");
        loop {
            std::thread::yield_now();
            let after = look();
            assert!(after.cpu >= before.cpu, "{before:?} {after:?}");
            if after.cpu > before.cpu && after.context_switches.since(&before.context_switches) > 0 {
                break;
            }
        }
    }

    /// One that has ended takes nothing away from the others, and a new one counts from its beginning.
    #[test]
    fn who_has_ended_takes_nothing_away() {
        let before = Counters(BTreeMap::from([(1, 1_000), (2, 10)]));
        let after = Counters(BTreeMap::from([(2, 13), (3, 4)]));
        assert_eq!(after.since(&before), 7);
    }
}
