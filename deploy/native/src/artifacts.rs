//! Kafka and PostgreSQL as pinned artifacts, fetched once by Maven into a cache outside of the work tree. Nothing of them is unpacked or
//! run unless its checksum is the one that this version was tested with.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsStr,
    fs::{self, File},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use aws_lc_rs::digest::{SHA256, digest};

use crate::{
    environment::{self, unprivileged},
    files, removal, say,
};

/// What to fetch, with the versions.
const POM: &str = include_str!("../pom.xml");
/// What must come, in the format of `sha256sum`; `checksums.sh` writes it.
const CHECKSUMS: &str = include_str!("../artifacts.sha256");
const POSTGRES: &str = "embedded-postgres-binaries-";

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
        if root.exists() {
            return open_to_components(&root).map(|()| artifacts);
        }
        if let Some(base) = root.parent() {
            fs::create_dir_all(base).with_context(|| format!("cannot create {}", base.display()))?;
        }
        // Several stacks may be the first at once: one fetches, the others wait for it.
        let lock = lock(&root.with_extension("lock"))?;
        if root.exists() {
            return open_to_components(&root).map(|()| artifacts);
        }
        say!("fetching Apache Kafka and PostgreSQL (once, about 60 MB)");
        // Only what is complete gets the name that is looked for.
        let draft = root.with_extension("draft");
        removal::remove(&draft)?;
        fs::create_dir_all(&draft).with_context(|| format!("cannot create {}", draft.display()))?;
        let pom = draft.join("pom.xml");
        fs::write(&pom, POM).with_context(|| format!("cannot write {}", pom.display()))?;
        let (jars, platform) = (draft.join("jars"), platform()?);
        fetch(&pom, &jars, platform, &lock)?;
        verify(&jars, &expected(platform)?)?;
        unpack_postgres(&draft, &jars, &lock)?;
        open_to_components(&draft)?;
        fs::rename(&draft, &root).with_context(|| format!("cannot create {}", root.display()))?;
        Ok(artifacts)
    }
}

fn lock(path: &Path) -> Result<File> {
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

/// The lock as the standard input of a child, which holds it as long as it runs: a child that survives this process, killed with
/// -9, must not write into what the next one makes.
fn held_by_child(lock: &File) -> Result<Stdio> {
    Ok(Stdio::from(lock.try_clone().context("cannot copy the lock of the cache")?))
}

/// Whatever the umask is, or was when an older version fetched them.
fn open_to_components(root: &Path) -> Result<()> {
    if unprivileged()?.is_none() {
        return Ok(());
    }
    let base = root.parent().unwrap_or(root);
    files::create_passable(base, base)
        .and_then(|()| files::publish(root))
        .with_context(|| format!("cannot open {} to the components", root.display()))
}

/// One folder per content of the pom and of the checksums, so that a new version never finds files of an old one.
fn cache_dir() -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    (POM, CHECKSUMS, env::consts::ARCH).hash(&mut hasher);
    Ok(user_dir()?.join(format!("native-{:016x}", hasher.finish())))
}

/// What all stacks of a user share. Nobody else writes there.
pub(crate) fn user_dir() -> Result<PathBuf> {
    let base = if nix::unistd::geteuid().is_root() {
        // Then PostgreSQL runs as another user, who can't read root's home.
        PathBuf::from("/var/cache")
    } else {
        // A relative one is to be ignored (XDG Base Directory Specification).
        let folder = |name| env::var_os(name).map(PathBuf::from).filter(|folder| folder.is_absolute());
        let home = || Some(folder("HOME")?.join(".cache"));
        folder("XDG_CACHE_HOME").or_else(home).context("neither XDG_CACHE_HOME nor HOME names a folder")?
    };
    // It would separate two entries of the class path of Java.
    ensure!(
        !base.as_os_str().as_encoded_bytes().contains(&b':'),
        "{} has a colon: name another folder with XDG_CACHE_HOME",
        base.display()
    );
    Ok(base.join("holdfast"))
}

/// The processor's name in the artifacts of PostgreSQL.
fn platform() -> Result<&'static str> {
    match env::consts::ARCH {
        "x86_64" => Ok("linux-amd64"),
        "aarch64" => Ok("linux-arm64v8"),
        other => bail!("there is no PostgreSQL artifact for the processor {other}"),
    }
}

fn fetch(pom: &Path, jars: &Path, platform: &str, lock: &File) -> Result<()> {
    // Strict: also what Maven fetches for itself must have the registry's checksums.
    // In the caller's environment: proxies and Maven's own settings are there, and other programs read its repository.
    run(environment::callers_command("mvn")
        .stdin(held_by_child(lock)?)
        .args(["-B", "-q", "-C", "-f"])
        .arg(pom)
        .arg("dependency:copy-dependencies")
        .arg("-DincludeScope=runtime")
        .arg(format!("-Dpostgres.platform={platform}"))
        .arg(format!("-DoutputDirectory={}", jars.display())))
    .context("Maven could not fetch Kafka and PostgreSQL; is the network there? `make deps` installs Maven")
}

/// The checksums of what this platform needs, by file.
fn expected(platform: &str) -> Result<BTreeMap<&'static str, &'static str>> {
    let lines = CHECKSUMS.lines().filter(|line| !line.starts_with('#'));
    let all = lines.map(|line| match line.split_once("  ") {
        Some((checksum, file)) => Ok((file, checksum)),
        None => bail!("artifacts.sha256 has a line that is none of `sha256sum`: {line}"),
    });
    let wanted = |file: &str| file.strip_prefix(POSTGRES).is_none_or(|rest| rest.starts_with(platform));
    all.filter(|pair| pair.as_ref().map_or(true, |(file, _)| wanted(file))).collect()
}

/// Refuses a folder that has anything but the expected files. They all become part of Kafka's class path, or of PostgreSQL.
fn verify(jars: &Path, expected: &BTreeMap<&str, &str>) -> Result<()> {
    const HELP: &str = "Nothing of it was used. If the version in deploy/native/pom.xml was changed on purpose, deploy/native/checksums.sh \
         takes down the new checksums";
    let mut missing = expected.clone();
    for entry in fs::read_dir(jars).with_context(|| format!("Maven brought nothing to {}", jars.display()))? {
        let path = entry?.path();
        let file = path.file_name().and_then(OsStr::to_str).unwrap_or_default().to_owned();
        let Some(checksum) = missing.remove(file.as_str()) else {
            bail!("Maven brought {file}, of which deploy/native/artifacts.sha256 knows nothing. {HELP}");
        };
        let content = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let found = hex(digest(&SHA256, &content).as_ref());
        ensure!(
            found == checksum,
            "{file} is not the file that is expected: its SHA-256 is {found}, and deploy/native/artifacts.sha256 says {checksum}. \
             Either Maven's own copy is damaged (delete {file} from its repository, usually ~/.m2/repository, and try again), or \
             somebody has replaced it. {HELP}"
        );
    }
    if let Some(file) = missing.into_keys().next() {
        bail!("Maven did not bring {file}, which is in deploy/native/artifacts.sha256. {HELP}");
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The jar contains one `.txz`, which contains `bin`, `lib` and `share`.
fn unpack_postgres(root: &Path, jars: &Path, lock: &File) -> Result<()> {
    let jar = fs::read_dir(jars)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with(POSTGRES)))
        .context("Maven brought no PostgreSQL")?;
    let (unzipped, target) = (root.join("unzipped"), root.join("postgres"));
    fs::create_dir_all(&target)?;
    run(environment::command("unzip")
        .stdin(held_by_child(lock)?)
        .args(["-q", "-o"])
        .arg(&jar)
        .arg("-d")
        .arg(&unzipped))
    .context("cannot unpack PostgreSQL; `make deps` installs unzip")?;
    let archive = fs::read_dir(&unzipped)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension() == Some(OsStr::new("txz")))
        .context("the PostgreSQL artifact holds no .txz")?;
    run(environment::command("tar")
        .stdin(held_by_child(lock)?)
        .arg("-xJf")
        .arg(&archive)
        .arg("-C")
        .arg(&target))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with two files, and what is expected of it.
    struct Fetched(PathBuf);

    impl Fetched {
        fn new(name: &str) -> Self {
            let folder = env::temp_dir().join(format!("holdfast-artifacts-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&folder);
            fs::create_dir_all(&folder).expect("created");
            let fetched = Self(folder);
            fetched.write("a.jar", "abc");
            fetched.write("b.jar", "");
            fetched
        }

        fn write(&self, file: &str, content: &str) {
            fs::write(self.0.join(file), content).expect("written");
        }

        fn refusal(&self) -> String {
            let refused = verify(&self.0, &published()).expect_err("refused").to_string();
            assert!(refused.contains("checksums.sh"), "says how to go on: {refused}");
            refused
        }
    }

    impl Drop for Fetched {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// The checksums that are published as examples of SHA-256: of `abc`, and of nothing.
    fn published() -> BTreeMap<&'static str, &'static str> {
        BTreeMap::from([
            ("a.jar", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            ("b.jar", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        ])
    }

    /// What has its checksum is taken.
    #[test]
    fn what_is_expected_is_taken() {
        let fetched = Fetched::new("taken");
        verify(&fetched.0, &published()).expect("as expected");
    }

    /// A file that was changed is refused by its name, with both checksums and the way out.
    #[test]
    fn a_changed_file_is_refused() {
        let fetched = Fetched::new("changed");
        fetched.write("a.jar", "abd");
        let refused = fetched.refusal();
        for part in [
            "a.jar",
            published()["a.jar"],
            "a52d159f262b2c6ddb724a61840befc36eb30c88877a4030b65cbe86298449c9",
            ".m2",
        ] {
            assert!(refused.contains(part), "{part} in {refused}");
        }
    }

    /// A file more, which would be on Kafka's class path, or a file less is refused.
    #[test]
    fn a_file_more_or_less_is_refused() {
        let fetched = Fetched::new("more");
        fetched.write("c.jar", "");
        assert!(fetched.refusal().contains("c.jar"));
        fs::remove_file(fetched.0.join("c.jar")).expect("removed");
        fs::remove_file(fetched.0.join("b.jar")).expect("removed");
        assert!(fetched.refusal().contains("did not bring b.jar"));
    }

    /// Every platform has the same files, but for its own PostgreSQL, in the version of the pom; and all have checksums.
    #[test]
    fn every_platform_has_its_checksums() {
        for platform in ["linux-amd64", "linux-arm64v8"] {
            let files = expected(platform).expect("read");
            assert!(files.values().all(|checksum| checksum.len() == 64), "{files:?}");
            assert!(files.len() > 40, "{files:?}");
            let postgres: Vec<_> = files.keys().filter(|file| file.starts_with(POSTGRES)).collect();
            let [postgres] = postgres[..] else { panic!("{postgres:?}") };
            let version = postgres.rsplit_once('-').and_then(|(_, version)| version.strip_suffix(".jar"));
            let version = version.expect("a version");
            assert!(POM.contains(&format!("<postgres.version>{version}<")), "{postgres}");
        }
    }
}
