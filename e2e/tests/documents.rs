//! What documents and comments refer to exists: pitfalls by their number, files by their path, tests by their name.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use holdfast_common::metric;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("there")
}

/// Our own files with one of these extensions.
fn files(folder: &Path, extensions: &[&str], found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("readable") {
        let path = entry.expect("readable").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() {
            if !name.starts_with('.') && name != "target" {
                files(&path, extensions, found);
            }
        } else if path
            .extension()
            .and_then(|name| name.to_str())
            .is_some_and(|name| extensions.contains(&name))
        {
            found.push(path);
        }
    }
}

fn texts(extensions: &[&str]) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    files(&root(), extensions, &mut found);
    assert!(!found.is_empty());
    found.into_iter().map(|path| (path.clone(), fs::read_to_string(path).expect("text"))).collect()
}

/// `P7` and `P42` in a text.
fn pitfalls_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric());
    let is_number =
        |digits: &str| (1..=2).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    words.filter(|word| word.strip_prefix('P').is_some_and(is_number)).map(str::to_owned).collect()
}

/// Every pitfall that code or a document cites has its row.
#[test]
fn every_pitfall_has_its_row() {
    let page = fs::read_to_string(root().join("docs/pitfalls.md")).expect("there");
    let rows: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" |").next())
        .filter(|cell| !pitfalls_in(cell).is_empty())
        .collect();
    assert!(rows.len() > 40, "{rows:?}");
    for (path, text) in texts(&["rs", "md", "sql", "toml", "proto", "yml"]) {
        for cited in pitfalls_in(&text) {
            assert!(rows.contains(cited.as_str()), "{} cites {cited}", path.display());
        }
    }
}

/// Every alert has its section in the page that its annotation names, and a test; every section has its alert.
#[test]
fn every_alert_is_explained_and_tested() {
    let names = |text: &str, prefix: &str| -> BTreeSet<String> {
        text.lines().filter_map(|line| line.trim().strip_prefix(prefix)).map(str::to_owned).collect()
    };
    let (mut alerts, mut tested) = (BTreeSet::new(), BTreeSet::new());
    for (path, text) in texts(&["yml"]) {
        if path.to_string_lossy().ends_with(".rules.yml") {
            let found = names(&text, "- alert: ");
            for alert in &found {
                let section = format!("runbook: docs/alerts.md#{}", alert.to_lowercase());
                assert!(text.contains(&section), "{alert} names its section");
            }
            alerts.extend(found);
        } else if path.to_string_lossy().ends_with(".test.yml") {
            tested.extend(names(&text, "alertname: "));
        }
    }
    assert!(alerts.len() > 20, "{alerts:?}");
    assert_eq!(tested, alerts);
    let page = fs::read_to_string(root().join("docs/alerts.md")).expect("there");
    assert_eq!(names(&page, "## "), alerts);
}

/// The expression in a line of a file of rules, or of a board.
fn expression_of(line: &str) -> Option<&str> {
    let line = line.trim();
    line.strip_prefix("expr:").or_else(|| line.strip_prefix("\"expr\":"))
}

/// The words of an expression that name metrics: labels are in braces, or behind `by` and `on`.
fn metrics_in(expression: &str) -> BTreeSet<String> {
    let (mut bare, mut depth) = (String::new(), 0);
    for letter in expression.chars() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ if depth == 0 => bare.push(letter),
            _ => {}
        }
    }
    for word in ["by (", "on ("] {
        while let Some((before, rest)) = bare.split_once(word) {
            let (_, after) = rest.split_once(')').expect("it ends");
            bare = format!("{before} {after}");
        }
    }
    let words = bare.split(|letter: char| !letter.is_ascii_alphanumeric() && !matches!(letter, '_' | ':'));
    let is_metric =
        |word: &&str| word.contains('_') && !matches!(*word, "histogram_quantile" | "__rate_interval");
    words.filter(is_metric).map(str::to_owned).collect()
}

/// Whether a metric is one of ours, or a series that Prometheus makes of a histogram of ours.
fn is_recorded(name: &str) -> bool {
    let base = ["_bucket", "_count", "_sum"].iter().find_map(|end| name.strip_suffix(end));
    metric::ALL.iter().any(
        |(kind, recorded, _)| {
            if *kind == "histogram" { base == Some(*recorded) } else { name == *recorded }
        },
    )
}

/// Every metric in an alert or on a board is recorded.
#[test]
fn every_alert_and_board_asks_for_metrics_that_exist() {
    let mut found = 0;
    for (path, text) in texts(&["yml", "yaml", "json"]) {
        let of_rules: BTreeSet<&str> = text
            .lines()
            .filter_map(|line| line.trim().trim_start_matches("- ").strip_prefix("record: "))
            .collect();
        for expression in text.lines().filter_map(expression_of) {
            for metric in metrics_in(expression).iter().filter(|name| !of_rules.contains(name.as_str())) {
                assert!(is_recorded(metric), "{}: {metric} in {expression}", path.display());
                found += 1;
            }
        }
    }
    assert!(found > 100, "{found}");
}

/// Every metric that a document, a sample or a script names is in the list, and everything in the list is recorded somewhere.
#[test]
fn every_metric_is_known_and_recorded() {
    let names: BTreeSet<&str> = metric::ALL.iter().map(|(_, name, _)| *name).collect();
    for (path, text) in texts(&["md", "toml", "sh", "py"]) {
        if path.ends_with("CHANGELOG.md") {
            // It has the former names, too.
            continue;
        }
        let words =
            text.split(|letter: char| !letter.is_ascii_alphanumeric() && !matches!(letter, '_' | '*'));
        for word in words.filter(|word| word.starts_with("holdfast_") && *word != "holdfast_") {
            let is_known = match word.strip_suffix('*') {
                Some(start) => names.iter().any(|name| name.starts_with(start)),
                None => {
                    is_recorded(word)
                        || names.contains(word)
                        || root().join(&word["holdfast_".len()..]).is_dir()
                }
            };
            assert!(is_known, "{}: {word}", path.display());
        }
    }
    let table = fs::read_to_string(root().join("common/src/metric.rs")).expect("there");
    let constants: Vec<&str> = table
        .lines()
        .filter_map(|line| line.split_once(" = \"")?.0.trim().split_once(' '))
        .filter(|(kind, _)| matches!(*kind, "counter" | "gauge" | "histogram"))
        .map(|(_, constant)| constant)
        .collect();
    assert_eq!(constants.len(), names.len());
    let code: BTreeSet<String> = texts(&["rs"])
        .iter()
        .filter(|(path, _)| !path.ends_with("common/src/metric.rs"))
        .flat_map(|(_, text)| text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_'))
        .map(str::to_owned)
        .collect();
    let unused: Vec<&str> = constants.into_iter().filter(|constant| !code.contains(*constant)).collect();
    assert!(unused.is_empty(), "nobody records {unused:?}");
}

/// The arguments of a call or macro whose bracket has been opened.
fn arguments(text: &str) -> &str {
    let (mut depth, mut in_text, mut escaped) = (1, false, false);
    for (at, letter) in text.char_indices() {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => in_text = !in_text,
            '(' if !in_text => depth += 1,
            ')' if !in_text => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &text[..at];
        }
    }
    panic!("a bracket is not closed: {}", &text[..80.min(text.len())]);
}

/// Level and message of every event at WARN and ERROR in the services' code, without its tests.
fn events_in_the_code() -> BTreeSet<(&'static str, String)> {
    let mut events = BTreeSet::new();
    for (path, text) in texts(&["rs"]) {
        let path = path.strip_prefix(root()).expect("below it");
        let is_tool =
            ["chaos", "cli", "deploy", "e2e", "testkit", "target"].iter().any(|part| path.starts_with(part));
        if is_tool
            || path.components().any(|part| matches!(part.as_os_str().to_str(), Some("tests" | "tests.rs")))
        {
            continue;
        }
        let code = text.split("\n#[cfg(test)]\nmod tests {").next().expect("one part");
        for other in
            ["Level::WARN", "Level::ERROR", "tracing::event!", "use tracing::{error", "use tracing::warn"]
        {
            assert!(!code.contains(other), "{}: {other}: this test does not see such events", path.display());
        }
        for level in ["WARN", "ERROR"] {
            let macro_name = format!("tracing::{}!(", level.to_lowercase());
            for after in code.split(&macro_name).skip(1) {
                let arguments = arguments(after).trim().trim_end_matches(',');
                let message = arguments.strip_suffix('"').and_then(|text| text.rsplit_once('"'));
                let (_, message) =
                    message.unwrap_or_else(|| panic!("{}: no message in {arguments}", path.display()));
                events.insert((level, message.to_owned()));
            }
        }
    }
    events
}

/// Every line that a service writes at WARN or ERROR has its row on the page, with what it means and what to do, and every row its line.
#[test]
fn every_event_in_the_log_is_explained() {
    let page = fs::read_to_string(root().join("docs/log-events.md")).expect("there");
    let mut explained = BTreeSet::new();
    for level in ["WARN", "ERROR"] {
        let (_, section) = page.split_once(&format!("## {level}\n")).expect("a section");
        let section = section.split("\n## ").next().expect("one part");
        for row in section.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |")).skip(1) {
            let cells: Vec<&str> = row.split(" | ").collect();
            assert!(cells.len() == 3 && cells.iter().all(|cell| !cell.is_empty()), "{row}");
            assert!(explained.insert((level, cells[0].to_owned())), "{level} {row} twice");
        }
    }
    let events = events_in_the_code();
    assert!(events.len() > 30, "{events:?}");
    let unexplained: Vec<_> = events.difference(&explained).collect();
    let gone: Vec<_> = explained.difference(&events).collect();
    assert!(
        unexplained.is_empty() && gone.is_empty(),
        "not on the page: {unexplained:#?}; not in the code: {gone:#?}"
    );
}

/// Every file that a document links to, or names by its path, exists; and so does every test that a link names.
#[test]
fn what_documents_point_at_is_there() {
    let mut all = Vec::new();
    files(&root(), &["rs", "md", "sql", "toml", "yml", "proto", "sh"], &mut all);
    let mut wrong = Vec::new();
    for (path, text) in texts(&["md"]) {
        let folder = path.parent().expect("in a folder");
        // [`a`, `b`](path): text and target.
        for part in text.split("](").collect::<Vec<_>>().windows(2) {
            let Some((target, _)) = part[1].split_once(')') else { continue };
            let file = target.split('#').next().unwrap_or_default();
            if file.is_empty() || file.contains("://") {
                continue;
            }
            let linked = folder.join(file);
            if !linked.exists() {
                wrong.push(format!("{}: {file}", path.display()));
                continue;
            }
            let label = part[0].rsplit('[').next().unwrap_or_default();
            if linked.extension().is_some_and(|extension| extension == "rs") {
                let code = fs::read_to_string(&linked).expect("text");
                let names = label.split('`').skip(1).step_by(2).filter(|name| !name.contains(['/', '.']));
                for name in names.filter(|name| !code.contains(&format!("fn {name}("))) {
                    wrong.push(format!("{}: {file} has no test {name}", path.display()));
                }
            }
        }
        // `folder/file.rs`, or the end of a path.
        let is_path = |name: &&str| {
            let ends = [".rs", ".md", ".sql", ".toml", ".yml", ".proto", ".sh"];
            name.contains('/')
                && !name.contains([' ', '<', '{', '*', '~', ':'])
                && !name.starts_with('/')
                && ends.iter().any(|end| name.ends_with(end))
        };
        let ours = |name: &&str| !name.starts_with("config/") && !name.starts_with("target/");
        // This page names files of other projects.
        if path.ends_with("docs/pitfalls.md") {
            continue;
        }
        for line in text.lines() {
            for name in line.split('`').skip(1).step_by(2).filter(is_path).filter(ours) {
                if !all.iter().any(|path| path.ends_with(name)) && !folder.join(name).exists() {
                    wrong.push(format!("{}: {name}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Every migration is one of those that its program names; a file that nobody names would never run.
#[test]
fn every_migration_is_named() {
    let mut migrations = Vec::new();
    files(&root(), &["sql"], &mut migrations);
    migrations.retain(|path| path.parent().is_some_and(|folder| folder.ends_with("migrations")));
    assert!(migrations.len() > 10, "{migrations:?}");
    for path in migrations {
        let mut code = Vec::new();
        let folder = path.ancestors().nth(2).expect("of a crate");
        files(&folder.join("src"), &["rs"], &mut code);
        let name = format!("\"{}\"", path.file_name().and_then(|name| name.to_str()).expect("text"));
        let names = |path: &PathBuf| fs::read_to_string(path).expect("text").contains(&name);
        assert!(code.iter().any(names), "nothing names {}", path.display());
    }
}

/// What is logged is for operators: no field is printed as Rust's own notation for programmers. A status code is a word in it, and
/// allowed.
#[test]
fn logs_have_no_debug_strings() {
    const MACROS: [&str; 5] =
        ["tracing::error!(", "tracing::warn!(", "tracing::info!(", "tracing::debug!(", "tracing::trace!("];
    let mut looked_at = 0;
    for (path, text) in texts(&["rs"]) {
        for name in MACROS {
            for (at, _) in text.match_indices(name) {
                let rest = &text[at + name.len()..];
                let arguments = rest.split_once(");").map_or(rest, |(arguments, _)| arguments);
                looked_at += 1;
                let fields =
                    arguments.split(',').map(|field| field.rsplit('=').next().unwrap_or(field).trim());
                let debug: Vec<&str> = fields.filter(|field| field.starts_with('?')).collect();
                let is_code = |field: &&str| *field == "?code" || field.ends_with(".code()");
                assert!(debug.iter().all(is_code), "{}: {debug:?} in {arguments}", path.display());
                assert!(!arguments.contains(":?}"), "{}: {arguments}", path.display());
            }
        }
    }
    assert!(looked_at > 30, "only {looked_at}");
}

/// `order.insert_order` if the text is a literal that begins with it as a comment, as statements do.
fn name_of_statement(literal: &str) -> Option<&str> {
    let name = literal.strip_prefix("\"-- ")?.split(['\n', '\\']).next()?;
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    name.split_once('.').filter(|(part, rest)| is_word(part) && is_word(rest)).map(|_| name)
}

/// All SQL of the services runs through `database::query`, so that it has spans, and every statement has a name of its own, by which
/// traces and PostgreSQL's log mean the same one. A service's statements begin with its name.
#[test]
fn every_statement_has_a_name_of_its_own() {
    /// Where statements begin in sqlx, and what may use that: the wrapper itself, and grants whose text the server makes.
    const BESIDE: [&str; 2] = ["database/statement.rs", "database/grants.rs"];
    let (mut names, mut calls, mut purges) = (BTreeMap::new(), 0, 0);
    for crate_name in ["common", "order", "payment", "delivery", "gateway"] {
        let mut sources = Vec::new();
        files(&root().join(crate_name).join("src"), &["rs"], &mut sources);
        for path in sources {
            let text = fs::read_to_string(&path).expect("text");
            let is_beside = BESIDE.iter().any(|name| path.ends_with(name));
            for around in ["sqlx::query", "raw_sql("] {
                assert!(is_beside || !text.contains(around), "{} goes past database::query", path.display());
            }
            // How statements, and migrations, begin.
            if ["database/statement.rs", "database/migrations.rs"].iter().any(|name| path.ends_with(name)) {
                continue;
            }
            for (at, _) in text.match_indices("\"-- ") {
                let name = name_of_statement(&text[at..])
                    .unwrap_or_else(|| panic!("no name at {at} of {}", path.display()));
                assert_eq!(names.insert(name.to_owned(), path.clone()), None, "{name} twice");
                let part = name.split('.').next().expect("it has two");
                let of_service = ["order", "payment", "delivery"].contains(&part);
                assert_eq!(of_service, crate_name != "common", "{name} in {}", path.display());
                assert!(!of_service || part == crate_name, "{name} in {}", path.display());
            }
            let begins_a_word =
                |at: usize| !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '.');
            for (at, call) in text.match_indices("query(").filter(|(at, _)| begins_a_word(*at)) {
                let argument = text[at + call.len()..].trim_start();
                let argument = argument.strip_prefix("concat!(").unwrap_or(argument).trim_start();
                calls += 1;
                // The one that is handed in has its name where it is written.
                if argument.starts_with("expiring.purge)") {
                    calls -= 1;
                    continue;
                }
                assert!(name_of_statement(argument).is_some(), "{}: {argument:.80}", path.display());
            }
            purges += text.matches("purge: \"-- ").count();
        }
    }
    assert!(calls > 80 && purges > 2, "{calls}, {purges}");
    assert_eq!(names.len(), calls + purges, "every name is that of a statement that is run");
}
