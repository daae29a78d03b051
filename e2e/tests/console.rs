//! The console in a real browser, on a real stack: poison is found, repaired and redriven, and its order is paid.

use std::{
    env,
    net::TcpStream,
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use holdfast_e2e::{
    PATIENCE, World,
    browser::{self, Browser},
    eventually, id, skipped,
};
use holdfast_testkit::stack::binary;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

/// A database that refuses payments, for a reason in the data.
const REFUSE_PAYMENTS: &str = "
    create function refuse() returns trigger language plpgsql as
        $$ begin raise exception 'refused' using errcode = '23514'; end $$;
    create trigger refuse before insert on payments for each row execute function refuse()";
const ACCEPT_PAYMENTS: &str = "drop trigger refuse on payments; drop function refuse";

fn command(world: &World, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.arg("console").args(arguments).arg("--data-dir").arg(&world.stack.layout.data_dir);
    command.env("USER", "tester");
    command
}

/// Starts the console, and returns the address that it prints.
async fn start(world: &World) -> (Child, String) {
    let mut command = command(world, &["--allow-write"]);
    let mut process = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("holdfast runs");
    let mut lines = BufReader::new(process.stdout.take().expect("a pipe")).lines();
    let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("in time").expect("readable");
    let port = world.stack.layout.console_port();
    eventually("the console listens", || async { TcpStream::connect(("127.0.0.1", port)).is_ok() }).await;
    (process, line.expect("an address"))
}

async fn run(world: &World, arguments: &[&str]) -> Output {
    command(world, arguments).output().await.expect("holdfast runs")
}

async fn text_of(browser: &mut Browser, selector: &str) -> String {
    let text =
        browser.evaluate(&format!("document.querySelector({})?.innerText ?? ''", json!(selector))).await;
    text.as_str().expect("text").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A picture for the documents, if they are wanted.
async fn picture(browser: &mut Browser, name: &str) {
    if let Some(folder) = env::var_os("CONSOLE_PICTURES") {
        // The command names the folder of this test's stack.
        browser.evaluate("void (document.querySelector('.command').hidden = true)").await;
        browser.screenshot(&Path::new(&folder).join(name)).await;
        browser.evaluate("void (document.querySelector('.command').hidden = false)").await;
    }
}

/// An order whose event payment can't handle, and the letter in which that is.
async fn poisoned(world: &World) -> (holdfast_chaos::rest::Session, String, String) {
    let session = world.user("console", "10.00").await;
    let mut payments = world.connect("payment").await;
    sqlx::raw_sql(REFUSE_PAYMENTS).execute(&mut payments).await.expect("refusing");
    let order = id(&world.create(&session, "1 Wrong Street", 300).await);
    let parked = "select count(*) from dead_letters where subject = $1 and state = 'parked'";
    eventually("it is parked", || async { world.count("payment", parked, &order).await == 1 }).await;
    sqlx::raw_sql(ACCEPT_PAYMENTS).execute(&mut payments).await.expect("accepting");
    let (letters, _) = world.dlq_json(&["list", "--order", &order]).await;
    let letter = letters["dead_letters"][0]["id"].as_str().expect("an id").to_owned();
    (session, order, letter)
}

/// From the order to its letter, to the repair, to the redrive, to PAID, with links and forms only. See the file. Skipped where there
/// is no browser.
#[tokio::test(flavor = "multi_thread")]
async fn poison_is_found_repaired_and_redriven_in_the_browser() {
    let Some(program) = browser::installed() else {
        skipped("no Chromium or Chrome is installed, so the console was not opened");
        return;
    };
    let world = World::patient();
    let (session, order, letter) = poisoned(&world).await;
    let (_console, address) = start(&world).await;
    let mut browser = Browser::start(&program).await;
    browser.show_as(1280, "light").await;
    browser.visit(&address).await;
    assert_eq!(
        browser.evaluate("location.pathname + location.search").await,
        "/",
        "the address is left at once"
    );
    assert_eq!(text_of(&mut browser, ".who").await, "tester · may change things");
    assert_eq!(browser.evaluate("document.cookie").await, "", "scripts don't see the session");

    // The order says what it waits for.
    browser.fill("#order", &order).await;
    browser.press("form[aria-label='An order'] button").await;
    let waits = text_of(&mut browser, "#waits").await;
    let expected =
        format!("Its events wait at payment behind the dead letter {letter} (attempts-exhausted).");
    assert!(waits.starts_with(&expected), "{waits}");
    let timeline = text_of(&mut browser, "#timeline").await;
    assert!(timeline.contains("payment: parked attempts-exhausted letter"), "{timeline}");
    picture(&mut browser, "console-order.png").await;
    fits_a_small_screen(&mut browser).await;

    // The letter is repaired beside the original.
    browser.press("#waits a").await;
    assert_eq!(text_of(&mut browser, "#state").await, "parked");
    browser.press(".do a[href$='/edit']").await;
    let edited = "document.querySelector('#document').value.replace('1 Wrong Street', '2 Right Street')";
    browser.evaluate(&format!("void (document.querySelector('#document').value = {edited})")).await;
    browser.fill("#reason", "the street was wrong").await;
    browser.press("main form button").await;
    let path = browser.evaluate("location.pathname").await;
    assert_eq!(path, format!("/letters/{letter}"), "{}", text_of(&mut browser, "main").await);
    let shown = text_of(&mut browser, "main").await;
    assert!(shown.contains("What a redrive uses") && shown.contains("2 Right Street"), "{shown}");
    assert!(
        shown.contains("operator (tester via console)") && shown.contains("the street was wrong"),
        "{shown}"
    );
    picture(&mut browser, "console-letter.png").await;
    fits_a_small_screen(&mut browser).await;

    // What would be done is confirmed, once.
    browser.press(".do a[href*='action=redrive']").await;
    assert!(text_of(&mut browser, "#plan").await.starts_with("1 would be tried, of 1 that match"));
    browser.fill("#reason", "repaired").await;
    let form = "JSON.stringify([...new FormData(document.querySelector('#confirm'))])";
    let form = browser.evaluate(form).await.as_str().expect("text").to_owned();
    browser.press("#confirm button").await;
    until_it_has_ended(&mut browser).await;
    let page = browser.evaluate("location.pathname").await;
    let lines = text_of(&mut browser, "#lines").await;
    assert!(lines.contains("redriven redriven order.created"), "as it was said, and as it is: {lines}");
    let again = format!(
        "fetch('/desk', {{method: 'POST', body: new URLSearchParams({form})}}).then(answer => new URL(answer.url).pathname)"
    );
    assert_eq!(browser.evaluate(&again).await, page, "a second click finds what the first has begun");
    let actions =
        "select count(*) from dead_letter_audit where dead_letter_id::text = $1 and action = 'redrive'";
    assert_eq!(world.count("payment", actions, &letter).await, 1);
    let (audit, _) = world.dlq_json(&["audit", &letter]).await;
    assert_eq!(audit["audit"][0]["actor"], "operator (tester via console: repaired)", "{audit}");

    // The order goes on, and the page says so.
    let paid = ["PAID", "REFUNDED", "CANCELLED"];
    eventually("the order has ended", || async {
        let order = session.order(&order).await.unwrap_or(Value::Null);
        order["status"].as_str().is_some_and(|status| paid.contains(&status))
    })
    .await;
    assert_eq!(session.order(&order).await.expect("answered")["status"], "PAID");
    let url = format!("http://127.0.0.1:{}/orders/{order}", world.stack.layout.console_port());
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        browser.visit(&url).await;
        let rows = browser.evaluate("document.querySelectorAll('#timeline tbody tr').length").await;
        let waits = text_of(&mut browser, "#waits").await;
        if rows == 6 && waits == "Every event that was written was handled." {
            break;
        }
        assert!(tokio::time::Instant::now() < until, "{rows} events, {waits}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let right =
        "select count(*) from deliveries where delivery_address = '2 Right Street' and order_id::text = $1";
    assert_eq!(world.count("delivery", right, &order).await, 1, "it goes where the edit says");
    picture(&mut browser, "console-paid.png").await;

    every_page_is_well(&mut browser, &world).await;
    nobody_else_is_let_in(&mut browser, &world, &address).await;
}

async fn until_it_has_ended(browser: &mut Browser) {
    let until = tokio::time::Instant::now() + PATIENCE;
    while !text_of(browser, "#progress").await.starts_with("It has ended: 1 of 1.") {
        let progress = text_of(browser, "main").await;
        assert!(tokio::time::Instant::now() < until, "{progress}");
        tokio::time::sleep(Duration::from_millis(100)).await;
        browser.press("#progress a").await;
    }
}

/// Nothing is wider than a small telephone but what scrolls in itself.
async fn fits_a_small_screen(browser: &mut Browser) {
    browser.show_as(320, "dark").await;
    let fits = "document.documentElement.scrollWidth <= document.documentElement.clientWidth";
    assert_eq!(browser.evaluate(fits).await, true, "{}", browser.evaluate("location.pathname").await);
    assert_eq!(
        browser.evaluate("getComputedStyle(document.documentElement).backgroundColor").await,
        "rgb(20, 23, 26)"
    );
    let title = text_of(browser, "h1").await.replace(' ', "-").to_lowercase();
    picture(browser, &format!("console-small-{title}.png")).await;
    browser.show_as(1280, "light").await;
    assert_eq!(
        browser.evaluate("getComputedStyle(document.documentElement).backgroundColor").await,
        "rgb(255, 255, 255)"
    );
}

/// Each page that the navigation leads to is there, asks nobody else for anything, and has nothing to complain about.
async fn every_page_is_well(browser: &mut Browser, world: &World) {
    let base = format!("http://127.0.0.1:{}", world.stack.layout.console_port());
    for path in ["/", "/stuck?older=0s", "/letters", "/letters/list?state=all", "/audit", "/components"] {
        browser.visit(&format!("{base}{path}")).await;
        let missing = browser.evaluate("document.querySelectorAll('.notice').length").await;
        assert_eq!(missing, 0, "{path}: {}", text_of(browser, "main").await);
        assert_eq!(browser.statuses(&format!("{base}{path}")).last(), Some(&200), "{path}");
        fits_a_small_screen(browser).await;
    }
    let components = text_of(browser, "main").await;
    for service in ["gateway: ready", "order: ready", "payment: ready", "delivery: ready"] {
        assert!(components.contains(service), "{components}");
    }
    picture(browser, "console-components.png").await;
    let foreign: Vec<String> =
        browser.requested().into_iter().filter(|url| !url.starts_with(&base)).collect();
    assert!(foreign.is_empty(), "it asks others: {foreign:?}");
    let complaints = browser.complaints();
    assert!(complaints.is_empty(), "{complaints:#?}");
}

/// The address works once; another one is printed for whoever may; a console with other settings is not started beside it.
async fn nobody_else_is_let_in(browser: &mut Browser, world: &World, used: &str) {
    browser.visit(used).await;
    assert_eq!(text_of(browser, "h1").await, "Not signed in");
    let second = run(world, &["--allow-write"]).await;
    let address = String::from_utf8(second.stdout).expect("text");
    assert!(
        second.status.success() && address.trim().len() == used.len() && address.trim() != used,
        "{address}"
    );
    let reader = run(world, &[]).await;
    let talk = String::from_utf8_lossy(&reader.stderr).into_owned();
    assert!(!reader.status.success() && talk.contains("other settings"), "{talk}");
}
