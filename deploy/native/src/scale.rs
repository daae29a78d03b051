//! Another number of replicas while the stack runs. Whoever wants it writes it down; the supervisor finds it, does it, and deletes what was
//! written, or says why it could not.
//!
//! A replica serves before the gateways learn of it, and they have forgotten it before it is asked to end, so no request fails. Gateways
//! read their files again while they run; nothing else calls a replica by its address.

use std::{
    fs::{self, File},
    io::ErrorKind,
    net::Ipv4Addr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    component::Component,
    files::{self, Owner},
    layout::{Gateway, Layout, Replicas, Scope},
    prepare::Prepared,
    probe, programs, remembered,
    removal::remove,
    say, services,
    supervisor::{Group, Supervisor},
};

/// The pause between two looks: at what is wanted, and whether a gateway has read its file.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A gateway reads its file every 2 s.
const READ_TIME_MAX: Duration = Duration::from_secs(20);
/// The task of a gateway that reads it.
const SETTINGS_RELOAD: &str = "settings-reload";

/// Asks the supervisor for these replicas. An error if it is about to make another change: of two who ask at once one is refused.
pub fn ask(layout: &Layout, replicas: Replicas) -> Result<()> {
    let path = layout.scale_file();
    // Until this returns, however it ends.
    let turn = path.parent().map(File::open).transpose()?.context("a file has a folder")?;
    turn.lock().context("cannot lock the folder of the stack")?;
    ensure!(!is_asked(layout), "another change of the number of replicas is being made");
    remove(&layout.scale_failure_file())?;
    let text: Vec<String> = replicas.arguments().collect();
    files::write(&path, text.join(" ").as_bytes(), Owner::Supervisor)
}

/// Whether the supervisor has still to do what it was asked for.
#[must_use]
pub fn is_asked(layout: &Layout) -> bool {
    layout.scale_file().exists()
}

/// What was wrong with the last change, in a sentence; `None` if nothing was.
pub fn failure(layout: &Layout) -> Result<Option<String>> {
    read(&layout.scale_failure_file())
}

fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        text => text.map(Some).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Nothing is asked for any more.
pub(crate) fn forget(layout: &Layout) -> Result<()> {
    [layout.scale_file(), layout.scale_failure_file()].iter().try_for_each(|file| remove(file))
}

fn asked(layout: &Layout) -> Result<Option<Replicas>> {
    let Some(text) = read(&layout.scale_file())? else { return Ok(None) };
    let mut replicas = Replicas::default();
    for words in text.split_whitespace() {
        replicas.set(words)?;
    }
    Ok(Some(replicas))
}

/// Does what is asked for, again and again.
pub(crate) async fn serve(supervisor: &Arc<Supervisor>, group: &mut Group) {
    let Prepared { layout, started, .. } = &supervisor.prepared;
    let mut now = supervisor.prepared.replicas;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let changed = match asked(layout) {
            Ok(None) => continue,
            Ok(Some(wanted)) => change(supervisor, group, now, wanted).await.map(|()| wanted),
            Err(error) => Err(error),
        };
        let failure = match changed {
            Ok(wanted) => {
                now = wanted;
                let remembered = remembered::remember_replicas(layout, started, wanted);
                remembered
                    .err()
                    .map(|error| format!("it is done, but the next start will not know of it: {error:#}"))
            }
            Err(error) => Some(format!("nothing was changed: {error:#}")),
        };
        if let Some(why) = failure {
            say!("another number of replicas was asked for: {why}");
            if let Err(error) = files::write(&layout.scale_failure_file(), why.as_bytes(), Owner::Supervisor)
            {
                say!("{error:#}");
            }
        }
        // Whoever waits for it looks at the other file now. What can't be deleted is done again, which changes nothing.
        if let Err(error) = remove(&layout.scale_file()) {
            say!("{error:#}");
        }
    }
}

/// Makes the change, or leaves everything as it was.
async fn change(
    supervisor: &Arc<Supervisor>,
    group: &mut Group,
    before: Replicas,
    wanted: Replicas,
) -> Result<()> {
    let Prepared { layout, scope, extras, links, command_options, .. } = &supervisor.prepared;
    ensure!(*scope == Scope::Everything, "the stack has databases and broker only");
    ensure!(links.is_empty(), "the ports between its components are those of its start");
    let (new_gateways, new): (Vec<_>, Vec<_>) =
        beyond(wanted, before).into_iter().partition(|component| matches!(component, Component::Gateway(_)));
    let added = async {
        services::prepare_participants(layout, wanted, links)?;
        start(supervisor, group, &new).await?;
        // Nothing waits for the console to read it: a replica that it does not know yet is not shown yet.
        services::prepare_console(layout, wanted, extras, command_options)?;
        // A gateway that goes serves until it has ended: until then it needs the addresses, and the others are not alone.
        services::prepare_gateways(layout, before.at_least(wanted), wanted, extras, links)?;
        for gateway in before.gateways() {
            has_read_its_file(layout, gateway).await?;
        }
        start(supervisor, group, &new_gateways).await
    };
    if let Err(error) = added.await {
        services::prepare_gateways(layout, before, before, extras, links)?;
        services::prepare_console(layout, before, extras, command_options)?;
        end(supervisor, group, &[new_gateways, new].concat()).await;
        return Err(error);
    }
    let (old_gateways, old): (Vec<_>, Vec<_>) =
        beyond(before, wanted).into_iter().partition(|component| matches!(component, Component::Gateway(_)));
    end(supervisor, group, &[old_gateways, old].concat()).await;
    services::prepare_gateways(layout, wanted, wanted, extras, links)
}

/// Those of `more` that are not in `less`.
fn beyond(more: Replicas, less: Replicas) -> Vec<Component> {
    let known: Vec<String> = Component::of(less).into_iter().map(Component::name).collect();
    Component::of(more).into_iter().filter(|component| !known.contains(&component.name())).collect()
}

/// Returns when all of them serve.
async fn start(supervisor: &Arc<Supervisor>, group: &mut Group, components: &[Component]) -> Result<()> {
    let layout = &supervisor.prepared.layout;
    for component in components {
        programs::choose_as_first(layout, &component.name())?;
        supervisor.reporter.add(component.report(layout));
        group.start_one(supervisor, *component);
    }
    for component in components {
        supervisor.serves(&component.name()).await?;
    }
    Ok(())
}

/// Returns when all of them have ended; what they had begun is finished.
async fn end(supervisor: &Supervisor, group: &mut Group, components: &[Component]) {
    for component in components {
        let name = component.name();
        group.end_one(&name).await;
        supervisor.reporter.remove(&name);
    }
}

/// Returns when the gateway has read what is in its file now.
async fn has_read_its_file(layout: &Layout, gateway: Gateway) -> Result<()> {
    let address = (Ipv4Addr::LOCALHOST, layout.gateway_admin_port(gateway)).into();
    let begin = Instant::now();
    // What it read first, and what it was reading then, may be the file from before.
    let mut read_at = Vec::new();
    while read_at.len() < 3 {
        let name = gateway.name();
        ensure!(
            begin.elapsed() < READ_TIME_MAX,
            "{name} does not read its file again: it does not answer, or its program is of an earlier version"
        );
        if let Some(at) = probe::last_success(address, SETTINGS_RELOAD).await
            && read_at.last() != Some(&at)
        {
            read_at.push(at);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replicas(of: &[&str]) -> Replicas {
        let mut replicas = Replicas::default();
        for words in of {
            replicas.set(words).expect("known");
        }
        replicas
    }

    /// What is asked for is read as it was written, one after the other.
    #[test]
    fn what_is_asked_is_read() {
        let folder = std::env::temp_dir().join(format!("holdfast-scale-{}", std::process::id()));
        fs::create_dir_all(folder.join("config")).expect("created");
        let layout = Layout::new(folder.clone(), 0);
        assert_eq!(asked(&layout).expect("read"), None);
        for wanted in [replicas(&["order=2", "gateway=3"]), replicas(&[])] {
            ask(&layout, wanted).expect("written");
            assert!(is_asked(&layout));
            assert!(ask(&layout, replicas(&["order=9"])).is_err(), "the first is not done yet");
            assert_eq!(asked(&layout).expect("read"), Some(wanted));
            fs::write(layout.scale_failure_file(), "no").expect("written");
            assert_eq!(failure(&layout).expect("read").as_deref(), Some("no"));
            forget(&layout).expect("deleted");
            assert!(!is_asked(&layout) && failure(&layout).expect("read").is_none());
        }
        // Of many at once one is heard.
        let asked_at_once: Vec<_> = (2..=9)
            .map(|count| {
                let layout = layout.clone();
                std::thread::spawn(move || ask(&layout, replicas(&[&format!("order={count}")])).is_ok())
            })
            .collect();
        let heard = asked_at_once.into_iter().filter_map(|one| one.join().ok()).filter(|heard| *heard);
        assert_eq!(heard.count(), 1);
        forget(&layout).expect("deleted");
        fs::write(layout.scale_file(), "order=nonsense").expect("written");
        assert!(asked(&layout).is_err());
        fs::remove_dir_all(folder).expect("gone");
    }

    /// Only the difference comes and goes, and the replicas with the highest numbers.
    #[test]
    fn only_the_difference_comes_and_goes() {
        let names = |more: &[&str], less: &[&str]| {
            let components = beyond(replicas(more), replicas(less));
            components.into_iter().map(Component::name).collect::<Vec<_>>()
        };
        assert_eq!(names(&["order=3", "gateway=2"], &["order=1"]), ["order-2", "order-3", "gateway-2"]);
        assert_eq!(names(&["order=1"], &["order=3"]), [""; 0]);
        let largest = replicas(&["order=3"]).at_least(replicas(&["payment=2", "order=2", "gateway=2"]));
        assert_eq!(largest, replicas(&["order=3", "payment=2", "gateway=2"]));
    }
}
