//! The pinned components: what is behind is said (`scripts/components.sh`), and what made us raise PostgreSQL stays mended.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use holdfast_native::layout::PARTICIPANTS;
use holdfast_testkit::{PATIENCE, stack::infrastructure};
use sqlx::{Connection as _, PgConnection, postgres::PgConnectOptions};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// Eight bytes each: their length, and a number that is no version of the protocol.
const GSSENC_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30];
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
/// Each is answered from within the answer to the one before: PostgreSQL 16.9 had no room left at the 65,480th.
const REQUESTS: usize = 100_000;

/// Sends both requests in turn on one connection, each after the answer to the one before, until the server wants something else.
async fn ask_for_encryption_again_and_again(port: u16) {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).await.expect("listens");
    connection.set_nodelay(true).expect("set");
    let mut answer = [0];
    for request in [GSSENC_REQUEST, SSL_REQUEST].iter().cycle().take(REQUESTS) {
        let answered = async {
            connection.write_all(request).await?;
            connection.read_exact(&mut answer).await
        };
        let answered = timeout(PATIENCE, answered).await.expect("the server answers, or closes");
        // N: no encryption, go on. With S it waits for TLS.
        if answered.is_err() || answer != *b"N" {
            break;
        }
    }
}

/// Packets before a login end nobody's session but their own (CVE-2026-6479).
#[tokio::test(flavor = "multi_thread")]
async fn packets_before_a_login_do_not_end_the_server() {
    let url = infrastructure().database_url(PARTICIPANTS[0].name);
    let options: PgConnectOptions = url.parse().expect("a URL");
    let started = "select pg_postmaster_start_time()::text || (select pid from pg_stat_activity where backend_type = 'checkpointer')";
    let mut session = PgConnection::connect_with(&options).await.expect("a session");
    let before: String = sqlx::query_scalar(started).fetch_one(&mut session).await.expect("answered");
    ask_for_encryption_again_and_again(options.get_port()).await;
    let after: String =
        sqlx::query_scalar(started).fetch_one(&mut session).await.expect("the session goes on");
    assert_eq!(before, after, "no process ended that all depend on");
}

/// A tree with a table of components, and a repository to ask.
struct Tree {
    folder: TempDir,
    checked: &'static str,
    ends: &'static str,
    there: &'static str,
}

impl Tree {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("created");
        Self { folder, checked: "2026-11-01", ends: "2028-11-09", there: "16.9.0 16.15.0 17.11.0" }
    }

    /// What the script says of `version` in the table and 16.15.0 in the pom, on 26 November 2026.
    fn say(&self, version: &str) -> Output {
        let root = self.folder.path();
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("created");
            fs::write(path, text).expect("written");
        };
        write("deploy/native/pom.xml", "<db.version>16.15.0</db.version>");
        write(
            "docs/components.md",
            &format!(
                "# Components\n\nLast checked: {}\n\n| component | version | line | for | pinned in | released | fixes until | asked |\n\
                 |---|---|---|---|---|---|---|---|\n\
                 | A database | {version} | 16 | data | `deploy/native/pom.xml` | 2026-08-13 | {} | `org.example.db:server` |\n",
                self.checked, self.ends
            ),
        );
        let versions = self.there.split(' ').map(|version| format!("      <version>{version}</version>\n"));
        write("repository/org/example/db/server/maven-metadata.xml", &versions.collect::<String>());
        Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/components.sh"))
            .env("COMPONENTS_ROOT", root)
            .env("COMPONENTS_TODAY", "2026-11-26")
            .env("COMPONENTS_REPOSITORY", format!("file://{}/repository", root.display()))
            .output()
            .expect("runs")
    }

    /// What it says, without failing.
    fn warnings(&self) -> String {
        let output = self.say("16.15.0");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    }
}

/// Nothing is said about what is not behind; newer versions of another line, and 16.9 after 16.15, are none.
#[test]
fn what_is_not_behind_is_not_mentioned() {
    let said = Tree::new().warnings();
    assert!(said.contains("1 components") && said.contains("0 warnings") && !said.contains("NOT"), "{said}");
}

/// A newer release of the same line, a check that is long ago, and support that ends are each said, and none fails a build.
#[test]
fn what_is_behind_is_said_and_fails_nothing() {
    let said = Tree { there: "16.15.0 16.16.0 17.11.0", ..Tree::new() }.warnings();
    assert!(said.contains("A database 16.15.0 is behind: 16.16.0"), "{said}");
    let said = Tree { checked: "2026-09-01", ..Tree::new() }.warnings();
    assert!(said.contains("86 days ago"), "{said}");
    let said = Tree { ends: "about 2026-12-24", ..Tree::new() }.warnings();
    assert!(said.contains("gets fixes until 2026-12-24 only"), "{said}");
    let said = Tree { ends: "2026-11-09", ..Tree::new() }.warnings();
    assert!(said.contains("got its last fixes on 2026-11-09"), "{said}");
}

/// Without the repository nothing fails, but it is said that nobody was asked.
#[test]
fn without_a_network_nothing_fails() {
    let tree = Tree::new();
    tree.warnings();
    let output = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/components.sh"))
        .env("COMPONENTS_ROOT", tree.folder.path())
        .env("COMPONENTS_REPOSITORY", "http://127.0.0.1:9")
        .output()
        .expect("runs");
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("NOT asked"), "{output:?}");
}

/// A table that says something else than the file that it names fails, and says so.
#[test]
fn a_table_that_is_wrong_fails() {
    for version in ["16.14.0", "6.15.0", "16.15"] {
        let output = Tree::new().say(version);
        assert!(!output.status.success(), "{version}: {output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(version) && said.contains("deploy/native/pom.xml"), "{said}");
    }
}
