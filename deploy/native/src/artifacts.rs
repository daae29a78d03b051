//! Kafka and PostgreSQL as pinned artifacts, fetched once by Maven into a cache outside of the work tree.

use std::{
    env,
    ffi::OsStr,
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

/// What to fetch, with the versions.
const POM: &str = include_str!("../pom.xml");

/// Where the components are on this machine.
#[derive(Debug, Clone)]
pub(crate) struct Artifacts {
    /// Kafka's jars.
    pub(crate) jars: PathBuf,
    /// PostgreSQL's `bin`.
    pub(crate) postgres_bin: PathBuf,
}

impl Artifacts {
    /// Finds the components in the cache, or fetches them.
    pub(crate) fn ensure() -> Result<Self> {
        let root = cache_dir()?;
        let artifacts = Self { jars: root.join("jars"), postgres_bin: root.join("postgres").join("bin") };
        // Written last, so that a fetch that was cut off is repeated.
        let complete = root.join("complete");
        if complete.exists() {
            return Ok(artifacts);
        }
        eprintln!("fetching Apache Kafka and PostgreSQL (once, about 60 MB)");
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(&root).with_context(|| format!("cannot create {}", root.display()))?;
        let pom = root.join("pom.xml");
        fs::write(&pom, POM).with_context(|| format!("cannot write {}", pom.display()))?;
        fetch(&pom, &artifacts.jars)?;
        unpack_postgres(&root, &artifacts.jars)?;
        fs::write(&complete, "").with_context(|| format!("cannot write {}", complete.display()))?;
        Ok(artifacts)
    }
}

/// One folder per content of the pom, so that a new version never finds files of an old one.
fn cache_dir() -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    (POM, env::consts::ARCH).hash(&mut hasher);
    let base = if nix::unistd::geteuid().is_root() {
        // Then PostgreSQL runs as another user, who can't read root's home.
        PathBuf::from("/var/cache")
    } else if let Some(cache) = env::var_os("XDG_CACHE_HOME") {
        PathBuf::from(cache)
    } else {
        let home = env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?;
        PathBuf::from(home).join(".cache")
    };
    Ok(base.join("holdfast").join(format!("native-{:016x}", hasher.finish())))
}

fn fetch(pom: &Path, jars: &Path) -> Result<()> {
    let platform = match env::consts::ARCH {
        "x86_64" => "linux-amd64",
        "aarch64" => "linux-arm64v8",
        other => bail!("there is no PostgreSQL artifact for the processor {other}"),
    };
    run(Command::new("mvn")
        .args(["-B", "-q", "-f"])
        .arg(pom)
        .arg("dependency:copy-dependencies")
        .arg("-DincludeScope=runtime")
        .arg(format!("-Dpostgres.platform={platform}"))
        .arg(format!("-DoutputDirectory={}", jars.display())))
    .context("Maven could not fetch Kafka and PostgreSQL; is the network there? `make deps` installs Maven")
}

/// The jar contains one `.txz`, which contains `bin`, `lib` and `share`.
fn unpack_postgres(root: &Path, jars: &Path) -> Result<()> {
    let jar = fs::read_dir(jars)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| {
            path.file_name()
                .and_then(OsStr::to_str)
                .is_some_and(|name| name.starts_with("embedded-postgres-binaries"))
        })
        .context("Maven brought no PostgreSQL")?;
    let (unzipped, target) = (root.join("unzipped"), root.join("postgres"));
    fs::create_dir_all(&target)?;
    run(Command::new("unzip").args(["-q", "-o"]).arg(&jar).arg("-d").arg(&unzipped))
        .context("cannot unpack PostgreSQL; `make deps` installs unzip")?;
    let archive = fs::read_dir(&unzipped)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension() == Some(OsStr::new("txz")))
        .context("the PostgreSQL artifact holds no .txz")?;
    run(Command::new("tar").arg("-xJf").arg(&archive).arg("-C").arg(&target))
        .context("cannot unpack PostgreSQL; `make deps` installs tar and xz")?;
    fs::remove_dir_all(&unzipped)?;
    // It would only get in the way on Kafka's class path.
    fs::remove_file(&jar)?;
    Ok(())
}

/// Runs a command to its end; the error holds its output.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot run {name}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    bail!("{name} failed ({}): {} {}", output.status, text(&output.stdout), text(&output.stderr))
}
