//! The trace that the current work belongs to, for the lines that it logs.

use super::context::TraceContext;

tokio::task_local! {
    static CURRENT: TraceContext;
}

/// Does `work` as part of a trace: what it logs has `trace_id` and `span_id`.
pub async fn within<F: Future>(context: Option<TraceContext>, work: F) -> F::Output {
    match context {
        Some(context) => CURRENT.scope(context, work).await,
        None => work.await,
    }
}

/// The same for work that does not wait.
pub fn during<T>(context: Option<TraceContext>, work: impl FnOnce() -> T) -> T {
    match context {
        Some(context) => CURRENT.sync_scope(context, work),
        None => work(),
    }
}

/// The context of the current work. A task that it spawns does not have it by itself.
#[must_use]
pub fn current() -> Option<TraceContext> {
    CURRENT.try_with(|context| *context).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Work knows its trace, also after it has waited, and inner work its own.
    #[tokio::test]
    async fn work_knows_its_trace() {
        let (outer, inner) = (TraceContext::begin(true), TraceContext::begin(false));
        within(Some(outer), async {
            tokio::task::yield_now().await;
            assert_eq!(current(), Some(outer));
            during(Some(inner), || assert_eq!(current(), Some(inner)));
            during(None, || assert_eq!(current(), Some(outer)));
            assert_eq!(tokio::spawn(async { current() }).await.expect("no panic"), None);
        })
        .await;
        assert_eq!(current(), None);
    }
}
