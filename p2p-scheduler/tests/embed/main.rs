//! The drivers on in-memory transports: what an embedding program sees. Nothing here depends on speed.

mod faults;
mod functions;

use std::time::Duration;

use p2p_scheduler::Outcome;

/// A test that hangs fails with words instead.
fn run<T>(test: impl Future<Output = T>) -> T {
    async_std::task::block_on(async {
        async_std::future::timeout(Duration::from_secs(60), test).await.expect("the test hangs")
    })
}

fn value(outcome: &Outcome) -> Vec<u8> {
    match outcome {
        Outcome::Finished { finished, .. } => match &finished.value {
            p2p_proto::task::Content::Inline(bytes) if outcome.is_success() => bytes.clone(),
            _ => panic!("{outcome:?}"),
        },
        _ => panic!("{outcome:?}"),
    }
}
