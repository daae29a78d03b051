//! How long a call takes and how it ends, whoever ends it.

use std::time::{Duration, Instant};

use tonic::Code;

/// Tells `record` the code and the time of a call: when it is answered, or when whoever called has gone.
pub(crate) struct CallTimer<R: FnMut(Code, Duration)> {
    begun: Instant,
    code: Code,
    record: R,
}

impl<R: FnMut(Code, Duration)> CallTimer<R> {
    pub(crate) fn start(record: R) -> Self {
        Self { begun: Instant::now(), code: Code::Cancelled, record }
    }

    /// Waits for the answer, which says the code.
    pub(crate) async fn until<A>(
        mut self,
        answer: impl Future<Output = A>,
        code_of: impl FnOnce(&A) -> Code,
    ) -> A {
        let answer = answer.await;
        self.code = code_of(&answer);
        answer
    }
}

impl<R: FnMut(Code, Duration)> Drop for CallTimer<R> {
    fn drop(&mut self) {
        (self.record)(self.code, self.begun.elapsed());
    }
}
