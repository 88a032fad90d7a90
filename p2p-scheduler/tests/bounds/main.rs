//! What somebody may make a process hold: driven to the bound, with the memory of a process of its own measured.

mod board;
mod links;
mod memory;
mod output;
mod tasks;

use std::time::Duration;

/// A test that hangs fails with words instead.
fn run<T>(test: impl Future<Output = T>) -> T {
    async_std::task::block_on(async {
        async_std::future::timeout(Duration::from_secs(120), test).await.expect("the test hangs")
    })
}
