//! Where the programs of the services come from. Each component has a folder of its own choice, so that a service can be upgraded
//! and rolled back replica by replica.
//!
//! The choice is a file, which the supervisor reads whenever it starts the component: whoever wants another program writes it, and
//! ends the process that runs. `holdfast up` begins with one choice for all.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{ErrorKind, Read as _},
    os::{
        fd::AsRawFd as _,
        unix::{
            ffi::{OsStrExt as _, OsStringExt as _},
            fs::PermissionsExt as _,
            process::CommandExt as _,
        },
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::unistd::geteuid;

use crate::{
    environment,
    files::{self, Owner},
    layout::{
        CONSOLE, Extra, Gateway, Layout, Replica, Replicas, closed_to_others, program_of, service_names,
        service_of,
    },
};

/// The file name of a service's program.
fn file_name(service: &str) -> String {
    format!("holdfast-{service}")
}

/// The program of a service in `folder`; an error if there is none.
pub fn program_in(folder: &Path, service: &str) -> Result<PathBuf> {
    let folder = folder.canonicalize().with_context(|| format!("cannot find {}", folder.display()))?;
    let program = folder.join(file_name(service));
    if !program.is_file() {
        bail!("{} has no {}", folder.display(), file_name(service));
    }
    Ok(program)
}

/// The folder with the program of a service that was built with this one: beside it, or one folder up if this is a test.
pub fn own_folder(service: &str) -> Result<PathBuf> {
    let own = env::current_exe()?;
    let name = file_name(service);
    let found = own.ancestors().skip(1).take(2).find(|folder| folder.join(&name).exists());
    let Some(found) = found else {
        bail!("{name} is not beside {}: build it with `cargo build --workspace`", own.display());
    };
    Ok(found.to_owned())
}

/// The program that was built with this one.
fn own_program(service: &str) -> Result<PathBuf> {
    Ok(own_folder(service)?.join(file_name(service)))
}

/// The programs of all components of a stack that is not started yet come from `folder`, or else from where this one is.
pub(crate) fn prepare(layout: &Layout, replicas: Replicas, folder: Option<&Path>) -> Result<()> {
    let components = replicas.all().map(Replica::name).chain(replicas.gateways().map(Gateway::name));
    for component in components {
        match folder {
            Some(folder) => choose(layout, &component, folder)?,
            None => forget(layout, &component)?,
        }
    }
    // The command that lets browsers in and the console are of one version.
    forget(layout, CONSOLE)
}

/// From its next start on a component runs its program in `folder`.
pub(crate) fn choose(layout: &Layout, component: &str, folder: &Path) -> Result<()> {
    let name = program_of(component).with_context(|| format!("{component} has no program of ours"))?;
    let program = program_in(folder, name)?;
    let path = layout.program_file(component);
    files::write(&path, program.as_os_str().as_bytes(), Owner::Supervisor)
}

/// A further replica runs the program of the first one of its service.
pub(crate) fn choose_as_first(layout: &Layout, component: &str) -> Result<()> {
    let service = service_of(component).with_context(|| format!("{component} has no program of ours"))?;
    match fs::read(layout.program_file(service)) {
        Ok(program) => files::write(&layout.program_file(component), &program, Owner::Supervisor),
        Err(error) if error.kind() == ErrorKind::NotFound => forget(layout, component),
        Err(error) => Err(error).context("cannot read which program the first replica runs"),
    }
}

fn forget(layout: &Layout, component: &str) -> Result<()> {
    let path = layout.program_file(component);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot delete {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// The program that a component is to run.
pub(crate) fn chosen(layout: &Layout, component: &str, service: &str) -> Result<PathBuf> {
    let path = layout.program_file(component);
    match fs::read(&path) {
        Ok(program) => Ok(PathBuf::from(OsString::from_vec(program))),
        Err(error) if error.kind() == ErrorKind::NotFound => own_program(service),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// A program that has not shown its help by then does not know it.
const HELP_TIME_MAX: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Whether a program names this setting in its help: a program of another version may refuse it. That which was built with this one
/// is not asked.
#[expect(
    clippy::disallowed_methods,
    reason = "the supervisor starts one component after the other, and this takes milliseconds"
)]
pub(crate) fn says_in_its_help(program: &Program, setting: &str) -> Result<bool> {
    let path = &program.path;
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let service = name.strip_prefix("holdfast-").unwrap_or_default();
    if own_folder(service).is_ok_and(|folder| folder.join(name) == *path) {
        return Ok(true);
    }
    let mut asked = program.command();
    asked.arg("--help").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut process = asked.spawn().with_context(|| format!("cannot start {}", path.display()))?;
    let until = Instant::now() + HELP_TIME_MAX;
    while process.try_wait()?.is_none() {
        if Instant::now() >= until {
            process.kill()?;
            process.wait()?;
            return Ok(false);
        }
        std::thread::sleep(LOOK_EVERY);
    }
    let mut help = String::new();
    process.stdout.take().context("its output was asked for")?.read_to_string(&mut help)?;
    Ok(help.contains(setting))
}

/// A program, and a way to run it. The user of the components may not get through the folders above it: for them it is opened here,
/// and run as an open file. It must live until the process is started.
#[derive(Debug)]
pub(crate) struct Program {
    path: PathBuf,
    opened: Option<File>,
}

impl Program {
    pub(crate) fn open(path: PathBuf) -> Result<Self> {
        let is_closed = geteuid().is_root() && path.parent().and_then(closed_to_others).is_some();
        let opened = is_closed.then(|| File::open(&path)).transpose();
        let opened = opened.with_context(|| format!("cannot open {}", path.display()))?;
        Ok(Self { path, opened })
    }

    pub(crate) fn command(&self) -> Command {
        let Some(file) = &self.opened else { return environment::command(&self.path) };
        let mut command = environment::command(format!("/proc/self/fd/{}", file.as_raw_fd()));
        command.arg0(&self.path);
        command
    }
}

/// Checks that every service, and the console if there is to be one, has a program that its user may run.
pub(crate) fn check(folder: Option<&Path>, extras: &[Extra]) -> Result<()> {
    let of_service = |service| match folder {
        Some(folder) => program_in(folder, service),
        None => own_program(service),
    };
    let console = extras.contains(&Extra::Console).then(|| own_program(CONSOLE));
    for program in service_names().map(of_service).chain(console) {
        let program = program?;
        let mode = fs::metadata(&program)
            .with_context(|| format!("cannot look at {}", program.display()))?
            .permissions()
            .mode();
        if geteuid().is_root() && mode & 0o005 != 0o005 {
            bail!(
                "{} is closed to others, and components do not run as root: open it with `chmod o+rx`",
                program.display()
            );
        }
    }
    Ok(())
}

/// What the kernel appends to the name of a program whose file was deleted or replaced (proc(5)).
const DELETED: &str = " (deleted)";

/// The program of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Its file, as it was called when the process began.
    pub file: PathBuf,
    /// Whether another file, or none, has this name now.
    pub is_replaced: bool,
}

impl Running {
    /// That of the process `pid`; `None` if it has ended, or is somebody else's.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        Some(Self::named(fs::read_link(format!("/proc/{pid}/exe")).ok()?))
    }

    fn named(link: PathBuf) -> Self {
        match link.as_os_str().as_bytes().strip_suffix(DELETED.as_bytes()) {
            Some(name) => Self { file: PathBuf::from(OsString::from_vec(name.to_vec())), is_replaced: true },
            None => Self { file: link, is_replaced: false },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A program of another version is asked what it knows; one that does not answer knows nothing.
    #[test]
    fn a_program_is_asked_what_it_knows() {
        let folder = env::temp_dir().join(format!("holdfast-help-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("created");
        for (script, knows) in [
            ("[ \"$1\" = --help ] && echo 'settings: NEW_ONE'", true),
            ("echo usage >&2; exit 2", false),
            ("exec sleep 60", false),
        ] {
            let program = folder.join("holdfast-order");
            fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("written");
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("allowed");
            let program = Program::open(program).expect("it is there");
            assert_eq!(says_in_its_help(&program, "NEW_ONE").expect("asked"), knows, "{script}");
        }
        fs::remove_dir_all(folder).expect("gone");
    }

    /// A choice is kept for its component only, and only what has the program can be chosen.
    #[test]
    fn each_component_has_its_choice() {
        let base = env::temp_dir().join(format!("holdfast-programs-{}", std::process::id()));
        let (earlier, config) = (base.join("earlier"), base.join("config"));
        for folder in [&earlier, &config] {
            fs::create_dir_all(folder).expect("created");
        }
        fs::write(earlier.join("holdfast-order"), "").expect("written");
        let layout = Layout::new(base.clone(), 0);
        choose(&layout, "order-2", &earlier.join("../earlier")).expect("it is there");
        let program = chosen(&layout, "order-2", "order").expect("chosen");
        assert_eq!(program, earlier.canonicalize().expect("there").join("holdfast-order"));
        assert!(!layout.program_file("order").exists());
        forget(&layout, "order-2").expect("deleted");
        forget(&layout, "order-2").expect("nothing to do");
        assert!(!layout.program_file("order-2").exists());

        // A further replica runs what the first one runs, whatever it ran before.
        choose(&layout, "order", &earlier).expect("it is there");
        choose_as_first(&layout, "order-3").expect("copied");
        assert_eq!(chosen(&layout, "order-3", "order").expect("chosen"), program);
        forget(&layout, "order").expect("deleted");
        choose_as_first(&layout, "order-3").expect("forgotten");
        assert!(!layout.program_file("order-3").exists());

        for (component, folder) in
            [("payment", &earlier), ("order", &config), ("order", &base.join("no")), ("kafka", &earlier)]
        {
            assert!(choose(&layout, component, folder).is_err(), "{component}");
        }
        let left = fs::read_dir(&config).expect("readable").count();
        assert_eq!(left, 0, "what was refused leaves nothing");
        fs::remove_dir_all(base).expect("gone");
    }

    /// The kernel says whose file a process runs, and whether that is still there.
    #[test]
    fn a_running_program_is_known() {
        let own = Running::of(std::process::id()).expect("it runs");
        assert_eq!(Running { file: env::current_exe().expect("known"), is_replaced: false }, own);
        let replaced = Running::named(PathBuf::from("/p/holdfast-order (deleted)"));
        assert_eq!(Running { file: PathBuf::from("/p/holdfast-order"), is_replaced: true }, replaced);
        assert_eq!(Running::of(u32::MAX), None);
    }
}
