//! The disk of a whole stack is full for a while: what runs survives or comes back on its own, nothing that was
//! accepted is lost, and `holdfast status` is right throughout. Needs root and a machine that lets it mount; otherwise
//! it is skipped with a message.

use std::{
    collections::HashMap,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use holdfast_chaos::rest::{Session, is_terminal, sample_order};
use holdfast_e2e::{World, eventually, id, skipped};
use holdfast_native::{
    layout::{Kind, PARTICIPANTS, Scope, participant_names},
    state::ComponentReport,
};
use holdfast_testkit::stack::TestStack;
use serde_json::Value;
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

/// A start requires 512 MiB.
const SIZE: &str = "size=900m,mode=755";
const FULL_FOR: Duration = Duration::from_secs(45);

/// A file system of the test's own. It and the stack on it are removed with the test, even if it fails.
struct Disk {
    folder: PathBuf,
    supervisor: Option<u32>,
}

impl Disk {
    fn mount() -> Option<Self> {
        let folder = std::env::temp_dir().join(format!("holdfast-disk-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("created");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", SIZE, "holdfast-test"]).arg(&folder).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self { folder, supervisor: None });
        }
        let _ = fs::remove_dir(folder);
        None
    }

    fn filler(&self) -> PathBuf {
        self.folder.join("filler")
    }

    /// Fills what is left, again and again, because deleting and truncating files frees a little.
    fn fill(&self) {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(self.filler()).expect("open");
        for size in [1 << 20, 4096, 1] {
            let block = vec![0x55; size];
            while file.write_all(&block).is_ok() {}
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.filler());
        if let Some(pid) = self.supervisor {
            let _ = Command::new("kill").arg(pid.to_string()).status();
            let until = Instant::now() + Duration::from_secs(20);
            // Nobody waits for it, so it stays as a zombie when it has ended.
            let ended =
                || fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z"));
            while !ended() && Instant::now() < until {
                #[expect(clippy::disallowed_methods, reason = "nothing else runs any more")]
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        // Lazily: processes that did not end keep it, and nobody else sees it.
        let _ = Command::new("umount").arg("-l").arg(&self.folder).status();
        let _ = fs::remove_dir(&self.folder);
    }
}

/// Whether a component works, checked without `holdfast status`: a service by `/readyz`, a server by a login, the
/// broker and Redis by whether they accept connections.
async fn works(world: &World, component: &ComponentReport) -> bool {
    let name = component.name.as_str();
    match component.kind {
        Kind::Service => world.readyz(name).await.0 == 200,
        Kind::Postgres => {
            let service =
                PARTICIPANTS.iter().find(|participant| participant.server == name).expect("ours").name;
            let url = world.stack.database_url(service);
            let login = tokio::time::timeout(Duration::from_secs(2), PgConnection::connect(&url)).await;
            login.is_ok_and(|login| login.is_ok())
        }
        Kind::Kafka | Kind::Redis => {
            tokio::net::TcpStream::connect(("127.0.0.1", component.port)).await.is_ok()
        }
    }
}

/// Where status and reality differ. Things change during the check, so both what was true before and what is true after
/// count.
async fn differences(world: &World) -> Vec<String> {
    let components = world.stack.report().components;
    let mut seen: HashMap<String, Vec<bool>> = HashMap::new();
    for component in &components {
        seen.entry(component.name.clone()).or_default().push(works(world, component).await);
    }
    let status = world.status().await;
    for component in &components {
        seen.entry(component.name.clone()).or_default().push(works(world, component).await);
    }
    let mut differences = Vec::new();
    for component in &components {
        let (reported, seen) = (&status[&component.name], &seen[&component.name]);
        // A broker that accepts connections may still not answer.
        let may_be_less = component.kind == Kind::Kafka && !serves(reported);
        if !seen.contains(&serves(reported)) && !may_be_less {
            differences.push(format!(
                "{}: says {} ({}), seen {seen:?}",
                component.name, reported["state"], reported["detail"]
            ));
        }
    }
    differences
}

fn serves(reported: &Value) -> bool {
    ["ready", "degraded"].contains(&reported["state"].as_str().expect("a state"))
}

async fn while_it_is_full(
    world: &World,
    user: &Session,
    disk: &Disk,
    orders: &mut Vec<String>,
    keys: &mut Vec<String>,
) {
    let begin = Instant::now();
    let mut states: HashMap<String, usize> = HashMap::new();
    // Some die meanwhile, so that there are processes that the supervisor can't record.
    let mut victims = vec![(Duration::from_secs(15), "gateway"), (Duration::from_secs(8), "delivery")];
    let mut unwritten = false;
    while begin.elapsed() < FULL_FOR {
        disk.fill();
        if let Some((_, victim)) = victims.pop_if(|(at, _)| begin.elapsed() > *at) {
            world.kill_what_is_left(victim);
        }
        let key = Uuid::now_v7().to_string();
        match user.create_order(&sample_order("1 Full Street", 100), Some(&key)).await {
            Ok(answer) if answer.status == 201 => orders.push(id(&answer.json())),
            // It may have been accepted, and only the answer lost.
            _ => keys.push(key),
        }
        let mut found = differences(world).await;
        if !found.is_empty() {
            // It may have lasted for less than the check: only one that stays is wrong.
            let again = differences(world).await;
            found.retain(|difference| {
                again.iter().any(|other| difference.split(':').next() == other.split(':').next())
            });
        }
        assert_eq!(found, Vec::<String>::new(), "{:?} after the disk was full", begin.elapsed());
        for (_, component) in world.status().await {
            unwritten |= component["kind"] == "service" && serves(&component) && component["pid"].is_null();
            let state = if component["kind"] == "postgres" {
                format!("{} {} {}", component["name"], component["state"], component["detail"])
            } else {
                format!("{} {}", component["name"], component["state"])
            };
            *states.entry(state).or_default() += 1;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(
        unwritten,
        "a service that serves, and whose process could not be recorded, was seen: {states:?}"
    );
    let mut states: Vec<_> = states.into_iter().collect();
    states.sort();
    eprintln!("while it was full: {states:?}");
}

/// See the file.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_survived() {
    let Some(mut disk) = Disk::mount() else {
        skipped("a tmpfs cannot be mounted here (it takes root, and a machine that allows it)");
        return;
    };
    let base = disk.folder.clone();
    let stack = tokio::task::spawn_blocking(move || start(&base)).await.expect("no panic");
    // `World` needs a stack that lives as long as the process.
    let stack: &'static TestStack = Box::leak(Box::new(stack));
    disk.supervisor = Some(stack.supervisor_pid());
    let world = World::of(stack);
    let user = world.user("full", "1000.00").await;
    let mut orders = Vec::new();
    for _ in 0..5 {
        orders.push(id(&world.create(&user, "1 Empty Street", 100).await));
    }
    let mut maybe = Vec::new();
    while_it_is_full(&world, &user, &disk, &mut orders, &mut maybe).await;
    eprintln!("{} accepted, {} not answered with 201", orders.len(), maybe.len());

    fs::remove_file(disk.filler()).expect("freed");
    let free = Instant::now();
    eventually("all is ready on its own", || async {
        world.status().await.values().all(|component| component["state"] == "ready")
    })
    .await;
    eprintln!("all ready {:.1?} after there was room", free.elapsed());
    // Orders whose answer was lost are sent again, as a careful client does: they are accepted once, whatever had
    // happened.
    for key in &maybe {
        eventually("it is accepted", || async {
            match user.create_order(&sample_order("1 Full Street", 100), Some(key)).await {
                Ok(answer) if answer.status == 201 => true,
                Ok(answer) => {
                    assert!([409, 429, 500, 503, 504].contains(&answer.status.as_u16()), "{}", answer.status);
                    false
                }
                Err(_) => false,
            }
        })
        .await;
    }
    for order in &orders {
        eventually("every accepted order ends", || async {
            user.order(order).await.is_ok_and(|order| is_terminal(&order))
        })
        .await;
    }
    let expected = i64::try_from(orders.len() + maybe.len()).expect("few");
    let made = "select count(*) from orders where user_id = $1";
    assert_eq!(world.count("order", made, &user.user).await, expected, "one order for each key");
    eventually("the money adds up", || async {
        let balance = "select balance_minor from accounts where user_id = $1";
        world.count("payment", balance, &user.user).await == 100_000 - 100 * expected
    })
    .await;
    let lost = "select count(*) from dead_letters where subject <> $1";
    for service in participant_names() {
        assert_eq!(world.count(service, lost, "").await, 0, "a full disk makes no dead letter, in {service}");
    }
    world.every_record_is_tallied().await;
    let state = fs::read_to_string(stack.layout.data_dir.join("state.json")).expect("there");
    let state: Value = serde_json::from_str(&state).expect("whole");
    let age = time_now().saturating_sub(state["written_at"].as_u64().expect("a number"));
    assert!(age < 30, "the supervisor writes its report again: {age} s");
}

fn start(base: &Path) -> TestStack {
    TestStack::start_in(base, Scope::Everything, &[], &[("HOLDFAST__DELIVERY__STEP", "50ms")])
}

fn time_now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs()
}
