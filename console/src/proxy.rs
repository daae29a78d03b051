//! Sign-in by a proxy in front of the console: it says in headers who somebody is, and shows a secret that only it and the console
//! know. Nobody is believed without it, so that whoever reaches the port past the proxy can't say who they are.

use axum::http::{HeaderMap, HeaderName, Uri, header, uri::Scheme};
use holdfast_common::error::BoxError;
use holdfast_operator::ticket::{Author, May, check_author, digest_of};
use secrecy::ExposeSecret as _;

use crate::{config::ProxyConfig, session::Session};

const SECRET_CHARACTERS_MIN: usize = 32;

/// See the module.
#[derive(Debug)]
pub(crate) struct Proxy {
    origin: String,
    host: String,
    secret_header: HeaderName,
    /// Digests are compared: how long that takes tells nothing of the secret.
    secret: String,
    user_header: HeaderName,
    groups_header: Option<HeaderName>,
    writers: Vec<String>,
}

impl Proxy {
    /// An error says which setting is wrong.
    pub(crate) fn new(config: &ProxyConfig) -> Result<Self, BoxError> {
        let name = |setting: &str, name: &str| {
            let name: Result<HeaderName, _> = name.parse();
            let name = name.ok().filter(|name| *name != header::COOKIE && *name != header::HOST);
            name.ok_or_else(|| format!("console.proxy.{setting} must be the name of a header of the proxy"))
        };
        let secret = config.secret.expose_secret();
        if secret.chars().count() < SECRET_CHARACTERS_MIN {
            return Err(format!(
                "console.proxy.secret must have {SECRET_CHARACTERS_MIN} characters at least"
            )
            .into());
        }
        if !config.writers.is_empty() && config.groups_header.is_none() {
            return Err("console.proxy.writers are groups, and need console.proxy.groups_header".into());
        }
        if config
            .writers
            .iter()
            .any(|writer| writer.is_empty() || writer.contains(',') || writer.trim() != writer)
        {
            return Err("console.proxy.writers: a group must have a name, without commas and without spaces around it".into());
        }
        if config.user_header.eq_ignore_ascii_case(&config.secret_header) {
            return Err("console.proxy.user_header must not be the header with the secret, which the audit would show".into());
        }
        let groups_header = config.groups_header.as_deref().map(|header| name("groups_header", header));
        Ok(Self {
            host: host_of(&config.origin)?,
            origin: config.origin.clone(),
            secret_header: name("secret_header", &config.secret_header)?,
            secret: digest_of(secret),
            user_header: name("user_header", &config.user_header)?,
            groups_header: groups_header.transpose()?,
            writers: config.writers.clone(),
        })
    }

    /// `Origin`, as browsers send it.
    pub(crate) fn origin(&self) -> &str {
        &self.origin
    }

    /// `Host`, likewise.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Who has sent a request. The error is for whoever set the proxy up.
    pub(crate) fn session(&self, headers: &HeaderMap) -> Result<Session, &'static str> {
        let secret = only(headers, &self.secret_header);
        if secret.map(digest_of).as_ref() != Some(&self.secret) {
            return Err("the proxy did not show its secret (console.proxy.secret)");
        }
        let author = only(headers, &self.user_header).unwrap_or_default();
        if check_author(author).is_err() {
            return Err(
                "the proxy did not say who you are (console.proxy.user_header), or with more than 64 characters",
            );
        }
        Ok(Session { author: Author { name: author.to_owned(), may: self.may(headers) } })
    }

    /// What the groups of whoever has sent a request may do.
    fn may(&self, headers: &HeaderMap) -> May {
        let Some(name) = self.groups_header.as_ref().filter(|_| !self.writers.is_empty()) else {
            return May::Change;
        };
        let mut groups = only(headers, name).unwrap_or_default().split(',').map(str::trim);
        if groups.any(|group| self.writers.iter().any(|writer| writer == group)) {
            May::Change
        } else {
            May::Look
        }
    }
}

/// The value of a header that is there once: of two, one may have been slipped past the proxy.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    // Names that are not ASCII come as UTF-8.
    std::str::from_utf8(value.as_bytes()).ok()
}

fn host_of(origin: &str) -> Result<String, BoxError> {
    let uri: Option<Uri> = origin.parse().ok();
    let uri = uri.filter(|uri| uri.scheme() == Some(&Scheme::HTTPS));
    let host = uri.as_ref().and_then(Uri::authority).map(ToString::to_string);
    // As browsers write it, who compare with nothing else: small letters, and no port that is the default.
    let is_written_so = |host: &String| {
        origin == format!("https://{}", host.to_ascii_lowercase())
            && !host.contains('@')
            && !host.ends_with(":443")
    };
    host.filter(is_written_so).ok_or_else(|| {
        format!(
            "console.proxy.origin: {origin:?} is not an origin as browsers send it, such as https://console.example.org"
        )
        .into()
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use axum::http::HeaderValue;

    use super::*;

    pub(crate) const SECRET: &str = "0123456789abcdef0123456789abcdef";

    /// The settings of a proxy.
    pub(crate) fn config() -> ProxyConfig {
        ProxyConfig {
            origin: "https://console.example.org".to_owned(),
            secret_header: "x-console-secret".to_owned(),
            secret: SECRET.into(),
            user_header: "x-forwarded-email".to_owned(),
            groups_header: Some("x-forwarded-groups".to_owned()),
            writers: vec!["operators".to_owned()],
        }
    }

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_str(value).expect("text"));
        }
        headers
    }

    /// Who comes with the secret is whom the proxy says, and changes something as a member of a group of writers only.
    #[test]
    fn the_proxy_says_who_it_is() {
        let proxy = Proxy::new(&config()).expect("it is right");
        for (groups, may_write) in [
            ("operators", true),
            ("staff, operators", true),
            ("staff", false),
            ("operators2", false),
            ("", false),
        ] {
            let sent = [
                ("x-console-secret", SECRET),
                ("x-forwarded-email", "alice@example.org"),
                ("x-forwarded-groups", groups),
            ];
            let may = if may_write { May::Change } else { May::Look };
            let expected = Session { author: Author { name: "alice@example.org".to_owned(), may } };
            assert_eq!(proxy.session(&headers(&sent)), Ok(expected), "{groups:?}");
        }
    }

    /// Of two lines with groups one may have been slipped past the proxy: neither counts.
    #[test]
    fn groups_that_come_twice_are_none() {
        let proxy = Proxy::new(&config()).expect("it is right");
        let sent = [
            ("x-console-secret", SECRET),
            ("x-forwarded-email", "alice@example.org"),
            ("x-forwarded-groups", "staff"),
            ("x-forwarded-groups", "operators"),
        ];
        let session = proxy.session(&headers(&sent)).expect("signed in");
        assert_eq!(session.author.may, May::Look);
    }

    /// Without the secret, or with two values of what must be one, nobody is believed.
    #[test]
    fn nobody_is_believed_past_the_proxy() {
        let proxy = Proxy::new(&config()).expect("it is right");
        let (secret, user) = (("x-console-secret", SECRET), ("x-forwarded-email", "alice@example.org"));
        let long = "a".repeat(65);
        for sent in [
            vec![],
            vec![user],
            vec![user, ("x-console-secret", "")],
            vec![user, ("x-console-secret", "0123456789abcdef0123456789abcdeF")],
            vec![user, secret, secret],
            vec![secret],
            vec![secret, ("x-forwarded-email", "")],
            vec![secret, user, ("x-forwarded-email", "mallory@example.org")],
            vec![secret, ("x-forwarded-email", &long)],
        ] {
            assert!(proxy.session(&headers(&sent)).is_err(), "{sent:?}");
        }
    }

    /// Settings that would let in whom nobody meant are refused, by their name.
    #[test]
    fn a_wrong_setting_is_named() {
        type Change = fn(&mut ProxyConfig);
        let cases: [(Change, &str); 14] = [
            (|config| config.origin = "http://console.example.org".to_owned(), "console.proxy.origin"),
            (|config| config.origin = "https://console.example.org/".to_owned(), "console.proxy.origin"),
            (|config| config.origin = "https://a@console.example.org".to_owned(), "console.proxy.origin"),
            (|config| config.origin = "console.example.org".to_owned(), "console.proxy.origin"),
            (|config| config.origin = "https://Console.example.org".to_owned(), "console.proxy.origin"),
            (|config| config.origin = "https://console.example.org:443".to_owned(), "console.proxy.origin"),
            (|config| config.writers.push(String::new()), "console.proxy.writers"),
            (|config| config.writers.push("a,b".to_owned()), "console.proxy.writers"),
            (|config| config.user_header = "X-Console-Secret".to_owned(), "console.proxy.user_header"),
            (|config| config.secret = "short".into(), "console.proxy.secret"),
            (|config| config.secret_header = String::new(), "console.proxy.secret_header"),
            (|config| config.user_header = "cookie".to_owned(), "console.proxy.user_header"),
            (|config| config.groups_header = Some("a b".to_owned()), "console.proxy.groups_header"),
            (|config| config.groups_header = None, "console.proxy.groups_header"),
        ];
        for (change, named) in cases {
            let mut config = config();
            change(&mut config);
            let error = Proxy::new(&config).expect_err(named).to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
