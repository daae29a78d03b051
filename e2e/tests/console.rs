//! The console in a real browser, on a real stack: poison is found, repaired and redriven, and its order is paid; an order is watched.

use std::{
    env, fs,
    net::TcpStream,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        process::CommandExt as _,
    },
    path::Path,
    process::{Output, Stdio},
};

use holdfast_chaos::{fault::Fault, rest::Session, topics};
use holdfast_e2e::{
    PATIENCE, World,
    browser::{self, Browser},
    events::send_created,
    eventually, id, reaches, skipped,
};
use holdfast_testkit::stack::{TestStack, binary};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};
use rdkafka::{consumer::Consumer as _, groups::GroupInfo};
use serde_json::{Value, json};
use tokio::process::Command;
use uuid::Uuid;

/// A database that refuses payments, for a reason in the data.
const REFUSE_PAYMENTS: &str = "
    create function refuse() returns trigger language plpgsql as
        $$ begin raise exception 'refused' using errcode = '23514'; end $$;
    create trigger refuse before insert on payments for each row execute function refuse()";
const ACCEPT_PAYMENTS: &str = "drop trigger refuse on payments; drop function refuse";

/// A database that loses what is to be published, as a broker would after it was acknowledged: the order is there, its event nowhere.
const LOSE_EVENTS: &str = "
    create function lose() returns trigger language plpgsql as $$ begin return null; end $$;
    create trigger lose before insert on outbox for each row execute function lose()";
const KEEP_EVENTS: &str = "drop trigger lose on outbox; drop function lose";

/// What `holdfast console` says.
async fn run(world: &World, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.arg("console").args(arguments).arg("--data-dir").arg(&world.stack.layout.data_dir);
    command.env("USER", "tester").output().await.expect("holdfast runs")
}

/// The address that it prints.
async fn address(world: &World, arguments: &[&str]) -> String {
    let output = run(world, arguments).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
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
async fn poisoned(world: &World) -> (Session, String, String) {
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

/// A stack of its test, with its console.
async fn with_console(environment: &'static [(&str, &str)]) -> World {
    let start = move || TestStack::start_with_console(environment);
    World::of(Box::leak(Box::new(tokio::task::spawn_blocking(start).await.expect("started"))))
}

/// From the order to its letter, to the repair, to the redrive, to PAID, with links and forms only. See the file. Skipped where there
/// is no browser.
#[tokio::test(flavor = "multi_thread")]
async fn poison_is_found_repaired_and_redriven_in_the_browser() {
    let Some(program) = browser::installed() else {
        skipped("no Chromium or Chrome is installed, so the console was not opened");
        return;
    };
    let world = with_console(&[("HOLDFAST__DELIVERY__STEP", "50ms")]).await;
    let world = World { rest: world.rest.patient(PATIENCE), ..world };
    let (session, order, letter) = poisoned(&world).await;
    let address = address(&world, &["--allow-write"]).await;
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
    what_is_done_is_taken_back(&mut browser, &letter).await;
    browser.press(".do a[href$='/edit']").await;
    let edited = "document.querySelector('#document').value.replace('1 Wrong Street', '2 Right Street')";
    browser.evaluate(&format!("void (document.querySelector('#document').value = {edited})")).await;
    browser.fill("#reason", "the street was wrong").await;
    browser.press("main form button").await;
    let path = browser.evaluate("location.pathname").await;
    assert_eq!(path, format!("/letters/{letter}"), "{}", text_of(&mut browser, "main").await);
    let shown = text_of(&mut browser, "main").await;
    assert!(shown.contains("What a redrive uses") && shown.contains("2 Right Street"), "{shown}");
    assert!(shown.contains("console (tester)") && shown.contains("the street was wrong"), "{shown}");
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
    // As it was said, and as it is.
    let lines = "document.querySelector('#lines').innerText.split(/\\s+/).join(' ').includes('redriven redriven order.created')";
    browser.until(lines).await;
    let counted = text_of(&mut browser, "#counted").await;
    assert!(counted.contains("finished; 1 redriven, 0 failed"), "{counted}");
    let again = format!(
        "fetch('/desk', {{method: 'POST', body: new URLSearchParams({form})}}).then(answer => new URL(answer.url).pathname)"
    );
    assert_eq!(browser.evaluate(&again).await, page, "a second click finds what the first has begun");
    let actions =
        "select count(*) from dead_letter_audit where dead_letter_id::text = $1 and action = 'redrive'";
    assert_eq!(world.count("payment", actions, &letter).await, 1);
    let (audit, _) = world.dlq_json(&["audit", &letter]).await;
    assert_eq!(audit["audit"][0]["actor"], "console (tester: repaired)", "{audit}");

    // The order goes on, and the page says so.
    let paid = ["PAID", "REFUNDED", "CANCELLED"];
    eventually("the order has ended", || async {
        let order = session.order(&order).await.unwrap_or(Value::Null);
        order["status"].as_str().is_some_and(|status| paid.contains(&status))
    })
    .await;
    assert_eq!(session.order(&order).await.expect("answered")["status"], "PAID");
    let url = format!("http://127.0.0.1:{}/orders/{order}", world.stack.layout.console_port());
    browser.visit(&url).await;
    browser.until("document.querySelectorAll('#timeline tbody tr').length === 6").await;
    browser
        .until("document.querySelector('#waits').innerText === 'Every event that was written was handled.'")
        .await;
    let right =
        "select count(*) from deliveries where delivery_address = '2 Right Street' and order_id::text = $1";
    assert_eq!(world.count("delivery", right, &order).await, 1, "it goes where the edit says");
    picture(&mut browser, "console-paid.png").await;

    a_redrive_is_ended(&mut browser, &world).await;
    every_page_is_well(&mut browser, &world, &order, &letter).await;
    a_lost_event_is_re_emitted(&mut browser, &world, &session).await;
    nobody_else_is_let_in(&mut browser, &world, &address).await;
}

/// An order whose event is lost: its page leads to where that is said, and to where the event is re-emitted; then the order is paid.
async fn a_lost_event_is_re_emitted(browser: &mut Browser, world: &World, session: &Session) {
    let mut orders = world.connect("order").await;
    sqlx::raw_sql(LOSE_EVENTS).execute(&mut orders).await.expect("losing");
    let order = id(&world.create(session, "1 Quay Street", 300).await);
    sqlx::raw_sql(KEEP_EVENTS).execute(&mut orders).await.expect("keeping");
    browser.visit(&format!("http://127.0.0.1:{}/orders/{order}", world.stack.layout.console_port())).await;
    browser.press(".do a[href^='/reconcile']").await;
    let verdict = |expected: &str| {
        let expected = json!(expected);
        format!("(document.querySelector('#verdict')?.innerText ?? '').startsWith({expected})")
    };
    let page = format!("/reconcile?order={order}");
    // A reader that has had no time to look at the broker is not taken to have read to the end.
    visit_until(browser, world, &page, &verdict("Missing events: 1 lost.")).await;
    let missing = text_of(browser, "#missing tbody tr").await;
    assert!(missing.contains("order.created") && missing.contains("payment lost the broker"), "{missing}");
    picture(browser, "console-lost.png").await;
    fits_a_small_screen(browser).await;

    let confirmed = format!("/reconcile/reemit?order={order}");
    let offered = "document.querySelector('#confirm') !== null";
    let audit = "select count(*) from outbox_audit where action = 're-emit' and reason = 'it was lost'
        and actor = 'console (tester)' and subject = $1";
    let browser = &tokio::sync::Mutex::new(browser);
    let url = format!("http://127.0.0.1:{}{confirmed}", world.stack.layout.console_port());
    eventually("it is re-emitted", || async {
        let mut browser = browser.lock().await;
        browser.visit(&url).await;
        if browser.evaluate(offered).await == true {
            let plan = text_of(&mut browser, "#plan").await;
            assert!(plan.starts_with(&format!("order writes order.created of order {order} ")), "{plan}");
            confirm(&mut browser, "it was lost").await;
        }
        world.count("order", audit, &order).await == 1
    })
    .await;
    eventually("it is paid", || async {
        session.order(&order).await.is_ok_and(|order| order["status"] == "PAID")
    })
    .await;
    let mut browser = browser.lock().await;
    visit_until(&mut browser, world, &page, &verdict("No event is missing.")).await;
}

/// By itself: nobody loads the page again.
async fn until_it_has_ended(browser: &mut Browser) {
    browser.until("document.querySelector('#progress').innerText.startsWith('It has ended: 1 of 1.')").await;
}

/// Confirms what a page says would be done.
async fn confirm(browser: &mut Browser, reason: &str) {
    browser.fill("#reason", reason).await;
    browser.press("#confirm button").await;
}

/// A letter is discarded and restored; an edit of it is made and taken back.
async fn what_is_done_is_taken_back(browser: &mut Browser, letter: &str) {
    let page = browser.evaluate("location.href").await.as_str().expect("text").to_owned();
    for (action, state) in [("discard", "discarded"), ("restore", "parked")] {
        browser.press(&format!(".do a[href*='action={action}']")).await;
        confirm(browser, "a mistake").await;
        until_it_has_ended(browser).await;
        browser.visit(&page).await;
        assert_eq!(text_of(browser, "#state").await, state);
    }
    browser.press(".do a[href$='/edit']").await;
    let edited = "document.querySelector('#document').value.replace('1 Wrong Street', '3 Nowhere')";
    browser.evaluate(&format!("void (document.querySelector('#document').value = {edited})")).await;
    browser.fill("#reason", "a mistake").await;
    browser.press("main form button").await;
    assert!(text_of(browser, "main").await.contains("3 Nowhere"));
    browser.press(".do a[href$='/revert']").await;
    let plan = text_of(browser, "#plan").await;
    assert!(plan.starts_with(&format!("all edits of the dead letter {letter} are taken back")), "{plan}");
    confirm(browser, "it was right").await;
    let shown = text_of(browser, "main").await;
    assert!(!shown.contains("What a redrive uses") && shown.contains("it was right"), "{shown}");
}

/// A redrive that takes half a minute, because of its rate, is watched and ended before it is done; others are told who did that.
async fn a_redrive_is_ended(browser: &mut Browser, world: &World) {
    const LETTERS: i64 = 30;
    let producer = world.producer();
    for _ in 0..LETTERS {
        send_created(&producer, "stranger", &Uuid::now_v7().to_string(), b"\xff").await;
    }
    let parked = "select count(*) from dead_letters where class = $1 and state = 'parked'";
    reaches("all are parked", LETTERS, || world.count("payment", parked, "decode")).await;
    let base = format!("http://127.0.0.1:{}", world.stack.layout.console_port());
    browser.visit(&format!("{base}/desk?action=redrive&service=payment&class=decode&max=50&rate=1")).await;
    let shown = text_of(browser, "main").await;
    assert!(shown.contains("--rate 1/s --execute"), "{shown}");
    confirm(browser, "once more").await;
    browser.until("(document.querySelector('#counted')?.innerText ?? '').includes('running')").await;
    browser.press("#counted a").await;
    confirm(browser, "it is of no use").await;
    browser.until("(document.querySelector('#redrives tbody td:nth-child(3)')?.innerText ?? '').startsWith('cancelled by')").await;
    let redrives = text_of(browser, "#redrives").await;
    assert!(redrives.contains("tester: it is of no use"), "{redrives}");
    assert!(redrives.contains("tester: once more"), "{redrives}");
}

/// How many events the order's page shows, without it having been loaded again since `until` was first called.
async fn until_shown(browser: &mut Browser, events: usize, waits: &str) {
    let shown = format!(
        "window.watched === true && document.querySelectorAll('#timeline tbody tr').length === {events}
            && document.querySelector('#waits').innerText.startsWith({})",
        json!(waits)
    );
    browser.until(&shown).await;
}

/// The console is a component like others: it is there when its stack is, nobody else reads what it has, it comes back when it dies, lets in
/// again, and ends with its stack. Watched in a browser, where there is one.
#[tokio::test(flavor = "multi_thread")]
async fn the_console_lives_with_its_stack() {
    let world = with_console(&[]).await;
    let mut browser = None;
    if let Some(program) = browser::installed() {
        an_order_is_watched(&world, browser.insert(Browser::start(&program).await)).await;
    } else {
        skipped("no Chromium or Chrome is installed, so no order was watched in the console");
    }
    // A page that Kafka was too slow for makes it degraded until it is asked again.
    eventually("status says that it is ready", || async {
        world.status().await["console"]["state"] == "ready"
    })
    .await;
    what_the_console_has_is_its_own(&world);
    it_says_what_helps_when_it_does_not_answer(&world).await;
    it_comes_back(&world).await;
    let port = world.stack.layout.console_port();
    if let Some(browser) = &mut browser {
        // Nobody is signed in there any more.
        browser.until("document.querySelector('#age').innerText.includes('load the page again')").await;
        browser.visit(&address(&world, &[]).await).await;
        browser
            .until("document.querySelector('#age').innerText.startsWith('Updates by itself. Looked ')")
            .await;
    }
    let supervisor = i32::try_from(world.stack.supervisor_pid()).expect("a pid");
    kill(Pid::from_raw(supervisor), Signal::SIGTERM).expect("it runs");
    eventually("it ends with its stack", || async { TcpStream::connect(("127.0.0.1", port)).is_err() }).await;
    if let Some(browser) = &mut browser {
        // It does not look as if all were well.
        browser
            .until("document.querySelector('#age').innerText.includes('the console does not answer')")
            .await;
    }
}

/// A user of the components, and so whoever takes one over, reads nothing of it. Only root has several users.
fn what_the_console_has_is_its_own(world: &World) {
    if !geteuid().is_root() {
        skipped("only root runs the console as a user of its own, so nobody tried to read what it has");
        return;
    }
    let layout = &world.stack.layout;
    let owner = |component: &str| {
        let process = format!("/proc/{}", world.stack.pid(component).expect("it runs"));
        let process = fs::metadata(process).expect("it runs");
        (process.uid(), process.gid())
    };
    let (console, (uid, gid)) = (owner("console"), owner("order"));
    assert!(console.0 != uid && console.1 != gid && console.0 != 0 && uid != 0, "{console:?} {uid}");
    let can_read = |path: &Path| {
        let mut command = std::process::Command::new("cat");
        let status = command.arg(path).uid(uid).gid(gid).stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.expect("cat runs").success()
    };
    assert!(can_read(&layout.pki_dir().join("order/tls.key")), "its own");
    let process = format!("/proc/{}/environ", world.stack.pid("console").expect("it runs"));
    for secret in [
        layout.pki_dir().join("console/tls.key"),
        layout.pki_dir().join("console/tls.crt"),
        layout.data_dir.join("config/console.toml"),
        process.into(),
    ] {
        assert!(secret.exists() && !can_read(&secret), "{}", secret.display());
    }
    let tickets = fs::metadata(layout.console_tickets_dir()).expect("there");
    assert_eq!((tickets.uid(), tickets.permissions().mode() & 0o777), (console.0, 0o700));
}

/// Nobody is given an address at which nobody answers.
async fn it_says_what_helps_when_it_does_not_answer(world: &World) {
    world.apply(Fault::Stall, "console");
    let output = run(world, &[]).await;
    world.heal(Fault::Stall, "console");
    let talk = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && output.stdout.is_empty(), "{talk}");
    assert!(talk.contains("`holdfast restart console --data-dir"), "{talk}");
    eventually("it answers again", || world.is_well("console")).await;
}

/// Killed, it is started again; who was signed in has to sign in again, and nothing has a ticket but the one who asked for it.
async fn it_comes_back(world: &World) {
    let base = format!("http://127.0.0.1:{}", world.stack.layout.console_port());
    let (url, cookie) = world.signed_in().await;
    let page = world.console_page(&base, &cookie).await;
    let text = String::from_utf8_lossy(&page.body).into_owned();
    assert!(page.status == 200 && text.contains("read-only"), "{text}");
    assert_eq!(world.console_page(&url, "").await.status, 401, "an address works once");

    world.restart("console").await;
    eventually("it serves again", || world.is_well("console")).await;
    assert_eq!(world.console_page(&base, &cookie).await.status, 401);
    let (again, cookie) = world.signed_in().await;
    assert_eq!(world.console_page(&base, &cookie).await.status, 200);
    assert!(world.status().await["console"]["restarts"].as_u64() > Some(0));
    let log = fs::read_to_string(world.stack.layout.log_file("console")).expect("there");
    assert!(log.contains("an operator has signed in"), "{log}");
    for url in [url, again] {
        let (_, ticket) = url.split_once("ticket=").expect("there");
        assert!(!log.contains(ticket), "a ticket is in the log");
    }
}

/// The page of an order changes by itself as its order goes on, keeps the focus of its reader, says who can't be asked, and its age.
async fn an_order_is_watched(world: &World, browser: &mut Browser) {
    let session = world.user("watched", "10.00").await;
    browser.visit(&address(world, &[]).await).await;
    // Those who would go on with it stand still.
    for service in ["payment", "delivery"] {
        world.apply(Fault::Stall, service);
    }
    let order = id(&world.create(&session, "1 Quay Street", 300).await);
    browser.visit(&format!("http://127.0.0.1:{}/orders/{order}", world.stack.layout.console_port())).await;
    browser.evaluate("void (window.watched = true)").await;
    let expected = "Nothing is known to be missing, but not every service could be asked.";
    until_shown(browser, 1, expected).await;
    browser.until("document.querySelector('#age').innerText.startsWith('Updates by itself. Looked ')").await;
    let away = text_of(browser, "#live .notice").await;
    assert!(
        away.contains("payment cannot be reached") && away.contains("delivery cannot be reached"),
        "{away}"
    );
    browser.evaluate("document.querySelector('[aria-label=Timeline]').focus()").await;

    world.heal(Fault::Stall, "payment");
    // Paid, which order has seen; delivery can't say anything.
    until_shown(browser, 2, expected).await;
    assert_eq!(session.order(&order).await.expect("answered")["status"], "PAID");
    world.heal(Fault::Stall, "delivery");
    // With each step of its delivery.
    for events in 3..=6 {
        let shown = format!(
            "window.watched === true && document.querySelectorAll('#timeline tbody tr').length >= {events}"
        );
        browser.until(&shown).await;
    }
    until_shown(browser, 6, "Every event that was written was handled.").await;
    assert_eq!(browser.evaluate("document.activeElement.getAttribute('aria-label')").await, "Timeline");
    assert_eq!(browser.evaluate("document.querySelectorAll('#live .notice').length").await, 0);

    its_messages_are_found(browser, world, &order).await;
    what_a_stranger_sends_is_shown(browser, world).await;
    nothing_is_left_at_the_broker(browser, world).await;
    a_broker_that_stands_still_takes_no_page_with_it(browser, world).await;
    // For what comes after it: a page that updates by itself.
    browser.visit(&format!("http://127.0.0.1:{}/orders/{order}", world.stack.layout.console_port())).await;
    browser.until("document.querySelector('#age').innerText.startsWith('Updates by itself. Looked ')").await;
}

/// Opens a page again and again until an expression in it is true: a reader of topics may have had no time.
async fn visit_until(browser: &mut Browser, world: &World, path: &str, expression: &str) {
    let url = format!("http://127.0.0.1:{}{path}", world.stack.layout.console_port());
    let browser = tokio::sync::Mutex::new(browser);
    eventually(&format!("{path}: {expression}"), || async {
        let mut browser = browser.lock().await;
        browser.visit(&url).await;
        browser.evaluate(expression).await == true
    })
    .await;
}

/// The events of an order that was delivered, in their order; by its key, too, which is looked for where its writer puts it.
async fn its_messages_are_found(browser: &mut Browser, world: &World, order: &str) {
    browser.press(".do a[href$='/messages']").await;
    let events = ["order.created", "payment.completed"].into_iter();
    let events: Vec<&str> = events.chain(["delivery.status.updated"; 4]).collect();
    let shown = format!(
        "JSON.stringify([...document.querySelectorAll('#messages tbody th a')].map(a => a.innerText.split(' ')[0])) === {}",
        json!(json!(events).to_string())
    );
    visit_until(browser, world, &format!("/orders/{order}/messages"), &shown).await;
    let said = text_of(browser, "#said").await;
    // One of each event topic and of each dead-letter topic.
    assert!(said.contains(" records of 10 partitions ") && said.ends_with(": 6 match."), "{said}");
    let key = text_of(browser, "#messages tbody td:nth-child(3)").await;
    assert!(key.starts_with("watched-"), "{key}");

    browser.press("#messages tbody th a").await;
    let message = text_of(browser, "main").await;
    assert!(message.contains(&format!("\"orderId\": \"{order}\"")), "{message}");
    assert!(message.contains("1 Quay Street") && message.contains(&format!("Order {order}")), "{message}");

    let path = format!("/topics/order.created?key={key}");
    visit_until(browser, world, &path, "document.querySelectorAll('#messages tbody tr').length === 1").await;
    let said = text_of(browser, "#said").await;
    assert!(said.contains(" of 1 partition for the key: 1 match"), "{said}");
    let path = format!("/topics/delivery.status.updated?order={order}");
    visit_until(browser, world, &path, "document.querySelectorAll('#messages tbody tr').length === 4").await;
}

/// Whoever watches a topic sees what arrives by itself. What is no event is shown as bytes, its text is text, and its copy leads to
/// its letter.
async fn what_a_stranger_sends_is_shown(browser: &mut Browser, world: &World) {
    const KEY: &str = "<script>document.title = 'x'</script>\u{202e}";
    visit_until(browser, world, "/topics/order.created", "document.querySelector('#messages') !== null")
        .await;
    browser.evaluate("void (window.watched = true)").await;
    send_created(&world.producer(), KEY, &Uuid::now_v7().to_string(), b"\xff\xfe").await;
    let row = "window.watched === true && document.querySelector('#messages tbody tr').innerText.includes('0xfffe')";
    browser.until(row).await;
    let shown = text_of(browser, "#messages tbody td:nth-child(3)").await;
    assert_eq!(shown, "<script>document.title = 'x'</script>\\u202e");
    let copied = "document.querySelector('#messages a[aria-label^=\"Letter of\"]') !== null";
    visit_until(browser, world, "/topics/order.created.payment.dlq", copied).await;
    assert!(text_of(browser, "#messages").await.contains("0xfffe"));
    assert_eq!(browser.evaluate("document.title").await, "Messages · Holdfast");
    browser.press("#messages a[aria-label^='Letter of']").await;
    assert_eq!(text_of(browser, "#state").await, "parked");
    browser.press("dd a[href^='/topics/']").await;
    assert!(text_of(browser, "main").await.contains("Its value is no event of this topic, 2 bytes"));
    assert_eq!(browser.evaluate("document.querySelector('.hex').textContent").await, "fffe");
}

/// Looking leaves no group, and makes no topic.
async fn nothing_is_left_at_the_broker(browser: &mut Browser, world: &World) {
    let base = format!("http://127.0.0.1:{}", world.stack.layout.console_port());
    browser.visit(&format!("{base}/topics/not.there")).await;
    assert_eq!(text_of(browser, "h1").await, "Not there");
    let client = topics::client(&world.stack.layout).expect("a client");
    let metadata = client.fetch_metadata(None, PATIENCE).expect("answered");
    assert!(metadata.topics().iter().all(|topic| topic.name() != "not.there"));
    let groups = client.client().fetch_group_list(None, PATIENCE).expect("answered");
    let mut names: Vec<&str> = groups.groups().iter().map(GroupInfo::name).collect();
    names.sort_unstable();
    assert_eq!(names, ["delivery", "order", "payment"]);
}

/// A page about topics says that the broker does not answer; everything else is there meanwhile, and so are they afterwards.
async fn a_broker_that_stands_still_takes_no_page_with_it(browser: &mut Browser, world: &World) {
    let topics = "[...document.querySelectorAll('#topics tbody th')].some(topic => topic.innerText === 'order.created')";
    visit_until(browser, world, "/topics", topics).await;
    let shown = text_of(browser, "#topics").await;
    assert!(shown.contains("events of order payment 4"), "{shown}");
    assert!(shown.contains("1 of 1 7d") && shown.contains("1 of 1 30d"), "{shown}");
    let base = format!("http://127.0.0.1:{}", world.stack.layout.console_port());
    world.apply(Fault::Stall, "kafka");
    for path in ["/topics", "/topics/order.created", &format!("/orders/{}/messages", Uuid::now_v7())] {
        browser.visit(&format!("{base}{path}")).await;
        let notice = text_of(browser, "[aria-label='Not asked']").await;
        assert!(notice.contains("Kafka"), "{path}: {notice}");
    }
    browser.visit(&format!("{base}/groups")).await;
    assert_eq!(text_of(browser, "h1").await, "Consumer groups");
    assert_eq!(browser.evaluate("document.querySelectorAll('[aria-label=\"Not asked\"]').length").await, 0);
    world.heal(Fault::Stall, "kafka");
    visit_until(browser, world, "/topics", topics).await;
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

/// All pages; the last one is that of the components.
fn pages(order: &str, letter: &str) -> Vec<String> {
    let fixed = [
        "/",
        "/stuck?older=0s",
        "/reconcile?older=0s",
        "/letters",
        "/letters/list?state=all&since=24h",
        "/desk?action=redrive&service=payment&class=decode",
        "/groups",
        "/groups/resume?service=payment",
        "/redrives",
        "/topics",
        "/topics/order.created",
        "/topics/order.created.payment.dlq?partition=2&offset=0",
        // Where `stranger` is sent.
        "/topics/order.created/2/0",
        "/outbox",
        "/audit?since=24h",
    ];
    let of_order = ["", "/messages"].map(|page| format!("/orders/{order}{page}"));
    let lost = ["", "/reemit"].map(|page| format!("/reconcile{page}?order={order}"));
    let of_letter = ["", "/edit", "/revert"].map(|page| format!("/letters/{letter}{page}"));
    let fixed = fixed.map(str::to_owned).into_iter();
    fixed.chain(of_letter).chain(of_order).chain(lost).chain(["/components".to_owned()]).collect()
}

/// The text of axe-core, if it can be had here.
fn axe() -> Option<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/axe.sh");
    let output = std::process::Command::new(script).output().expect("bash runs");
    if output.status.code() == Some(77) {
        skipped(
            "axe-core can't be had here, so nobody looked whether the console's pages are open to everybody",
        );
        return None;
    }
    assert!(output.status.success(), "{output:?}");
    let path = String::from_utf8(output.stdout).expect("text");
    Some(fs::read_to_string(path.trim()).expect("readable"))
}

/// axe-core finds nothing that keeps people out of a page, whether they like it light or dark.
async fn is_open_to_everybody(browser: &mut Browser, axe: &str) {
    for scheme in ["light", "dark"] {
        browser.show_as(1280, scheme).await;
        browser.evaluate(&format!("{axe}; void 0")).await;
        let findings = browser
            .evaluate(
                "axe.run(document, {resultTypes: ['violations']}).then(({violations, passes}) => JSON.stringify({
                    passes: passes.length, violations: violations.map(({id, nodes}) => [id, nodes.map(({html}) => html)])}))",
            )
            .await;
        let findings: Value = serde_json::from_str(findings.as_str().expect("text")).expect("JSON");
        let page = browser.evaluate("location.pathname").await;
        assert!(findings["passes"].as_u64() > Some(10), "it has looked: {findings}");
        assert_eq!(findings["violations"], json!([]), "{page}, {scheme}");
    }
    browser.show_as(1280, "light").await;
}

/// The focus of the keyboard is seen wherever it goes.
async fn shows_its_focus(browser: &mut Browser) {
    let mut reached = 0;
    for _ in 0..10 {
        browser.tab().await;
        if browser.evaluate("document.activeElement !== document.body").await == true {
            reached += 1;
        }
        let seen = "(() => { const {outlineStyle, outlineWidth} = getComputedStyle(document.activeElement);
            return document.activeElement === document.body || (outlineStyle !== 'none' && parseFloat(outlineWidth) >= 2); })()";
        let what = browser.evaluate("document.activeElement.outerHTML.slice(0, 200)").await;
        assert_eq!(browser.evaluate(seen).await, true, "{what}");
    }
    assert!(reached > 1, "nothing can be reached");
}

/// Each page is there, is open to everybody in light and dark, asks nobody else for anything, and has nothing to complain about.
async fn every_page_is_well(browser: &mut Browser, world: &World, order: &str, letter: &str) {
    let base = format!("http://127.0.0.1:{}", world.stack.layout.console_port());
    let axe = axe();
    for path in pages(order, letter) {
        browser.visit(&format!("{base}{path}")).await;
        let missing =
            browser.evaluate("document.querySelectorAll('[aria-label=\"Not asked\"]').length").await;
        assert_eq!(missing, 0, "{path}: {}", text_of(browser, "main").await);
        assert_eq!(browser.statuses(&format!("{base}{path}")).last(), Some(&200), "{path}");
        fits_a_small_screen(browser).await;
        if let Some(axe) = &axe {
            is_open_to_everybody(browser, axe).await;
        }
        shows_its_focus(browser).await;
    }
    let components = text_of(browser, "main").await;
    for service in ["gateway: ready", "order: ready", "payment: ready", "delivery: ready"] {
        assert!(components.contains(service), "{components}");
    }
    assert!(components.contains("Retries to Left Allowed in 10 s"), "{components}");
    picture(browser, "console-components.png").await;
    let foreign: Vec<String> =
        browser.requested().into_iter().filter(|url| !url.starts_with(&base)).collect();
    assert!(foreign.is_empty(), "it asks others: {foreign:?}");
    let complaints = browser.complaints();
    assert!(complaints.is_empty(), "{complaints:#?}");
}

/// The address works once; another one is printed for whoever may. Who was let in to look changes nothing.
async fn nobody_else_is_let_in(browser: &mut Browser, world: &World, used: &str) {
    browser.visit(used).await;
    assert_eq!(text_of(browser, "h1").await, "Not signed in");
    let reader = address(world, &[]).await;
    assert!(reader.len() == used.len() && reader != used, "{reader}");
    browser.visit(&reader).await;
    assert_eq!(text_of(browser, ".who").await, "tester · read-only");
    let write = "fetch('/desk', {method: 'POST', body: new URLSearchParams()}).then(answer => answer.status)";
    assert_eq!(browser.evaluate(write).await, 403);
}
