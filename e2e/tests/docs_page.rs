//! The page at `/docs`, in a real browser: everything on it works, with what the gateway itself serves, and nothing else.

use std::env;

use holdfast_e2e::{
    World,
    browser::{self, Browser},
    openapi::Document,
    skipped,
};
use serde_json::json;

/// See the file. Skipped where there is no browser.
#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_all_operations_and_tries_them() {
    let Some(program) = browser::installed() else {
        skipped("no Chromium or Chrome is installed, so the page at /docs was not opened");
        return;
    };
    let world = World::patient();
    let user = world.user("reader", "12.34").await;
    let base_url = world.rest.base_url();
    let mut browser = Browser::start(&program).await;
    browser.open(&format!("{base_url}/docs")).await;

    let document = Document::fetch(&world.rest).await;
    let count = document.operations().len();
    browser.until(&format!("document.querySelectorAll('.opblock').length === {count}")).await;
    for operation in document.operations() {
        let shown = format!(
            "document.querySelector('[id$=\"-{}\"]')?.textContent.includes('{}')",
            operation.id(),
            operation.method()
        );
        assert_eq!(browser.evaluate(&shown).await, true, "{}", operation.id());
    }

    authorize(&mut browser, &user.token).await;
    try_reading_the_account(&mut browser, &user.user).await;
    let url = format!("{base_url}/api/accounts/{}", user.user);
    assert_eq!(browser.statuses(&url), [200]);
    assert_eq!(browser.evaluate("document.querySelector('.live-responses-table .response .microlight').textContent.includes('12.34')").await, true);

    if let Some(file) = env::var_os("DOCS_PAGE_PICTURE") {
        browser.screenshot(file.as_ref()).await;
    }
    let (own, foreign): (Vec<_>, Vec<_>) = browser
        .requested()
        .into_iter()
        .partition(|url| url.starts_with(base_url) || url.starts_with("data:"));
    assert!(own.contains(&url), "{own:?}");
    assert!(foreign.is_empty(), "it asks others: {foreign:?}");
    // One complaint of our own, to see that they are heard.
    browser.evaluate("console.error('heard')").await;
    let complaints = browser.complaints();
    assert!(matches!(complaints.as_slice(), [only] if only.contains("heard")), "{complaints:#?}");
}

/// Gives the page a token, as a reader does.
async fn authorize(browser: &mut Browser, token: &str) {
    browser.evaluate("document.querySelector('.auth-wrapper .authorize').click()").await;
    browser.until("document.querySelector('.modal-ux input') !== null").await;
    write_into(browser, ".modal-ux input", token).await;
    browser.evaluate("document.querySelector('.modal-ux button.authorize').click()").await;
    browser.until("document.querySelector('.modal-ux').textContent.includes('Authorized')").await;
    browser.evaluate("document.querySelector('.modal-ux .close-modal').click()").await;
}

/// Opens an operation and sends its request.
async fn try_reading_the_account(browser: &mut Browser, user: &str) {
    browser
        .evaluate("document.querySelector('[id$=\"-readAccount\"] .opblock-summary-control').click()")
        .await;
    browser.until("document.querySelector('[id$=\"-readAccount\"] input') !== null").await;
    write_into(browser, "[id$=\"-readAccount\"] input", user).await;
    browser.evaluate("document.querySelector('[id$=\"-readAccount\"] button.execute').click()").await;
    browser.until("document.querySelector('.live-responses-table .response .response-col_status')?.textContent.startsWith('200')").await;
}

/// Writes into a field so that the page's own code notices.
async fn write_into(browser: &mut Browser, selector: &str, text: &str) {
    let (selector, text) = (json!(selector), json!(text));
    let script = format!(
        "(() => {{ const field = document.querySelector({selector});
            Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set.call(field, {text});
            field.dispatchEvent(new Event('input', {{bubbles: true}}));
            field.dispatchEvent(new Event('change', {{bubbles: true}}));
            field.dispatchEvent(new FocusEvent('focusout', {{bubbles: true}})); return true; }})()"
    );
    assert_eq!(browser.evaluate(&script).await, true);
}
