//! The links of a stack: each has a proxy, and is called `<client>-><server>`, as `gateway->order-2`.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result, bail};

use holdfast_native::link::Link;

use super::network::{Condition, Counters, Proxy};

/// All links of a stack that was started with `holdfast up --links`. They end when this is dropped.
///
/// Links are selected by a pattern: a name, in which `*` stands for anything, so `*->kafka`, `gateway->*`, `gateway->order*`.
#[derive(Debug)]
pub struct Links(Vec<(String, Proxy)>);

impl Links {
    /// Starts a proxy for each link. An error names the link whose port can't be used.
    pub async fn start(links: impl IntoIterator<Item = Link>) -> Result<Self> {
        let mut proxies = Vec::new();
        for link in links {
            let name = link.name();
            let [listen, target] =
                [link.listen, link.target].map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
            let proxy = Proxy::bind(listen, target).await;
            let proxy = proxy.with_context(|| format!("cannot listen on {listen} for the link {name}"))?;
            proxies.push((name, proxy));
        }
        Ok(Self(proxies))
    }

    /// Names of all links.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// Sets the condition of the links that `pattern` selects, and returns their names. An error if there are none.
    pub fn set(&self, pattern: &str, condition: Condition) -> Result<Vec<&str>> {
        let selected = self.select(pattern)?;
        for (_, proxy) in &selected {
            proxy.set(condition);
        }
        Ok(selected.into_iter().map(|(name, _)| name).collect())
    }

    /// Breaks the links that `pattern` selects until what is returned is dropped, whatever ends its owner.
    pub fn break_for_now<'a>(&'a self, pattern: &'a str, condition: Condition) -> Result<Broken<'a>> {
        let names = self.set(pattern, condition)?;
        Ok(Broken { links: self, pattern, names })
    }

    /// [`Links::set`] for the links from one component to another; each may have a `*`.
    pub fn between(&self, from: &str, to: &str, condition: Condition) -> Result<Vec<&str>> {
        self.set(&format!("{from}->{to}"), condition)
    }

    /// Heals all links.
    pub fn clear(&self) {
        for (_, proxy) in &self.0 {
            proxy.set(Condition::Clear);
        }
    }

    /// What the proxies of the selected links have done since their start, in all. An error if there are none.
    pub fn counters(&self, pattern: &str) -> Result<Counters> {
        Ok(self.select(pattern)?.into_iter().map(|(_, proxy)| proxy.counters()).sum())
    }

    fn select(&self, pattern: &str) -> Result<Vec<(&str, &Proxy)>> {
        let named = self.0.iter().map(|(name, proxy)| (name.as_str(), proxy));
        let selected: Vec<_> = named.filter(|(name, _)| matches(pattern, name)).collect();
        if selected.is_empty() {
            let names = self.names().collect::<Vec<_>>().join(", ");
            bail!("no link is called {pattern:?}; there are {names}");
        }
        Ok(selected)
    }
}

/// Links that are broken, and are healed when this is dropped.
#[derive(Debug)]
pub struct Broken<'a> {
    links: &'a Links,
    pattern: &'a str,
    /// Their names.
    pub names: Vec<&'a str>,
}

impl Drop for Broken<'_> {
    fn drop(&mut self) {
        // They were there when it was made, and still are.
        let _ = self.links.set(self.pattern, Condition::Clear);
    }
}

/// Whether `name` is `pattern`, in which `*` stands for any text.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let Some((before, behind)) = pattern.split_once('*') else { return pattern == name };
    let Some(rest) = name.strip_prefix(before) else { return false };
    let ends = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
    ends.into_iter().any(|at| matches(behind, &rest[at..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `*` stands for any text, also for none, and nothing else does.
    #[test]
    fn a_pattern_selects_by_name() {
        for (pattern, name, selects) in [
            ("order->kafka", "order->kafka", true),
            ("order->kafka", "order-2->kafka", false),
            ("order*->kafka", "order-2->kafka", true),
            ("order*->kafka", "order->kafka", true),
            ("*->kafka", "payment->kafka", true),
            ("*->kafka", "payment->payments-db", false),
            ("gateway->*", "gateway->order-2", true),
            ("*->*-db", "order->orders-db", true),
            ("*->*-db", "order->kafka", false),
            ("*", "order->kafka", true),
            ("", "order->kafka", false),
            ("kafka", "order->kafka", false),
        ] {
            assert_eq!(matches(pattern, name), selects, "{pattern} {name}");
        }
    }

    /// A condition is set where it was asked for; a pattern that selects nothing is an error that says what there is.
    #[tokio::test]
    async fn conditions_are_set_where_they_were_asked_for() {
        let link =
            |from: &str, to: &str| Link { from: from.to_owned(), to: to.to_owned(), listen: 0, target: 1 };
        let links =
            Links::start([link("order", "kafka"), link("payment", "kafka"), link("gateway", "order")]);
        let links = links.await.expect("started");
        let black = |links: &Links| {
            let black = links.0.iter().filter(|(_, proxy)| proxy.condition() == Condition::BlackHole);
            black.map(|(name, _)| name.clone()).collect::<Vec<_>>()
        };
        let kafka = ["order->kafka", "payment->kafka"];
        assert_eq!(links.between("*", "kafka", Condition::BlackHole).expect("some"), kafka);
        assert_eq!(black(&links), kafka);
        links.clear();
        assert!(black(&links).is_empty());
        let broken = links.break_for_now("*->kafka", Condition::BlackHole).expect("some");
        assert_eq!(broken.names, kafka);
        assert_eq!(black(&links), kafka);
        drop(broken);
        assert!(black(&links).is_empty());
        for wrong in ["", "order", "order->order"] {
            let error = links.set(wrong, Condition::BlackHole).expect_err(wrong).to_string();
            assert!(error.contains("gateway->order"), "{error}");
            assert!(links.counters(wrong).is_err());
        }
        assert!(black(&links).is_empty());
    }
}
